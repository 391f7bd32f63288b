"""diffusers' autoencoders of pictures."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunlab.backbones.autoencoder import Autoencoder, to_signed
from sunlab.backbones.save import save_part


class VAE(Autoencoder):
    """diffusers' AutoencoderKL (or AutoencoderTiny, AutoencoderDC), its latents scaled to the diffusion model's range.

    Args:
        vae: the model; its config holds `scaling_factor`, and `shift_factor` if its latents are shifted too.
    """

    folders: ClassVar[tuple[str, ...]] = ("vae",)

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae: Any = vae

    @property
    def scale(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def shift(self) -> float:
        return float(getattr(self.vae.config, "shift_factor", None) or 0.0)

    @property
    def factor(self) -> int:  # type: ignore[override]
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def channels(self) -> int:  # type: ignore[override]
        return int(self.vae.config.latent_channels)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents of images: the posterior's mean, where there is a posterior."""
        vae = nn.Module.to(self.vae, images.device)
        encoded = vae.encode(to_signed(images).to(vae.dtype), return_dict=False)[0]
        latents = encoded if isinstance(encoded, Tensor) else encoded.mean
        return (latents.float() - self.shift) * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = nn.Module.to(self.vae, latents.device)
        pixels = vae.decode((latents / self.scale + self.shift).to(vae.dtype), return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        save_part(self.vae, folder / "vae", dtype)
