"""The contract of a loss."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from sunlab.diffusion.schedule import Schedule
from sunlab.diffusion.timesteps import grid
from sunlab.losses.base import BoundSampler, LossOutput
from sunlab.registries import registry_of
from sunlab.testing.component import ComponentContract
from sunlab.testing.toy import ToyDenoiser, toy_batch
from sunlab.types import END, Batch


class LossContract(ComponentContract):
    """A loss gives one value a sample, teaches the student, not the teacher, and draws by the batch's own numbers."""

    kind: ClassVar[str] = "losses"
    seeds: ClassVar[Sequence[int]] = tuple(range(100, 108))
    schedule: ClassVar[Schedule] = Schedule.from_betas()

    def batch(self, seeds: Sequence[int]) -> Batch:
        """Override where a loss needs what this batch lacks."""
        return toy_batch(seeds, schedule=self.schedule)

    def samplers(self, batch: Batch) -> tuple[BoundSampler, BoundSampler]:
        """Student and teacher, the one not yet like the other. Solver: ddim, on 4 and on 24 steps."""
        solver: Any = registry_of("solvers").build("ddim", self.schedule)
        bias = batch.positive.tokens.mean(dim=(1, 2))
        return (
            BoundSampler(ToyDenoiser(self.schedule, bias=bias), solver, grid(4)),
            BoundSampler(ToyDenoiser(self.schedule, bias=bias, scale=0.3), solver, grid(24)),
        )

    def compute(self, seeds: Sequence[int]) -> tuple[LossOutput, BoundSampler, BoundSampler]:
        batch = self.batch(seeds)
        student, teacher = self.samplers(batch)
        return self.build()(batch, student, teacher, squared), student, teacher

    def test_one_value_a_sample(self) -> None:
        output, *_ = self.compute(self.seeds)
        n = len(self.seeds)
        assert isinstance(output, LossOutput)
        assert output.values.shape == output.t.shape == output.s.shape == (n,)
        assert bool(output.values.isfinite().all()) and bool((output.values > 0).all())
        assert bool((output.t >= output.s).all()) and bool((output.s >= END).all()) and bool((output.t < 1000).all())
        assert all(value.numel() == 1 for value in output.logs.values())

    def test_the_student_learns_and_the_teacher_does_not(self) -> None:
        output, student, teacher = self.compute(self.seeds)
        output.values.mean().backward()
        learned, untouched = weight(student).grad, weight(teacher).grad
        assert learned is not None and bool(learned.isfinite().all()) and bool((learned != 0).all())
        assert untouched is None or not bool(untouched.any()), "gradient reached the teacher"

    def test_the_student_can_lower_it(self) -> None:
        output, student, _ = self.compute(self.seeds)
        output.values.mean().backward()
        gradient = weight(student).grad
        batch = self.batch(self.seeds)
        moved, teacher = self.samplers(batch)
        assert gradient is not None
        with torch.no_grad():
            weight(moved).sub_(1e-3 * gradient / gradient.norm())
        after = self.build()(batch, moved, teacher, squared).values.mean()
        assert float(after.detach()) < float(output.values.detach().mean())

    def test_the_same_draws_give_the_same_values(self) -> None:
        first, second = (self.compute(self.seeds)[0] for _ in range(2))
        assert torch.equal(first.values, second.values) and torch.equal(first.t, second.t)

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        together, *_ = self.compute(self.seeds)
        alone = [self.compute([seed])[0] for seed in self.seeds]
        assert torch.equal(together.t, torch.cat([a.t for a in alone]))
        torch.testing.assert_close(together.values, torch.cat([a.values for a in alone]), atol=1e-6, rtol=1e-4)

    def test_the_global_generator_plays_no_part(self) -> None:
        torch.manual_seed(1)
        first = self.compute(self.seeds)[0].values
        torch.manual_seed(2)
        assert torch.equal(first, self.compute(self.seeds)[0].values)

    def test_the_given_distance_is_used(self) -> None:
        batch = self.batch(self.seeds)
        student, teacher = self.samplers(batch)
        doubled = self.build()(batch, student, teacher, lambda a, b: 2 * squared(a, b)).values
        torch.testing.assert_close(doubled, 2 * self.compute(self.seeds)[0].values)


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference, (B, ...) x 2 -> (B,)."""
    return (a - b).square().flatten(1).mean(1)


def weight(sampler: BoundSampler) -> Tensor:
    assert isinstance(sampler.denoise, ToyDenoiser)
    return sampler.denoise.weight
