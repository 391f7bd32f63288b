"""A prompt that is cut is named, once; many are counted."""

import warnings

import pytest
from tiny_bases import tiny_base

from sunlab.backbones.cut_prompts import LINES
from sunlab.backbones.pretrained import load_base

LONG = "a large red apple on a blue background, " * 15


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def text(request, tmp_path_factory):
    return load_base(tiny_base(request.param, tmp_path_factory.mktemp(request.param) / "base")).freeze().text


def heard(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught]


def test_what_was_cut_is_named_once_a_prompt(text):
    (told,) = heard(lambda: text([f"{LONG}a zebra", "a short one", f"{LONG}a zebra"]))
    assert told.startswith(f"the prompt {LONG[:60] + '...'!r} is cut to 77 tokens") and "a zebra" in told
    assert "apple" in told.split("without its end")[1], "the whole end, from the first word that is cut"
    assert heard(lambda: text.remembered([f"{LONG}a zebra"])) == []
    (told,) = heard(lambda: text.remembered([f"{LONG}on fire"]))
    assert "on fire" in told


def test_a_prompt_that_just_fits_is_not_named(text):
    tokenizer = next(text.parts())[0]
    fits = "a " * (tokenizer.model_max_length - 2)
    assert heard(lambda: text([fits.strip()])) == []
    assert len(heard(lambda: text([f"{fits}a"]))) == 1


def test_web_captions_do_not_flood(text):
    """1,000 different ones, in batches, again and again: a bounded number of lines, then the count."""
    captions = [f"{LONG}{number}" for number in range(1000)]
    text._cut.__init__()
    told = heard(lambda: [text.tokenize(captions[i : i + 50]) for i in range(0, 1000, 50)])
    assert len(told) == LINES + 2
    assert told[LINES - 1].endswith("from now on cut prompts are only counted")
    assert told[LINES:] == ["100 prompts were cut to 77 tokens so far", "1,000 prompts were cut to 77 tokens so far"]
    assert heard(lambda: text.tokenize(captions[:LINES])) == []
