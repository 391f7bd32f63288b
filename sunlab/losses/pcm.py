"""Phased consistency distillation (arXiv 2405.18407)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import relu

from sunlab.errors import ConfigError
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput, network_of
from sunlab.losses.consistency import Pair, States, consistency, require_skip
from sunlab.losses.discriminator import Discriminator
from sunlab.losses.joint import adamw
from sunlab.types import Batch


@LOSSES.register("pcm")
class PCM(Loss, nn.Module):
    """Phased consistency: f(x_t, t) = f(x_{t-k}, t - k) up to the phase's edge, by a DDIM-like jump.

    The times are the public recipe's: the student's step is one of k - 1, 2k - 1, ..., 999 of Stable Diffusion's, the edges
    lie on the same steps (k = 20 in 4 phases: 739, 499, 239, 0), and the last is step 0 rather than the clean end.
    `msc_segment` differs in the edges, which there are the times at which the student is sampled. The paper's variant
    without guidance in the teacher is `teacher.guidance: [1.0]`.

    With `gan` the adversarial consistency loss is added: z, the student's f(x_t, t), and z*, the target f(x_{t-k}, t - k),
    both at the edge s, are noised to a random time tau of their phase, s <= tau < its beginning, each with its own noise,
    and the discriminator D reads the frozen base's hidden states there. The student's term is max(0, 1 - D(z_tau)), the
    discriminator's max(0, 1 + D(z_tau)) + max(0, 1 - D(z*_tau)), each the mean over the tokens. Real latents are no part of
    it. The paper's heads read every block of the base; here one reads its middle.

    Args:
        segments: M, phases; null: the student's steps.
        skip: k, the distance of these steps.
        states: where x_t comes from; `data`, forward-noised at every time, in the paper.
        gan: weight of the adversarial term, 0.1 in the public recipe; 0: none.
        width: of the discriminator.
        critic_steps: optimizer steps of the discriminator for each of the student's.
        critic_lr: its learning rate.

    Raises:
        ConfigError: a negative weight.
    """

    def __init__(
        self,
        *,
        segments: int | None = None,
        skip: int = 20,
        states: States = "data",
        gan: float = 0.0,
        width: int = 128,
        critic_steps: int = 1,
        critic_lr: float = 1e-5,
    ):
        super().__init__()
        if gan < 0:
            raise ConfigError(f"loss.gan is the weight of the adversarial term: give at least 0, got {gan:g}")
        self.segments, self.skip, self.states = segments, require_skip(skip), states
        self.gan, self.width, self.critic_steps, self.critic_lr = gan, width, critic_steps, critic_lr
        self.discriminator: Discriminator | None = None

    def prepare(self, backbone: Any) -> None:
        if self.gan:
            self.discriminator = Discriminator(backbone.middle()[1], self.width)

    def networks(self) -> Sequence[nn.Module]:
        return [] if self.discriminator is None else [self.discriminator]

    def critic_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return adamw(parameters, lr=self.critic_lr, betas=(0.0, 0.999))

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        pair = self.pair(batch, student, teacher)
        output = pair.compared(distance)
        if self.discriminator is None:
            return output
        hidden = self.hidden(batch, pair, pair.carried, "pcm false", student, teacher)
        fooled = relu(1 - self.discriminator(hidden)).mean(1)
        values = output.values + self.gan * fooled.to(output.values)
        return LossOutput(values, pair.t, pair.s, {"pcm gan": fooled.detach().mean()})

    def critic_step(self, batch: Batch, student: BoundSampler, teacher: BoundSampler) -> Tensor:
        """The discriminator's hinge loss (B,)."""
        assert self.discriminator is not None
        with torch.no_grad():
            pair = self.pair(batch, student, teacher)
            false = self.hidden(batch, pair, pair.carried, "pcm false", student, teacher)
            true = self.hidden(batch, pair, pair.target, "pcm true", student, teacher)
        return (relu(1 + self.discriminator(false)) + relu(1 - self.discriminator(true))).mean(1)

    def pair(self, batch: Batch, student: BoundSampler, teacher: BoundSampler) -> Pair:
        path = student.solver.path
        steps = range(path.last, 0, -self.skip)
        points = [path.time(i) for i in steps]
        edges = [path.time(i) for i in phase_edges(steps, self.segments or len(student.grid) - 1)]
        return consistency(
            batch, student, teacher,
            jump=student.jump, edges=edges, points=points, skip=self.skip, states=self.states,
        )  # fmt: skip

    def hidden(
        self, batch: Batch, pair: Pair, x_s: Tensor, purpose: str, student: BoundSampler, teacher: BoundSampler
    ) -> Tensor:
        """What D reads (B, P, h) of a state at the edge, noised to tau."""
        path = student.solver.path
        step, start = path.step(pair.s), path.step(pair.above)
        tau = step + (start - step) * batch.draws.uniform("pcm time").to(step)
        tau = path.time(tau.floor() if path.whole else tau)
        noised = path.noise_further(x_s, batch.draws.normal(purpose, batch.shape), pair.s, tau)
        return network_of(teacher).features(noised, tau)


def phase_edges(points: Sequence[int], phases: int) -> list[int]:
    """The M + 1 edges among N descending steps: the first, and for each phase the step below its N / M; 0 below all."""
    below = [*points[1:], 0]
    starts = [phase * len(points) // phases for phase in range(phases)]  # counted from the lowest
    return [points[0], *(below[len(points) - 1 - start] for start in reversed(starts))]
