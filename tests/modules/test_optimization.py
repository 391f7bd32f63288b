"""AdamW's moments in 8 bits, where bitsandbytes is installed."""

import sys
from types import ModuleType

import pytest
import torch

from sunlab.errors import ConfigError
from sunlab.modules.optimization import Optimization


def test_8_bits_without_bitsandbytes_name_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # an import of it fails
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ConfigError, match=r"(?s)optimizer\.bits.*pip install 'sunlab\[bits\]'.*optimizer\.bits=32"):
        Optimization(bits=8).optimizer([torch.nn.Parameter(torch.ones(3))])


def test_8_bits_are_bitsandbytes_adamw(monkeypatch):
    made = {}

    class AdamW8bit(torch.optim.AdamW):
        def __init__(self, parameters, *, min_8bit_size, **options):
            made.update(options, min_8bit_size=min_8bit_size)
            super().__init__(parameters, **options)

    package, module = ModuleType("bitsandbytes"), ModuleType("bitsandbytes.optim")
    module.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", package)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = Optimization(bits=8, lr=0.1, weight_decay=0.5).optimizer([parameter])
    assert made == {"lr": 0.1, "betas": (0.9, 0.999), "weight_decay": 0.5, "min_8bit_size": 4096}
    parameter.sum().backward()
    optimizer.step()
    assert (parameter < 1).all()


def test_bytes_of_moments():
    """Two of each number: 4 bytes, or 1 with a scale of 4 bytes for each 256; small parameters keep 4."""
    large, small = (torch.nn.Parameter(torch.ones(n)) for n in (256 * 100, 100))
    assert Optimization().bytes_of_moments([large, small]) == 2 * 4 * (25600 + 100)
    assert Optimization(bits=8).bytes_of_moments([large, small]) == 2 * (25600 + 4 * 100 + 4 * 100)
