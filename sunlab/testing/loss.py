"""The contract of a loss."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sunlab.diffusion.grid import grid, grid_times
from sunlab.diffusion.guidance import NetworkEvaluations
from sunlab.diffusion.path import ProbabilityPath
from sunlab.losses.base import BoundSampler, Loss, LossOutput
from sunlab.modules.frozen import FrozenNetwork
from sunlab.registries import registry_of
from sunlab.testing.component import ComponentContract
from sunlab.testing.device import no_host_reads
from sunlab.testing.toy import KINDS, PATHS, ToyDenoiser, toy_batch
from sunlab.testing.toy_backbone import ToyBackbone, toy_base
from sunlab.types import Batch

on_all_paths = pytest.mark.parametrize("path", PATHS)


class LossContract(ComponentContract):
    """A loss gives one value a sample, teaches the student, not the teacher, and draws by the batch's own numbers; over
    every probability path of `PATHS`."""

    kind: ClassVar[str] = "losses"
    seeds: ClassVar[Sequence[int]] = tuple(range(100, 108))

    def batch(self, seeds: Sequence[int], path: ProbabilityPath) -> Batch:
        """Override where a loss needs what this batch lacks."""
        return toy_batch(seeds, path=path)

    def samplers(self, batch: Batch, path: str) -> tuple[BoundSampler, BoundSampler]:
        """Student and teacher, the one not yet like the other. Solver: ddim, on 4 and on 24 steps."""
        on, kind = PATHS[path], KINDS[path]
        solver: Any = registry_of("solvers").build("ddim", on)
        bias = batch.positive.tokens.mean(dim=(1, 2))
        student, teacher = (ToyDenoiser(on, kind=kind, bias=bias, scale=scale) for scale in (0.8, 0.3))
        network = FrozenNetwork(toy_network(path), batch, NetworkEvaluations())
        return (
            BoundSampler(student, solver, grid(4, path=on), grid_times(4, path=on)),
            BoundSampler(teacher, solver, grid(24, path=on), grid_times(24, path=on), network),
        )

    def loss(self, teacher: BoundSampler) -> Loss:
        """The loss, prepared for the teacher's network."""
        loss: Loss = self.build()
        assert isinstance(teacher.network, FrozenNetwork)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loss.prepare(teacher.network.backbone)
        return loss

    def compute(self, seeds: Sequence[int], path: str) -> tuple[LossOutput, BoundSampler, BoundSampler]:
        batch = self.batch(seeds, PATHS[path])
        student, teacher = self.samplers(batch, path)
        return self.loss(teacher)(batch, student, teacher, squared), student, teacher

    @on_all_paths
    def test_one_value_a_sample(self, path: str) -> None:
        output, *_ = self.compute(self.seeds, path)
        n = len(self.seeds)
        assert isinstance(output, LossOutput)
        assert output.values.shape == output.t.shape == output.s.shape == (n,)
        assert output.t.dtype == output.s.dtype == torch.float64
        assert bool(output.values.isfinite().all()) and bool((output.values > 0).all())
        assert bool((output.t >= output.s).all()) and bool((output.s >= 0).all()) and bool((output.t <= 1).all())
        assert all(value.numel() == 1 for value in output.logs.values())

    @on_all_paths
    def test_the_student_learns_and_the_teacher_does_not(self, path: str) -> None:
        output, student, teacher = self.compute(self.seeds, path)
        output.values.mean().backward()
        learned, untouched = weight(student).grad, weight(teacher).grad
        assert learned is not None and bool(learned.isfinite().all()) and bool((learned != 0).all())
        assert untouched is None or not bool(untouched.any()), "gradient reached the teacher"

    @on_all_paths
    def test_the_student_can_lower_it(self, path: str) -> None:
        output, student, _ = self.compute(self.seeds, path)
        if self.entry.factory.surrogate or self.build().surrogate:
            pytest.skip("its value is no measure of the error")
        output.values.mean().backward()
        gradient = weight(student).grad
        batch = self.batch(self.seeds, PATHS[path])
        moved, teacher = self.samplers(batch, path)
        assert gradient is not None
        with torch.no_grad():
            weight(moved).sub_(1e-3 * gradient / gradient.norm())
        after = self.loss(teacher)(batch, moved, teacher, squared).values.mean()
        assert float(after.detach()) < float(output.values.detach().mean())

    @on_all_paths
    def test_the_same_draws_give_the_same_values(self, path: str) -> None:
        first, second = (self.compute(self.seeds, path)[0] for _ in range(2))
        assert torch.equal(first.values, second.values) and torch.equal(first.t, second.t)

    @on_all_paths
    def test_a_sample_does_not_depend_on_its_batch(self, path: str) -> None:
        together, *_ = self.compute(self.seeds, path)
        alone = [self.compute([seed], path)[0] for seed in self.seeds[:3]]
        assert torch.equal(together.t[:3], torch.cat([a.t for a in alone]))
        torch.testing.assert_close(together.values[:3], torch.cat([a.values for a in alone]), atol=1e-6, rtol=1e-4)

    def test_the_global_generator_plays_no_part(self) -> None:
        torch.manual_seed(1)
        first = self.compute(self.seeds, "vp")[0].values
        torch.manual_seed(2)
        assert torch.equal(first, self.compute(self.seeds, "vp")[0].values)

    def test_nothing_waits_for_the_device(self) -> None:
        path, seeds = "zero_snr", self.seeds[:2]
        _, prepared = self.samplers(self.batch(seeds, PATHS[path]), path)
        loss = self.loss(prepared)  # networks are built and moved before the training
        assert isinstance(prepared.network, FrozenNetwork)
        with no_host_reads():
            batch = self.batch(seeds, PATHS[path])
            student, teacher = self.samplers(batch, path)
            teacher = replace(teacher, network=replace(prepared.network, batch=batch))
            loss(batch, student, teacher, squared).values.mean().backward()

    def test_the_given_distance_is_used(self) -> None:
        batch = self.batch(self.seeds, PATHS["vp"])
        student, teacher = self.samplers(batch, "vp")
        loss = self.loss(teacher)
        doubled = loss(batch, student, teacher, lambda a, b: 2 * squared(a, b)).values
        once = self.compute(self.seeds, "vp")[0].values
        if loss.networks() and torch.equal(doubled, once):
            pytest.skip("its networks compare instead")
        torch.testing.assert_close(doubled, 2 * once)

    @on_all_paths
    def test_its_networks_learn_alone(self, path: str) -> None:
        """One value a sample in `critic_step`, with gradient to the networks and none to student and teacher."""
        batch = self.batch(self.seeds, PATHS[path])
        student, teacher = self.samplers(batch, path)
        loss = self.loss(teacher)
        parameters = [p for network in loss.networks() for p in network.parameters()]
        if not parameters:
            return
        values = loss.critic_step(batch, replace(student, denoise=torch.no_grad()(student.denoise)), teacher)
        assert values.shape == (len(self.seeds),) and bool(values.isfinite().all())
        values.mean().backward()
        assert any(p.grad is not None and bool(p.grad.any()) for p in parameters)
        assert weight(student).grad is None, "gradient reached the student"
        assert isinstance(teacher.network, FrozenNetwork)
        assert all(p.grad is None for p in teacher.network.backbone.parameters())
        loss.critic_optimizer(parameters).step()


def toy_network(path: str) -> ToyBackbone:
    """A frozen toy backbone, the same in each call, over one of `PATHS`."""
    backbone = toy_base().freeze().backbone
    assert isinstance(backbone, ToyBackbone)
    backbone.path, backbone.prediction_type = PATHS[path], KINDS[path]  # type: ignore[assignment]
    return backbone


def squared(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference, (B, ...) x 2 -> (B,)."""
    return (a - b).square().flatten(1).mean(1)


def weight(sampler: BoundSampler) -> Tensor:
    assert isinstance(sampler.denoise, ToyDenoiser)
    return sampler.denoise.weight
