"""The contract of a weighting."""

from typing import ClassVar

import torch
from torch import Tensor

from sunlab.diffusion.schedule import Schedule
from sunlab.diffusion.timesteps import grid
from sunlab.testing.component import ComponentContract


class WeightingContract(ComponentContract):
    """A weighting is finite and never negative, at every jump and in prediction space (s = t)."""

    kind: ClassVar[str] = "weightings"

    def jumps(self) -> list[tuple[Tensor, Tensor]]:
        whole, fine = grid(4), grid(25)
        every = torch.arange(1000)
        return [(whole[:-1], whole[1:]), (fine[:-1], fine[1:]), (every, every), (every, every - 1)]

    def schedules(self) -> list[Schedule]:
        return [Schedule.from_betas(), Schedule.from_betas(zero_terminal_snr=True)]

    def test_finite_and_never_negative(self) -> None:
        for schedule in self.schedules():
            for t, s in self.jumps():
                weights = self.build()(schedule, t, s)
                assert weights.shape == t.shape and weights.is_floating_point()
                bad = ~(weights.isfinite() & (weights >= 0))
                assert not bool(bad.any()), f"weight {weights[bad][0].item()} at t = {t[bad][0]}, s = {s[bad][0]}"

    def test_some_sample_counts(self) -> None:
        t, s = self.jumps()[0]
        assert bool((self.build()(Schedule.from_betas(), t, s) > 0).any())

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        t, s = self.jumps()[1]
        schedule = Schedule.from_betas()
        alone = torch.cat([self.build()(schedule, t[i : i + 1], s[i : i + 1]) for i in range(len(t))])
        torch.testing.assert_close(self.build()(schedule, t, s), alone)
