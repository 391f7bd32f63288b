"""Training the text encoder of a base, before any U-Net is trained on it."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import save_base
from sunlab.modules.base import Module
from sunlab.modules.optimization import Optimization
from sunlab.types import Samples

CONTRAST = 0.1  # weight of the contrastive loss beside the squared error of the latents
SCALE = 15.0  # inverse temperature


class TextEncoderModule(Module):
    """The mean of a prompt's hidden states is to tell its picture from the batch's others, and to predict its latents.

    Stable Diffusion takes its text encoder ready-made from CLIP's contrastive training on 400 million pairs (arXiv
    2103.00020, section 2.3); a small U-Net that has to teach its text encoder from scratch learns the names of things last.
    This is the lab's stand-in: the same symmetric loss with a linear image tower over the latents, and a linear regression
    of the latents. The regression alone memorises captions: names in new combinations are then lost on it.

    Args:
        base: its text encoder is trained, the rest is frozen.
    """

    def __init__(self, base: BaseModel, *, optimization: Optimization | None = None):
        super().__init__()
        self.base = base.freeze()
        self.text = base.text.model.requires_grad_(True).train()
        self.autoencoder = base.autoencoder
        channels, height, width = base.backbone.sample_shape
        text_width = base.backbone.blank(1).tokens.shape[-1]
        size = channels * height * width
        self.head = nn.Linear(text_width, size)
        self.image = nn.Linear(size, text_width)
        self.optimization = optimization or Optimization()

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def training_step(self, samples: Samples, index: int) -> Tensor:
        latents = samples.latents
        if latents is None:
            assert samples.images is not None, "a source with images or latents"
            latents = self.base.autoencoder.encode(samples.images)
        latents, text = latents.flatten(1), self.base.text(samples.prompts).tokens.mean(1)
        error = (self.head(text) - latents).square().mean()
        contrast = contrastive(text, self.image(latents))
        loss = error + CONTRAST * contrast
        self.note(len(samples), loss=loss, error=error, contrast=contrast)
        return loss

    def export(self, folder: Path) -> list[Path]:
        """A diffusers folder of the base with this text encoder."""
        save_base(self.base, folder)
        return [folder]


def contrastive(text: Tensor, images: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch of pairs, at a fixed temperature.

    Args:
        text, images: (B, width).
    """
    cosine = functional.normalize(text, dim=1) @ functional.normalize(images, dim=1).T
    pairs = torch.arange(len(text), device=text.device)
    return (functional.cross_entropy(SCALE * cosine, pairs) + functional.cross_entropy(SCALE * cosine.T, pairs)) / 2
