"""The contract of a weighting."""

from typing import ClassVar

import pytest
import torch
from torch import Tensor

from sunlab.diffusion.grid import grid
from sunlab.testing.component import ComponentContract
from sunlab.testing.device import no_host_reads
from sunlab.testing.toy import PATHS

on_all_paths = pytest.mark.parametrize("path", PATHS)


class WeightingContract(ComponentContract):
    """A weighting is finite and never negative, at every jump and in prediction space (s = t), on every probability path."""

    kind: ClassVar[str] = "weightings"

    def jumps(self) -> list[tuple[Tensor, Tensor]]:
        whole, fine = grid(4), grid(25)
        every = torch.arange(1, 1001, dtype=torch.float64) / 1000
        return [(whole[:-1], whole[1:]), (fine[:-1], fine[1:]), (every, every), (every, every - 0.001)]

    @on_all_paths
    def test_finite_and_never_negative(self, path: str) -> None:
        for t, s in self.jumps():
            weights = self.build()(PATHS[path], t, s)
            assert weights.shape == t.shape and weights.is_floating_point()
            bad = ~(weights.isfinite() & (weights >= 0))
            assert not bool(bad.any()), f"weight {weights[bad][0].item()} at t = {t[bad][0]}, s = {s[bad][0]}"

    @on_all_paths
    def test_some_sample_counts(self, path: str) -> None:
        t, s = self.jumps()[0]
        assert bool((self.build()(PATHS[path], t, s) > 0).any())

    @on_all_paths
    def test_a_sample_does_not_depend_on_its_batch(self, path: str) -> None:
        t, s = self.jumps()[1]
        alone = torch.cat([self.build()(PATHS[path], t[i : i + 1], s[i : i + 1]) for i in range(len(t))])
        torch.testing.assert_close(self.build()(PATHS[path], t, s), alone)

    def test_nothing_waits_for_the_device(self) -> None:
        with no_host_reads():
            t, s = torch.tensor([1.0, 0.5], dtype=torch.float64), torch.tensor([0.75, 0.0], dtype=torch.float64)
            self.build()(PATHS["vp"], t, s)
