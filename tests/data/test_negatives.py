"""Negative prompts: the mixture's shares, determinism, and never what the prompt itself says."""

from collections import Counter
from random import Random

import pytest
import torch

from sunlab.data.negatives import COMMON, NEGATIVES, Empty, Mixture, Pool, PromptDraws
from sunlab.data.sample import Sample
from sunlab.errors import ConfigError, DataError

POOL = Pool(prompts=[f"caption {n}" for n in range(50)], keywords=[f"word{n}" for n in range(50)])


def kind(negative: str) -> str:
    if not negative:
        return "empty"
    return "captions" if negative.startswith("caption") else "keywords" if negative.startswith("word") else "pool"


def shares(sampler, pool=POOL, count=4000):
    found = Counter(kind(sampler(Random(n), "a cat", pool)) for n in range(count))
    return {name: found[name] / count for name in ("empty", "pool", "captions", "keywords")}


def test_shares_follow_the_weights():
    assert shares(Mixture(empty=1, pool=2, captions=3, keywords=4)) == pytest.approx(
        {"empty": 0.1, "pool": 0.2, "captions": 0.3, "keywords": 0.4}, abs=0.03
    )


def test_kinds_that_the_data_lack_leave_the_others_their_proportions():
    assert shares(Mixture(empty=1, pool=3), Pool()) == pytest.approx(
        {"empty": 0.25, "pool": 0.75, "captions": 0, "keywords": 0}, abs=0.03
    )


@pytest.mark.parametrize("name", ["empty", "pool", "captions", "keywords", "mixture"])
def test_draws_are_functions_of_their_seed(name):
    sampler = NEGATIVES.build(name)
    assert [sampler(Random(n), "x", POOL) for n in range(20)] == [sampler(Random(n), "x", POOL) for n in range(20)]


def test_the_prompt_is_never_negated():
    sampler = NEGATIVES.build({"name": "pool", "prompts": ["red background", "green background"]})
    assert {sampler(Random(n), "a cat on a Red Background", Pool()) for n in range(50)} <= {"green background", ""}
    assert NEGATIVES.build("captions")(Random(0), "caption 0", Pool(prompts=["caption 0"])) == ""


def test_the_common_pool_is_that_of_photos():
    """What a picture of the lab shows is named by the lab's own sampler alone."""
    names = {"red background", "small"}
    assert not names & set(COMMON) and "blurry" in COMMON
    lab = NEGATIVES.build({"name": "lab", "empty": 0.0, "pool": 1.0, "captions": 0.0, "keywords": 0.0})
    assert names | {"blurry"} <= {lab(Random(n), "x", POOL) for n in range(1000)}


@pytest.mark.parametrize("weights", [{"empty": -1.0}, dict.fromkeys(("empty", "pool", "captions", "keywords"), 0.0)])
def test_weights_are_checked(weights):
    with pytest.raises(ConfigError, match="weights"):
        Mixture(**weights)


def test_lacking_data_is_an_error_where_nothing_else_was_asked_for():
    with pytest.raises(DataError, match="no captions"):
        NEGATIVES.build("captions")(Random(0), "x", Pool())
    with pytest.raises(ConfigError, match="empty"):
        NEGATIVES.build({"name": "pool", "prompts": []})


SAMPLES = [Sample(f"key {n}", f"own {n}", {}) for n in range(2000)]


def prompts(epoch=0, samples=SAMPLES, **given):
    draws = PromptDraws(Empty(), POOL, **given)
    return [draws(sample, epoch).prompt for sample in samples]


def test_a_share_of_captions_is_of_other_samples():
    found = Counter(prompt.split(" ")[0] for prompt in prompts(caption_noise=0.45, caption_dropout=0.1))
    shares = {name: count / len(SAMPLES) for name, count in found.items()}
    assert shares == pytest.approx({"": 0.1, "caption": 0.9 * 0.45, "own": 0.9 * 0.55}, abs=0.03)
    others = Counter(p for p in prompts(caption_noise=1.0))
    assert set(others) == set(POOL.prompts) and max(others.values()) < 3 * min(others.values())  # all alike


def test_which_captions_are_of_others_is_a_function_of_seed_epoch_and_key():
    first = prompts(caption_noise=0.5)
    assert prompts(caption_noise=0.5, samples=SAMPLES[::-1]) == first[::-1]
    changed = [prompts(caption_noise=0.5, seed=1), prompts(caption_noise=0.5, epoch=1)]
    assert all(0.3 < sum(a != b for a, b in zip(first, other, strict=True)) / len(first) < 0.9 for other in changed)
    assert prompts(caption_dropout=0.3) == [p if not p else f"own {n}" for n, p in enumerate(prompts(caption_dropout=0.3))]


def test_a_trajectory_keeps_its_caption():
    stored = [Sample(sample.key, sample.prompt, {}, trajectory=object()) for sample in SAMPLES[:50]]
    assert prompts(samples=stored, caption_noise=1.0) == [sample.prompt for sample in stored]


def test_noise_of_captions_needs_captions():
    with pytest.raises(DataError, match=r"data.caption_noise: the data source gives no captions"):
        PromptDraws(Empty(), Pool(), caption_noise=1.0)(SAMPLES[0], 0)
    embedded = Sample("a", "b", tokens=torch.zeros(1, 1))
    with pytest.raises(DataError, match=r"data.caption_noise: the source stores embeddings"):
        PromptDraws(Empty(), POOL, caption_noise=0.1)(embedded, 0)
    with pytest.raises(ConfigError, match=r"data.caption_noise: 1.5 is not a share"):
        PromptDraws(Empty(), POOL, caption_noise=1.5)
