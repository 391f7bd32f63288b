"""A pipeline of diffusers' over the tiny base, and adapter files for it."""

import pytest
from tiny_pipelines import make, pipeline

from sunlab.adapters.lora import LoRA
from sunlab.adapters.sun import SUN
from sunlab.adapters.sun_lora import SUNLoRA


@pytest.fixture(scope="session")
def sun_file(tiny_base_folder, tmp_path_factory):
    return make(tiny_base_folder, tmp_path_factory.mktemp("plug") / "sun.safetensors", SUN())


@pytest.fixture(scope="session")
def lora_file(tiny_base_folder, tmp_path_factory):
    return make(tiny_base_folder, tmp_path_factory.mktemp("plug") / "lora.safetensors", LoRA(rank=2, alpha=3.0))


@pytest.fixture(scope="session")
def sun_lora_file(tiny_base_folder, tmp_path_factory):
    return make(tiny_base_folder, tmp_path_factory.mktemp("plug") / "sun_lora.safetensors", SUNLoRA(rank=2))


@pytest.fixture
def pipe(tiny_base_folder):
    return pipeline(tiny_base_folder)
