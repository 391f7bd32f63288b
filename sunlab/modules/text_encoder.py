"""Training the text encoder of a base, before any U-Net sees it."""

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sunlab.modules.base import Module
from sunlab.modules.optimization import Optimization
from sunlab.pipelines.base import BaseModel, save_base
from sunlab.types import Samples


class TextEncoderModule(Module):
    """The mean of a prompt's hidden states is to foretell the picture's latents, linearly.

    Stable Diffusion takes its text encoder ready-made from CLIP's contrastive training on 400 million pairs; a small
    U-Net that has to teach its text encoder from scratch learns the names of things last. This is the lab's stand-in.

    Args:
        base: its text encoder is trained, the rest is frozen.
    """

    def __init__(self, base: BaseModel, *, optimization: Optimization | None = None):
        super().__init__()
        self.base = base.freeze()
        self.text = base.text.model.requires_grad_(True).train()
        self.autoencoder = base.autoencoder
        channels, height, width = base.backbone.sample_shape
        described: Any = base.backbone.unet.config
        self.head = nn.Linear(described.cross_attention_dim, channels * height * width)
        self.optimization = optimization or Optimization()

    def trainable(self) -> dict[str, nn.Parameter]:
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def training_step(self, samples: Samples, index: int) -> Tensor:
        latents = samples.latents
        if latents is None:
            assert samples.images is not None, "a source with images or latents"
            latents = self.base.autoencoder.encode(samples.images)
        foretold = self.head(self.base.text(samples.prompts).tokens.mean(1))
        loss = (foretold - latents.flatten(1)).square().mean()
        self.log("loss", loss, prog_bar=True, batch_size=len(samples))
        return loss

    def export(self, folder: Path) -> list[Path]:
        """A diffusers folder of the base with this text encoder."""
        save_base(self.base, folder)
        return [folder]
