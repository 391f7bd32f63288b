"""Multistep consistency sampling (arXiv 2303.01469, algorithm 1) of latent consistency models (2310.04378)."""

import torch
from torch import Tensor

from sunlab.diffusion.path import ProbabilityPath
from sunlab.diffusion.prediction import Denoiser, consistency_function
from sunlab.errors import ConfigError
from sunlab.solvers.base import SOLVERS, Solver
from sunlab.solvers.renoise import keys_of, renoise


@SOLVERS.register("lcm")
class LCM(Solver):
    """Jump to the clean end, add fresh noise up to the next time: x_s = alpha_s f(x_t, t) + sigma_s z.

    f = c_skip x + c_out x_0, with the scalings of the loss `lcm`. The noise z is keyed by `seed`, by the state that a
    sample starts from, and by s.

    Args:
        eta: the share of z that is fresh: z = eta noise + sqrt(1 - eta^2) epsilon; with 0 the sampler is deterministic.
        seed: of the noise.
        sigma_data, timestep_scaling: of the scalings; timestep_scaling 0 would be f = x, infinity f = x_0.

    Raises:
        ConfigError: eta outside [0, 1].
    """

    def __init__(
        self,
        path: ProbabilityPath,
        *,
        eta: float = 1.0,
        seed: int = 0,
        sigma_data: float = 0.5,
        timestep_scaling: float = 10.0,
    ):
        super().__init__(path)
        if not 0 <= eta <= 1:
            raise ConfigError(f"solver.eta is a share, 0 to 1, got {eta}")
        self.eta, self.seed, self.sigma_data, self.timestep_scaling = eta, seed, sigma_data, timestep_scaling

    def step(
        self, denoise: Denoiser, x: Tensor, t: Tensor, s: Tensor, memory: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        prediction = denoise(x, t)
        shape = (-1,) + (1,) * (x.dim() - 1)
        clean = consistency_function(
            prediction, self.path.boundary(t), sigma_data=self.sigma_data, timestep_scaling=self.timestep_scaling
        )
        alpha, sigma = self.path.at(s, x)
        known = memory
        if self.eta == 0:
            z = prediction.epsilon
        else:
            known = keys_of(x, self.seed) if memory is None else memory
            z = self.eta * renoise(known, s, x) + (1 - self.eta**2) ** 0.5 * prediction.epsilon
        return torch.where((t == s).reshape(shape), x, alpha * clean + sigma * z), known
