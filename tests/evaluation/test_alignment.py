"""Text alignment: what a caption of the lab names, CLIP's score against its formula, means over those that ask."""

import pytest
import torch

from sunlab.data.shards import Shards
from sunlab.errors import ConfigError
from sunlab.evaluation.base import ALIGNMENTS
from sunlab.evaluation.comparison import aligned
from sunlab.lab.alignment import named_in
from sunlab.lab.classifier import load_classifier, truth

LABELS = {"emoji": ["apple", "red apple", "koala", "bread"], "background": ["red", "green"], "size": ["small", "large"]}


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("a small red apple on a green background", {"emoji": "red apple", "size": "small", "background": "green"}),
        ("an apple", {"emoji": "apple"}),
        ("bread, a large koala", {"emoji": "koala", "size": "large"}),
        ("a red background", {"background": "red"}),
        ("Koalas?", {}),
    ],
)
def test_what_a_caption_names(prompt, named):
    assert named_in(prompt, LABELS) == named


def test_the_labs_captions_name_what_is_drawn():
    """Read back from the words alone, against the records of the shards."""
    labels = load_classifier().labels
    source = Shards(urls=["emoji/noto/test-*.tar.gz"], shuffle=0)
    for sample in source.read(seed=0, epoch=0, start=0, stop=len(source)):
        told = {"emoji" if name == "name" else name for name in sample.record["attributes"]["mentioned"]} - {"keyword"}
        assert named_in(sample.prompt, labels) == {head: truth(sample)[head] for head in told}, sample.prompt


def test_artwork_shows_its_caption():
    source = Shards(urls=["emoji/noto/test-*.tar.gz"], shuffle=0, limit=64)
    samples = list(source.read(seed=0, epoch=0, start=0, stop=64))
    images = torch.stack([sample.image for sample in samples]) / 255
    lab = ALIGNMENTS.build("lab")
    right = aligned(lab(images, [sample.prompt for sample in samples]), subsets=4)
    assert right["emoji_top1"].pairs == 64 and right["size"].pairs < 64  # sizes are left out of some captions
    assert all(value.value >= 0.9 for value in right.values())
    wrong = aligned(lab(images, [sample.prompt for sample in samples[1:] + samples[:1]]), subsets=4)
    assert wrong["emoji_top1"].value < 0.2


def test_only_those_that_are_asked_count():
    values = {"a": torch.tensor([1.0, float("nan"), 0.0, 1.0]), "b": torch.full((4,), float("nan"))}
    found = aligned(values, subsets=2)
    assert found.keys() == {"a"} and found["a"].value == pytest.approx(2 / 3) and found["a"].pairs == 3


def test_clip_score_against_the_joint_model(tiny_clip):
    """The cosine that CLIPModel itself gives, of pictures that need no resizing."""
    from transformers import CLIPModel, CLIPTokenizer

    from sunlab.evaluation.clip import MEAN, STD

    images, prompts = torch.rand(3, 3, 16, 16), ["a koala", "a large red apple on a green background", "x " * 100]
    found = ALIGNMENTS.build({"name": "clip_score", "folder": str(tiny_clip)})(images, prompts)["clip_score"]
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    tokens = CLIPTokenizer.from_pretrained(tiny_clip)(
        prompts, padding=True, truncation=True, max_length=77, return_tensors="pt"
    )
    pixels = (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        logits = model(**tokens, pixel_values=pixels).logits_per_image / model.logit_scale.exp()
    torch.testing.assert_close(found, 100 * logits.diagonal().clamp(min=0).double(), atol=1e-4, rtol=1e-4)


def test_clip_score_says_what_it_needs():
    with pytest.raises(ConfigError, match=r"evaluate.alignment.folder: no holds no CLIP model"):
        ALIGNMENTS.build({"name": "clip_score", "folder": "no"})(torch.zeros(1, 3, 8, 8), ["a"])
