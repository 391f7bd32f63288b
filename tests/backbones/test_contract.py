"""Every family keeps the contract of a backbone."""

import pytest

pytest.register_assert_rewrite("sunlab.testing")

from sunlab.backbones.pretrained import save_base  # noqa: E402
from sunlab.testing.backbone import BackboneContract  # noqa: E402
from sunlab.testing.toy_backbone import toy_base  # noqa: E402


class TestToy(BackboneContract):
    component = "toy"

    @pytest.fixture
    def place(self, tmp_path):
        save_base(toy_base(), tmp_path / "toy")
        return tmp_path / "toy"


class TestStableDiffusion(BackboneContract):
    component = "sd"

    @pytest.fixture
    def place(self, folders):
        return folders["sd21"]


class TestStableDiffusionXL(BackboneContract):
    component = "sdxl"

    @pytest.fixture
    def place(self, folders):
        return folders["sdxl"]
