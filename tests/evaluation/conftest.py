"""A CLIP model small enough for a test."""

import pytest
from tiny_bases import tiny_clip as make


@pytest.fixture(scope="session")
def tiny_clip(tmp_path_factory):
    """A CLIPModel of random weights with the lab's tokenizer."""
    return make(tmp_path_factory.mktemp("clip"))
