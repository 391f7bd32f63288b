"""Pixels <-> latents."""

from typing import Any

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module):
    """diffusers' AutoencoderKL (or AutoencoderTiny), its latents scaled to the diffusion model's range.

    It moves to the device of what it is handed: a training from stored latents has none on its accelerator until pictures
    are drawn.

    Args:
        vae: the model; its config holds `scaling_factor`.
    """

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae: Any = vae

    @property
    def scale(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def factor(self) -> int:
        """Pixels a latent position is wide."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (B, C, H / f, W / f) of images (B, 3, H, W) uint8: the posterior's mean."""
        encoded = nn.Module.to(self.vae, images.device).encode(to_signed(images).to(self.vae.dtype))
        latents = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latents
        return latents.float() * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of scaled latents (B, C, h, w)."""
        pixels = nn.Module.to(self.vae, latents.device).decode((latents / self.scale).to(self.vae.dtype), return_dict=False)[
            0
        ]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)


def to_signed(images: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return images.float() / 127.5 - 1
