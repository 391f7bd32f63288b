"""DC-AE, the deep compression autoencoder (arXiv 2410.10733)."""

from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sunlab.backbones.autoencoder import Autoencoder, to_signed
from sunlab.backbones.save import save_part


class DCAE(Autoencoder):
    """diffusers' AutoencoderDC, its latents scaled to the diffusion model's range. It has no posterior: latents are exact.

    Args:
        vae: the model; its config holds `scaling_factor`.
    """

    folders: ClassVar[tuple[str, ...]] = ("vae",)

    def __init__(self, vae: nn.Module):
        super().__init__()
        self.vae: Any = vae

    @property
    def scale(self) -> float:
        return float(self.vae.config.scaling_factor)

    @property
    def factor(self) -> int:  # type: ignore[override]
        return int(self.vae.spatial_compression_ratio)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        vae = nn.Module.to(self.vae, images.device)
        return vae.encode(to_signed(images).to(vae.dtype), return_dict=False)[0].float() * self.scale

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        vae = nn.Module.to(self.vae, latents.device)
        pixels = vae.decode((latents / self.scale).to(vae.dtype), return_dict=False)[0]
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        save_part(self.vae, folder / "vae", dtype)
