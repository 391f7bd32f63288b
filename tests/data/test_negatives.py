"""Negative prompts: the mixture's shares, determinism, and never what the prompt itself says."""

from collections import Counter
from random import Random

import pytest

from sunlab.data.negatives import COMMON, NEGATIVES, Mixture, Pool
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
