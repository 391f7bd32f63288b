"""Training the autoencoder of a base."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.backbones.autoencoder import Sliced, to_signed
from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import save_base
from sunlab.backbones.sd.autoencoder import VAE
from sunlab.draws import Draws
from sunlab.errors import ConfigError
from sunlab.modules.base import Module
from sunlab.modules.optimization import Optimization
from sunlab.transfer import sent
from sunlab.types import Samples


class AutoencoderModule(Module):
    """L1 and squared error of the pictures, a small KL term on the posterior.

    Args:
        base: its autoencoder is trained, the rest is left alone.
        kl_weight: of the KL divergence to the standard normal, summed over a latent and divided by the pixels.
        latent_std: the standard deviation that `scaling_factor` gives the latents.
        crop: side of the crops that the first part of the training sees, in pixels; 0: whole pictures only. Cheaper by
            the area, and enough to learn local detail; the rest of the training settles normalisation over whole ones.
        crop_share: how large that part is.
    """

    moments: Tensor

    def __init__(
        self,
        base: BaseModel,
        *,
        optimization: Optimization | None = None,
        kl_weight: float = 1e-6,
        latent_std: float = 0.5,
        crop: int = 0,
        crop_share: float = 0.6,
    ):
        super().__init__()
        self.base, self.kl_weight, self.latent_std = base.freeze(), kl_weight, latent_std
        self.crop, self.crop_share = crop, crop_share
        vae: Any = getattr(base.autoencoder, "vae", base.autoencoder)
        kind = type(vae).__name__
        if kind != "AutoencoderKL":
            remedy = (
                "omit model.autoencoder_batch"
                if isinstance(base.autoencoder, Sliced)
                else "set model.base to one that has it"
            )
            raise ConfigError(
                f"{base.folder}: task autoencoder trains diffusers' AutoencoderKL in whole batches, not {kind}; {remedy}"
            )
        self.vae: Any = vae.requires_grad_(True).train()
        self.optimization = optimization or Optimization()
        channels = self.vae.config.latent_channels
        self.register_buffer("moments", torch.zeros(3, channels), persistent=False)  # sums of 1, z, z^2, decaying

    def trainable(self) -> dict[str, nn.Parameter]:
        return {f"vae.{name}": p for name, p in self.vae.named_parameters()}

    def training_step(self, samples: Samples, index: int) -> Tensor:
        loss, pixels, target = self._reconstruct(samples, self._view(samples))
        self.note(len(samples), loss=loss, psnr=psnr(pixels, target))
        return loss

    def _view(self, samples: Samples) -> Tensor:
        """What this step sees: every other picture mirrored, and early on a crop, its corner on the latents' lattice."""
        assert samples.images is not None
        draws = Draws(samples.seeds)
        mirrored = sent(draws.integers("mirror", 0, 2).bool(), samples.images.device)
        images = torch.where(mirrored.view(-1, 1, 1, 1), samples.images.flip(3), samples.images)
        if self.crop and self.global_step < self.crop_share * self.trainer.max_steps:
            lattice = self.base.autoencoder.factor
            places = [
                (draws.integers(side, 0, (images.shape[2 + axis] - self.crop) // lattice + 1) * lattice).tolist()
                for axis, side in enumerate(("top", "left"))
            ]
            rows = zip(images, *places, strict=True)
            images = torch.stack([i[:, y : y + self.crop, x : x + self.crop] for i, y, x in rows])
        return to_signed(images)

    def _reconstruct(self, samples: Samples, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        posterior = self.vae.encode(target).latent_dist
        mean = posterior.mean
        self._observe(mean.detach().float())
        noise = Draws(samples.seeds, device=target.device).normal("posterior", mean.shape[1:])
        latents = mean + posterior.std * noise.to(posterior.std)
        pixels = self.vae.decode(latents).sample
        kl = posterior.kl().mean() / target[0].numel()
        error = pixels - target
        return error.abs().mean() + error.square().mean() + self.kl_weight * kl, pixels, target

    def _observe(self, mean: Tensor) -> None:
        per_channel = mean.transpose(0, 1).flatten(1)
        now = torch.stack([torch.ones_like(per_channel), per_channel, per_channel.square()]).mean(2)
        self.moments.lerp_(now, 0.005)

    def export(self, folder: Path) -> list[Path]:
        """The base with this autoencoder, its latents standardised by channel, `scaling_factor` = `latent_std`."""
        weight, mean, square = self.moments.unbind()
        mean = mean / weight
        vae = deepcopy(self.vae)  # the training may go on
        standardise(vae, mean, (square / weight - mean.square()).sqrt())
        vae.register_to_config(scaling_factor=self.latent_std)
        save_base(replace(self.base, autoencoder=VAE(vae)), folder)
        return [folder]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        checkpoint["moments"] = self.moments

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.moments.copy_(checkpoint.get("moments", self.moments))


@torch.no_grad()
def standardise(vae: Any, mean: Tensor, std: Tensor) -> None:
    """Fold latents' means and standard deviations by channel (C,) into the two 1x1 convolutions around them: the same
    pictures, latents of mean 0 and deviation 1."""
    channels = len(mean)
    vae.quant_conv.bias[:channels] -= mean
    vae.quant_conv.bias[:channels] /= std
    vae.quant_conv.weight[:channels] /= std.view(-1, 1, 1, 1)
    vae.quant_conv.bias[channels:] -= 2 * std.log()
    vae.post_quant_conv.bias += vae.post_quant_conv.weight[:, :, 0, 0] @ mean
    vae.post_quant_conv.weight *= std.view(1, -1, 1, 1)


def psnr(pixels: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], mean over the batch."""
    error = (pixels.clamp(-1, 1) - target).float().square().flatten(1).mean(1)
    return (10 * torch.log10(4 / error.clamp(min=1e-10))).mean()
