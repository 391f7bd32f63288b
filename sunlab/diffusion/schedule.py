"""The noise schedule x_t = alpha_t x_0 + sigma_t epsilon, variance preserving: alpha_t^2 + sigma_t^2 = 1."""

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.types import END

BetaSchedule = Literal["scaled_linear", "linear", "squaredcos_cap_v2"]


@dataclass(frozen=True)
class Schedule:
    """A discrete schedule, continued between its steps by linear interpolation of log alpha^2.

    Attributes:
        alphas_cumprod: alpha_t^2 for t = 0 ... T-1, float64 (T,).
    """

    alphas_cumprod: Tensor

    @classmethod
    def from_betas(
        cls,
        *,
        kind: BetaSchedule = "scaled_linear",
        start: float = 0.00085,
        end: float = 0.012,
        steps: int = 1000,
        zero_terminal_snr: bool = False,
    ) -> "Schedule":
        """Stable Diffusion's schedule by default. Raises `ConfigError` for an unknown kind.

        `zero_terminal_snr` shifts and scales sqrt(alpha^2) so that the last step is pure noise (arXiv 2305.08891,
        algorithm 1).
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

    @property
    def steps(self) -> int:
        return len(self.alphas_cumprod)

    def alpha_sigma(self, t: Tensor | int | float) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t in float64, shaped like `t`. t in [0, T-1], whole or not, or `END`.

        Raises:
            ValueError: a time outside the schedule.
        """
        t = torch.as_tensor(t, dtype=torch.float64)
        if bool(((t < 0) & (t != END)).any()) or bool((t > self.steps - 1).any()):
            raise ValueError(f"times must lie in [0, {self.steps - 1}] or be {END}, got {t.tolist()}")
        table = self.alphas_cumprod.to(t.device)
        low = t.clamp(min=0).floor().long().clamp(max=self.steps - 1)
        high = (low + 1).clamp(max=self.steps - 1)
        part = t.clamp(min=0) - low
        squared = torch.where(part == 0, table[low], table[low] ** (1 - part) * table[high] ** part)
        squared = torch.where(t == END, torch.ones_like(squared), squared)
        return squared.sqrt(), (1 - squared).sqrt()

    def log_snr(self, t: Tensor | int | float) -> Tensor:
        """Half the log signal-to-noise ratio, lambda_t = log(alpha_t / sigma_t); +inf at `END`."""
        alpha, sigma = self.alpha_sigma(t)
        return alpha.log() - sigma.log()

    def add_noise(self, x_0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t for x_0, noise (B, C, H, W) and t (B,)."""
        alpha, sigma = self.at(t, x_0)
        return alpha * x_0 + sigma * noise

    def at(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_t and sigma_t ready to be multiplied with `like` (B, ...)."""
        alpha, sigma = self.alpha_sigma(t)
        shape = (-1,) + (1,) * (like.dim() - 1)
        return alpha.to(like).reshape(shape), sigma.to(like).reshape(shape)
