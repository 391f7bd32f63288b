"""Training a base: text-to-image diffusion from scratch, a fine-tune, or a style LoRA."""

from pathlib import Path
from typing import Any

from torch import nn

from sunlab.adapters import Adapter
from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import save_base
from sunlab.diffusion.prediction import target
from sunlab.draws import Draws
from sunlab.export.lora import save_lora
from sunlab.losses import LossOutput, Weighting
from sunlab.losses.weighting import Uniform
from sunlab.modules.base import Module
from sunlab.modules.conditioning import positive_of
from sunlab.modules.optimization import Optimization
from sunlab.types import Conditioning, Samples


class TeacherModule(Module):
    """Noise prediction in the base's own parametrisation, text encoder included.

    Captions are dropped by the data (`caption_dropout`), so that the model learns the empty prompt for guidance.

    Args:
        base: its U-Net (and text encoder) are trained; the autoencoder is frozen.
        train_text: whether the text encoder is trained too.
        lora: trained instead of the network, which is frozen.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        weighting: Weighting | None = None,
        optimization: Optimization | None = None,
        train_text: bool = True,
        lora: Adapter | None = None,
    ):
        super().__init__()
        self.base = base.freeze()
        self.backbone = base.backbone.requires_grad_(lora is None).train()
        self.lora = lora
        if lora is not None:
            lora.attach(self.backbone)
            lora.always = True
        self.text = base.text.model.requires_grad_(train_text).train(train_text)
        self.autoencoder, self.train_text = base.autoencoder, train_text
        self.weighting = weighting or Uniform()
        self.optimization = optimization or Optimization()

    def trainable(self) -> dict[str, nn.Parameter]:
        if self.lora is not None:  # its tensors are the backbone's, under names of their own
            wanted = {id(p) for p in self.lora.trainable()}
            return {name: p for name, p in self.named_parameters() if id(p) in wanted}
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def training_step(self, samples: Samples, index: int) -> dict[str, Any]:
        latents = samples.latents
        if latents is None:
            assert samples.images is not None, "a source with images or latents"
            latents = self.autoencoder.encode(samples.images)
        backbone = self.base.backbone
        path = backbone.path
        draws = Draws(samples.seeds, device=self.device)
        t = path.training_time(draws)
        noise = draws.normal("noise", latents.shape[1:])
        prompts = self.prompts(samples)
        prediction = backbone(path.add_noise(latents, noise, t), t, prompts)
        wanted = target(backbone.prediction_type, latents, noise, prediction.alpha, prediction.sigma)
        values = (prediction.value - wanted).square().flatten(1).mean(1)
        loss = (values * self.weighting(path, t, t).to(values)).mean()
        self.note(len(samples), loss=loss)
        return {"loss": loss, "output": LossOutput(values.detach(), t, t)}

    def prompts(self, samples: Samples) -> Conditioning:
        """Encoded with gradient where the text encoder is trained."""
        text = self.base.text
        return text.framed(text(samples.prompts), samples.crops) if self.train_text else positive_of(self.base, samples)

    def export(self, folder: Path) -> list[Path]:
        """A diffusers folder of the whole base, fp16; or the LoRA, as `pipe.load_lora_weights` takes it."""
        if self.lora is not None:
            return [save_lora(folder / "pytorch_lora_weights.safetensors", self.lora.tensors(), self.lora.spec)]
        save_base(self.base, folder)
        return [folder]

    def train(self, mode: bool = True) -> "TeacherModule":
        super().train(mode)
        self.autoencoder.eval()
        self.text.train(mode and self.train_text)
        return self

    def on_train_start(self) -> None:
        super().on_train_start()
        self.train()
