"""Distribution matching distillation, DMD2 (arXiv 2405.14867; the gradient: arXiv 2311.18828)."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sunlab.adapters import ADAPTERS
from sunlab.diffusion.grid import shifted
from sunlab.diffusion.path import per_sample
from sunlab.diffusion.prediction import Prediction, target
from sunlab.errors import ConfigError
from sunlab.losses.base import LOSSES, BoundSampler, DistanceFunction, Loss, LossOutput, Network, network_of
from sunlab.losses.discriminator import Discriminator
from sunlab.losses.joint import adamw
from sunlab.types import Batch


@LOSSES.register("dmd")
class DMD(Loss, nn.Module):
    """The student's samples follow the teacher's distribution: score of the guided teacher against that of the student.

    The student's x_0, at a random step of its own grid that it reaches from noise by itself, is noised to a random time
    tau. There the guided teacher and a fake score network, which is trained on the student's samples, denoise it to mu_real
    and mu_fake; the gradient for x_0 is (mu_fake - mu_real) / mean |x_0 - mu_real| (arXiv 2311.18828, equations 7 and 8). It
    needs prompts alone; the value is no measure of the error. The fake score is a LoRA over the frozen base, so that there
    is one network in memory.

    Args:
        fake: the adapter of the fake score, one that changes weights alone: a LoRA.
        critic_steps: optimizer steps of the fake score for each of the student's.
        critic_lr: its learning rate.
        negatives: the fake score is guided as the teacher is, two passes instead of one: it depends on the negative prompt
            and w as the student's samples do, which matters for SUN with varying negative prompts. False: on the prompt
            alone, as published.
        gan: weight of the adversarial term, a discriminator over the frozen base's hidden states of noised samples, with the
            data's latents as real ones; 0: none.
        width: of the discriminator.
        low, high: range of tau before the path's shift.

    Raises:
        ConfigError: an adapter that is no LoRA, or a range of times that is none; with `gan`, data without latents.
    """

    surrogate = True

    def __init__(
        self,
        *,
        fake: str | dict[str, Any] = "lora",
        critic_steps: int = 5,
        critic_lr: float = 1e-4,
        negatives: bool = False,
        gan: float = 0.0,
        width: int = 128,
        low: float = 0.02,
        high: float = 0.98,
    ):
        super().__init__()
        if not 0 < low < high <= 1 or gan < 0:
            raise ConfigError(f"loss: dmd needs 0 < low < high <= 1 and gan >= 0, got {low}, {high} and {gan}")
        self.fake: Any = ADAPTERS.build(fake, key="loss.fake")
        if not self.fake.changes_weights or self.fake.always is None:
            raise ConfigError(f"loss.fake: {self.fake.spec['name']!r} acts in attention; give {{name: lora, rank: 32}}")
        self.critic_steps, self.critic_lr, self.negatives = critic_steps, critic_lr, negatives
        self.gan, self.width, self.low, self.high = gan, width, low, high
        self.discriminator: Discriminator | None = None

    def prepare(self, backbone: Any) -> None:
        self.fake.attach(backbone)
        if self.gan:
            self.discriminator = Discriminator(backbone.middle()[1], self.width)

    def networks(self) -> Sequence[nn.Module]:
        return [self.fake] if self.discriminator is None else [self.fake, self.discriminator]

    def critic_optimizer(self, parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
        return adamw(parameters, lr=self.critic_lr)

    def __call__(self, batch: Batch, student: BoundSampler, teacher: BoundSampler, distance: DistanceFunction) -> LossOutput:
        x_0, t = self.sample(batch, student)
        tau, noise = self.times(batch, student), batch.draws.normal("dmd noise", batch.shape)
        path = student.solver.path
        with torch.no_grad():
            x_tau = path.add_noise(x_0, noise, tau)
            real = teacher.denoise(x_tau, tau).x_0
            size = (x_0 - real).abs().flatten(1).mean(1).clamp(min=1e-6)
            gradient = (self.score(network_of(teacher), x_tau, tau).x_0 - real) / per_sample(size, real)
        values = 0.5 * distance(x_0, (x_0 - gradient).detach())
        logs = {"dmd gradient": gradient.abs().mean()}
        if self.discriminator is not None:
            batch.required_latents("loss.gan", "set loss.gan=0")
            logits = self.discriminator(network_of(teacher).features(path.add_noise(x_0, noise, tau), tau))
            fooled = softplus(-logits).mean(1)
            values = values + self.gan * fooled.to(values)
            logs["dmd gan"] = fooled.detach().mean()
        return LossOutput(values, t, torch.zeros_like(t), logs)

    def critic_step(self, batch: Batch, student: BoundSampler, teacher: BoundSampler) -> Tensor:
        """Denoising of the student's samples by the fake score, in what the base predicts; and the discriminator's loss."""
        with torch.no_grad():
            x_0, _ = self.sample(batch, student)
        tau, noise = self.times(batch, student), batch.draws.normal("dmd noise", batch.shape)
        path, network = student.solver.path, network_of(teacher)
        x_tau = path.add_noise(x_0, noise, tau)
        prediction = self.score(network, x_tau, tau)
        wanted = target(prediction.kind, x_0, noise, prediction.alpha, prediction.sigma)
        values = (prediction.value - wanted).square().flatten(1).mean(1)
        if self.discriminator is None:
            return values
        latents = batch.required_latents("loss.gan", "set loss.gan=0")
        real = path.add_noise(latents, batch.draws.normal("dmd real", batch.shape), tau)
        with torch.no_grad():
            hidden = [network.features(x, tau) for x in (x_tau, real)]
        false, true = map(self.discriminator, hidden)
        return values + (softplus(false) + softplus(-true)).mean(1).to(values)

    def sample(self, batch: Batch, student: BoundSampler) -> tuple[Tensor, Tensor]:
        """The student's x_0 with gradient, at a random step that its own rollout reaches (backward simulation); t (B,)."""
        step = batch.draws.integers("segment", 0, len(student.grid) - 1)
        x_t = student.rollout(batch.draws.normal("noise", batch.shape), step)
        t = student.times[step]
        return student.denoise(x_t, t).x_0, t

    def times(self, batch: Batch, student: BoundSampler) -> Tensor:
        """tau (B,)."""
        path = student.solver.path
        tau: Any = shifted(batch.draws.uniform("dmd time", self.low, self.high).double(), path.shift)  # type: ignore[arg-type]
        return path.time(path.step(tau).round()) if path.whole else tau

    def score(self, network: Network, x: Tensor, t: Tensor) -> Prediction:
        """The fake score's prediction."""
        return network(x, t, self.fake, guided=self.negatives)
