"""Training the autoencoder of a base."""

from pathlib import Path

import torch
from torch import Tensor, nn

from sunlab.draws import Draws
from sunlab.encoders.vae import to_signed
from sunlab.modules.base import Module
from sunlab.modules.optimization import Optimization
from sunlab.pipelines.base import BaseModel, save_base
from sunlab.types import Samples


class AutoencoderModule(Module):
    """L1 and squared error of the pictures, a small KL term on the posterior.

    Args:
        base: its autoencoder is trained, the rest is left alone.
        kl_weight: of the KL divergence to the standard normal, summed over a latent and divided by the pixels.
        latent_std: the standard deviation that `scaling_factor` gives the latents, computed at the end.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        optimization: Optimization | None = None,
        kl_weight: float = 1e-6,
        latent_std: float = 0.5,
    ):
        super().__init__()
        self.base, self.kl_weight, self.latent_std = base.freeze(), kl_weight, latent_std
        self.vae = base.autoencoder.vae.requires_grad_(True).train()
        self.optimization = optimization or Optimization()
        self.register_buffer("second_moment", torch.zeros(()), persistent=False)

    def trainable(self) -> dict[str, nn.Parameter]:
        return {f"vae.{name}": p for name, p in self.vae.named_parameters()}

    def training_step(self, samples: Samples, index: int) -> Tensor:
        loss, pixels, target = self._reconstruct(samples)
        self.log("loss", loss, prog_bar=True, batch_size=len(samples))
        self.log("psnr", psnr(pixels, target), prog_bar=True, batch_size=len(samples))
        return loss

    def validation_step(self, samples: Samples, index: int) -> None:
        _, pixels, target = self._reconstruct(samples)
        self.log("validation/psnr", psnr(pixels, target), batch_size=len(samples))

    def _reconstruct(self, samples: Samples) -> tuple[Tensor, Tensor, Tensor]:
        assert samples.images is not None
        target = to_signed(samples.images)
        posterior = self.vae.encode(target).latent_dist
        mean = posterior.mean.detach().float()
        self.second_moment = torch.lerp(mean.square().mean(), self.second_moment, 0.99 if self.global_step else 0.0)
        noise = Draws(samples.seeds, device=target.device).normal("posterior", mean.shape[1:])
        latents = posterior.mean + posterior.std * noise.to(posterior.std)
        pixels = self.vae.decode(latents).sample
        kl = posterior.kl().mean() / target[0].numel()
        error = pixels - target
        return error.abs().mean() + error.square().mean() + self.kl_weight * kl, pixels, target

    def export(self, folder: Path) -> list[Path]:
        """The base with this autoencoder, its `scaling_factor` computed from the latents of the last steps."""
        self.vae.register_to_config(scaling_factor=float(self.latent_std / self.second_moment.sqrt()))
        save_base(self.base, folder)
        return [folder]


def psnr(pixels: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], mean over the batch."""
    error = (pixels.clamp(-1, 1) - target).float().square().flatten(1).mean(1)
    return (10 * torch.log10(4 / error.clamp(min=1e-10))).mean()
