"""Tests on a GPU: `pytest -m gpu tests/gpu`. With SUNLAB_TEST_DEVICE=cpu they run on a CPU, which rehearses their code."""

import os

import pytest
import torch


@pytest.fixture
def device():
    wanted = os.environ.get("SUNLAB_TEST_DEVICE", "cuda")
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU; SUNLAB_TEST_DEVICE=cpu rehearses it")
    return wanted
