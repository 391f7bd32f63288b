"""Wan's causal autoencoder of videos."""

import torch
from torch import Tensor, nn

from sunlab.backbones.autoencoder import to_signed
from sunlab.backbones.sd.autoencoder import VAE


class WanVAE(VAE):
    """diffusers' AutoencoderKLWan. A video is a picture here, its frames beside each other from left to right.

    Args:
        vae: the model.
        width: of a frame, in pixels.
    """

    def __init__(self, vae: nn.Module, width: int):
        super().__init__(vae)
        self.width = width

    @property
    def factor(self) -> int:  # type: ignore[override]
        return int(self.vae.config.scale_factor_spatial)

    @property
    def channels(self) -> int:  # type: ignore[override]
        return int(self.vae.config.z_dim)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (B, C, 1 + (F - 1) / 4, h, w) of images (B, 3, H, F W): the posterior's mean."""
        vae = nn.Module.to(self.vae, images.device)
        frames = to_signed(images).unflatten(3, (-1, self.width)).transpose(2, 3).to(vae.dtype)
        latents = vae.encode(frames, return_dict=False)[0].mean.float()
        return (latents - self._of("latents_mean", latents)) / self._of("latents_std", latents)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, F W) in [0, 1] of scaled latents (B, C, f, h, w)."""
        vae = nn.Module.to(self.vae, latents.device)
        scaled = latents * self._of("latents_std", latents) + self._of("latents_mean", latents)
        frames = vae.decode(scaled.to(vae.dtype), return_dict=False)[0]
        return (frames.float() / 2 + 0.5).clamp(0, 1).transpose(2, 3).flatten(3)

    def _of(self, name: str, like: Tensor) -> Tensor:
        """A statistic of the configuration, by channel."""
        return torch.tensor(self.vae.config[name]).to(like).view(1, -1, 1, 1, 1)
