"""Probability paths x_t = alpha(t) x_0 + sigma(t) epsilon over continuous time: t = 1 is noise, t = 0 is clean.

Start with `ProbabilityPath`; `DiscreteVP` is Stable Diffusion's, `RectifiedFlow` that of flow-matching models.
"""

from abc import ABC, abstractmethod
from typing import Any, Literal, get_args, overload

import torch
from torch import Tensor

from sunlab.draws import Draws
from sunlab.errors import ConfigError
from sunlab.transfer import sent

BetaSchedule = Literal["scaled_linear", "linear", "squaredcos_cap_v2"]
TOLERANCE = 1e-6  # of a training step: two times that are nearer than this are one


def per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Values (B,) in the shape (B, 1, ...) that broadcasts over `like` (B, ...)."""
    return values.reshape(-1, *[1] * (like.dim() - 1))


class ProbabilityPath(ABC):
    """alpha and sigma as functions of t in [0, 1], alpha(0) = 1, sigma(0) = 0.

    Attributes:
        steps: training steps that [0, 1] is divided into, where a recipe counts in whole steps.
        offset: the step of t = 0 is -offset: 1 if the network's first step is noisy, 0 if it is the clean end.
        shift: how a grid of this path is moved towards noise (see `grid.shifted`); 1 leaves it as it is.
        whole: whether the network was trained at whole steps alone.
    """

    steps: int = 1000
    offset: int = 0
    shift: float = 1.0
    whole: bool = False

    @abstractmethod
    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """alpha(t) and sigma(t) in float64, of t's shape.

        Args:
            t: times in [0, 1], floating point. The values of tensors are not checked, so that no device is waited for.

        Raises:
            TypeError: whole-number times, as sunlab used before 0.2.
            ValueError: a float outside [0, 1].
        """

    @property
    def t_min(self) -> float:
        """The cleanest time at which the network was trained: 1 / steps for Stable Diffusion, 0 for rectified flow."""
        return self.offset / self.steps

    @property
    def last(self) -> int:
        """The step of t = 1."""
        return self.steps - self.offset

    @overload
    def step(self, t: Tensor) -> Tensor: ...
    @overload
    def step(self, t: float) -> float: ...
    def step(self, t: Tensor | float) -> Tensor | float:
        """t in training steps, float64: steps t - offset, rounded to a whole step within `TOLERANCE`.

        Stable Diffusion's step i = 0 ... 999 is t = (i + 1) / 1000, so its clean end is step -1.
        """
        value = as_time(t) * self.steps - self.offset
        if isinstance(value, Tensor):
            whole = value.round()
            return torch.where((value - whole).abs() < TOLERANCE, whole, value)
        return round(value) if abs(value - round(value)) < TOLERANCE else value

    @overload
    def time(self, step: Tensor) -> Tensor: ...
    @overload
    def time(self, step: float) -> float: ...
    def time(self, step: Tensor | float) -> Tensor | float:
        """The time of a training step, the inverse of `step`; float64."""
        return ((step.double() if isinstance(step, Tensor) else step) + self.offset) / self.steps

    def describe(self) -> dict[str, Any]:
        """Its name and what a file states of it."""
        return {"name": type(self).__name__, "steps": self.steps, "shift": self.shift}

    @abstractmethod
    def training_time(self, draws: Draws) -> Tensor:
        """A random time of each sample (B,), as the network is trained on them."""

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(t) and sigma(t) for t (B,), in the type of `like` (B, ...) and ready to be multiplied with it."""
        alpha, sigma = self.alpha_sigma(t)
        return per_sample(alpha.to(like), like), per_sample(sigma.to(like), like)

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Half the log signal-to-noise ratio, lambda(t) = log(alpha / sigma); +inf at t = 0, -inf where alpha = 0."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha.log() - sigma.log()

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for x_0, noise (B, C, H, W) and t (B,)."""
        alpha, sigma = self.at(t, x_0)
        return alpha * x_0 + sigma * noise

    def noise_further(self, x_s: Tensor, noise: Tensor, s: Tensor, t: Tensor) -> Tensor:
        """x_t from x_s (B, C, H, W) at a cleaner time s <= t, (B,), with new noise:
        x_t = r x_s + sqrt(sigma_t^2 - r^2 sigma_s^2) noise, r = alpha_t / alpha_s."""
        (alpha_s, sigma_s), (alpha_t, sigma_t) = self.alpha_sigma(s), self.alpha_sigma(t)
        ratio = alpha_t / alpha_s
        added = (sigma_t**2 - (ratio * sigma_s) ** 2).clamp(min=0).sqrt()
        shape = (-1,) + (1,) * (x_s.dim() - 1)
        return ratio.to(x_s).reshape(shape) * x_s + added.to(x_s).reshape(shape) * noise

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """The time of lambda (...), the inverse of `log_snr`; float64."""

    def boundary(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """alpha(t) and steps sigma(t); steps sigma / alpha is what latent consistency models scale by, see
        `consistency_function`. Near t = 0 on rectified flow it is the training step."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha, self.steps * sigma


class DiscreteVP(ProbabilityPath):
    """A variance-preserving table, alpha^2 + sigma^2 = 1. Step i of T is t = (i + 1) / T.

    Between two steps, and from the first step to the clean end, log alpha^2 is linear; next to a step with alpha = 0,
    alpha itself is.

    Args:
        alphas_cumprod: alpha^2 of the steps 0 ... T - 1, (T,).
    """

    offset, whole = 1, True

    def __init__(self, alphas_cumprod: Tensor):
        self.alphas_cumprod = alphas_cumprod.detach().to("cpu", torch.float64)
        self.steps = len(alphas_cumprod)
        self._tables: dict[torch.device, Tensor] = {}

    @classmethod
    def from_betas(
        cls,
        *,
        kind: BetaSchedule = "scaled_linear",
        start: float = 0.00085,
        end: float = 0.012,
        steps: int = 1000,
        zero_terminal_snr: bool = False,
    ) -> "DiscreteVP":
        """Stable Diffusion's schedule by default.

        Args:
            zero_terminal_snr: shift and scale sqrt(alpha^2) so that the last step is pure noise (arXiv 2305.08891,
                algorithm 1).

        Raises:
            ConfigError: an unknown kind.
        """
        if kind == "scaled_linear":
            betas = torch.linspace(start**0.5, end**0.5, steps, dtype=torch.float64) ** 2
        elif kind == "linear":
            betas = torch.linspace(start, end, steps, dtype=torch.float64)
        elif kind == "squaredcos_cap_v2":
            t = torch.arange(steps + 1, dtype=torch.float64) / steps
            bar = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
            betas = (1 - bar[1:] / bar[:-1]).clamp(max=0.999)
        else:
            raise ConfigError(f"unknown beta schedule {kind!r}; known: {', '.join(get_args(BetaSchedule))}")
        alphas_cumprod = torch.cumprod(1 - betas, dim=0)
        if zero_terminal_snr:
            root = alphas_cumprod.sqrt()
            alphas_cumprod = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        return cls(alphas_cumprod)

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        position = self.step(torch.as_tensor(as_time(t), dtype=torch.float64)) + 1  # 0 is the clean end
        table = self._table(position.device)
        low = position.floor().long().clamp(max=self.steps - 1)
        part = position - low
        near, far = table[low], table[low + 1]
        log_linear = near ** (1 - part) * far**part
        squared = torch.where(far > 0, log_linear, ((1 - part) * near.sqrt()) ** 2)
        squared = torch.where(part == 0, near, squared)
        return squared.sqrt(), (1 - squared).sqrt()

    def describe(self) -> dict[str, Any]:
        """Also `alpha`, of t = 0.5 and 1."""
        return {**super().describe(), "alpha": [round(float(self.alpha_sigma(t)[0]), 6) for t in (0.5, 1.0)]}

    def training_time(self, draws: Draws) -> Tensor:
        return self.time(draws.integers("time", 0, self.steps))

    def time_of(self, log_snr: Tensor) -> Tensor:
        """log alpha^2 = -log(1 + e^(-2 lambda)) is linear between two steps, so that the inverse is exact; next to a step
        with alpha = 0, alpha is."""
        wanted = torch.sigmoid(2 * log_snr.double())  # alpha^2
        table = self._table(wanted.device)
        far = torch.searchsorted(-table, -wanted, right=False).clamp(min=1, max=self.steps)
        near, end = table[far - 1], table[far]
        linear = (near.sqrt() - wanted.sqrt()) / (near.sqrt() - end.sqrt())
        part = torch.where(end > 0, (wanted.log() - near.log()) / (end.log() - near.log()), linear)
        return ((far - 1 + part) / self.steps).clamp(0, 1)

    def boundary(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 and the training step, as published: the identity is at step 0."""
        step = self.step(t)
        return torch.ones_like(step), step

    def _table(self, device: torch.device) -> Tensor:
        """alpha^2 of the clean end and of all steps (T + 1,), copied to a device once."""
        if device not in self._tables:
            self._tables[device] = sent(torch.cat([torch.ones(1, dtype=torch.float64), self.alphas_cumprod]), device)
        return self._tables[device]

    def __deepcopy__(self, memo: dict[int, Any]) -> "DiscreteVP":
        return self  # immutable


class RectifiedFlow(ProbabilityPath):
    """The straight path alpha = 1 - t, sigma = t (arXiv 2209.03003). A network of its kind predicts epsilon - x_0.

    Args:
        shift: of the grids that it is sampled and trained on (arXiv 2403.03206, equation 23); 1: none.
        steps: the network's time is steps t.

    Raises:
        ConfigError: a shift that is not positive.
    """

    def __init__(self, *, shift: float = 1.0, steps: int = 1000):
        if not shift > 0:
            raise ConfigError(f"shift must be positive, got {shift}")
        self.shift, self.steps = float(shift), steps

    def alpha_sigma(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        sigma = torch.as_tensor(as_time(t), dtype=torch.float64)
        return 1 - sigma, sigma

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr.double())

    def training_time(self, draws: Draws) -> Tensor:
        """Uniform in (0, 1], then shifted."""
        t = 1 - draws.uniform("time").double()
        return self.shift * t / (1 + (self.shift - 1) * t)


def as_time(t: Tensor | float) -> Tensor | float:
    """t in float64. Raises as `ProbabilityPath.alpha_sigma` does."""
    if isinstance(t, Tensor):
        if not t.is_floating_point():
            raise TypeError(
                f"times are floats in [0, 1], t = 1 is noise, got {t.dtype}; a whole step i of 1000 is (i + 1) / 1000"
            )
        return t.double()
    if not 0 <= t <= 1:
        raise ValueError(f"times lie in [0, 1], got {t}; a whole step i of 1000 is (i + 1) / 1000")
    return float(t)
