"""One tiny base of each family, made once."""

from functools import cache

import pytest
from tiny_bases import tiny_base

from sunlab.backbones.pretrained import outline_base
from sunlab.backbones.sd.tokenizer import ASSETS

FAMILIES = ("sd15", "sd21", "sd21_base", "sdxl")


@pytest.fixture(scope="session")
def outlines():
    """Family -> its full-size base on the meta device."""
    return cache(lambda family: outline_base(ASSETS / "families" / family))


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("families")
    return {family: tiny_base(family, root / family) for family in FAMILIES}
