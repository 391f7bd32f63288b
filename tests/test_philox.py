"""Philox-4x32-10 gives the known answers of Random123 1.14 (its file kat_vectors)."""

import torch

from sunlab.philox import philox

KNOWN = """
00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
"""


def test_known_answers():
    rows = [[int(word, 16) for word in line.split()] for line in KNOWN.strip().splitlines()]
    a, b, c, d, k, l, *wanted = torch.tensor(rows).unbind(1)  # noqa: E741
    for found, right in zip(philox((a, b, c, d), (k, l)), wanted, strict=True):
        assert torch.equal(found, right)


def test_counters_may_be_numbers():
    keys = torch.tensor([[3], [2**32 - 1]]), torch.tensor([[5], [7]])
    blocks = torch.arange(6)
    by_number = philox((blocks, 0, 0xFFFFFFFF, 9), keys)
    by_tensor = philox((blocks, blocks * 0, blocks * 0 + 0xFFFFFFFF, blocks * 0 + 9), keys)
    assert all(torch.equal(a, b) and a.shape == (2, 6) for a, b in zip(by_number, by_tensor, strict=True))
