"""Text encoders beyond what the bases' own tests say of them: the memory, and CLIP's tokenizer from the package."""

import pytest
import torch
from torch import nn

from sunlab.backbones.sd.tokenizer import clip_tokenizer
from sunlab.backbones.text import TextEncoder
from sunlab.types import Conditioning


class Counting(TextEncoder):
    """Tokens (B, 2, 3) and a pooled part (B, 4) made of the prompt's length, one MiB being the smallest memory."""

    def __init__(self, width=3):
        super().__init__(memory=1)
        self.model, self.width, self.asked = nn.Identity(), width, []

    def save(self, folder, *, dtype):
        raise NotImplementedError

    def forward(self, prompts):
        self.asked += prompts
        length = torch.tensor([float(len(p)) for p in prompts])
        added = {"time_ids": length[:, None].expand(-1, 6)}
        return Conditioning(length[:, None, None].expand(-1, 2, self.width), length[:, None].expand(-1, 4), added)


def test_each_prompt_is_encoded_once_and_comes_back_with_all_its_parts():
    text = Counting()
    given = text.remembered(["a", "bbb", "a"])
    assert text.asked == ["a", "bbb"]
    again = text.remembered(["bbb", "cc"])
    assert text.asked == ["a", "bbb", "cc"]
    assert (
        given.tokens[:, 0, 0].tolist() == given.pooled[:, 0].tolist() == given.added["time_ids"][:, 5].tolist() == [1, 3, 1]
    )
    assert again.tokens.shape == (2, 2, 3) and again.pooled[:, 3].tolist() == [3, 2]
    text.forget()
    text.remembered(["a"])
    assert text.asked[3:] == ["a"]


def test_exact_embeddings_come_from_batches_of_one_size():
    """Whatever is remembered: the rows of new prompts are filled up; another number of prompts is remembered apart."""
    text = Counting()
    text.remembered(["a"])
    assert text.remembered(["a", "bb", "a"], exact=True).pooled[:, 0].tolist() == [1, 2, 1]
    assert text.asked[1:] == ["a", "bb", "a"]
    text.remembered(["bb", "a", "a"], exact=True)
    assert text.remembered(["ccc", "bb", "ccc"], exact=True).pooled[:, 0].tolist() == [3, 2, 3]
    assert text.asked[4:] == ["ccc", "ccc", "bb"]
    text.remembered(["a"], exact=True)
    assert text.asked[7:] == ["a"]


def test_the_least_recently_used_is_forgotten():
    text = Counting(width=50_000)  # 400 kB a prompt: two fit
    for prompt in ("a", "bb", "a", "ccc"):
        text.remembered([prompt])
    text.remembered(["a"])
    assert text.asked == ["a", "bb", "ccc"]
    text.remembered(["bb"])
    assert text.asked[3:] == ["bb"]


class Apart(Counting):
    """Negative prompts are marked by a minus."""

    separate_negatives = True

    def encode_negative(self, prompts):
        return self([f"-{p}" for p in prompts])


@pytest.mark.parametrize(("kind", "asked"), [(Counting, ["a", "bb"]), (Apart, ["a", "-a", "-bb"])])
def test_negative_prompts_are_remembered_apart_if_they_are_encoded_apart(kind, asked):
    text = kind()
    positive = text.remembered(["a"]).tokens
    negative = text.remembered(["a", "bb", "a"], negative=True).tokens
    assert text.asked == asked
    assert torch.equal(positive, text.remembered(["a"]).tokens) and torch.equal(negative[0], negative[2])
    assert (negative[0] != positive[0]).any() == kind.separate_negatives


@pytest.mark.parametrize(("pad", "filled"), [("<|endoftext|>", 49407), ("!", 0)])
def test_clips_tokenizer(pad, filled):
    tokenizer = clip_tokenizer(pad=pad)
    ids = tokenizer(["a photo of a cat"], padding="max_length").input_ids[0]
    assert len(tokenizer) == 49408 and len(ids) == 77
    assert ids[:8] == [49406, 320, 1125, 539, 320, 2368, 49407, filled]
