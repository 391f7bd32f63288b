"""LCM-LoRA as it is usually trained: the facts of the public recipe (arXiv 2311.05556), written down plainly.

Two U-Nets in memory, the teacher's and that with peft's LoRA, both frozen and so in the base's type (the published script
keeps the second in float32, which takes more); in each step pixels and captions are encoded, and the teacher
is evaluated twice, with the caption and with the empty prompt.
"""

from copy import deepcopy
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor

from sunlab.adapters.lora import LCM as TARGETS
from sunlab.backbones.base import BaseModel
from sunlab.draws import Draws
from sunlab.losses.lcm import LCM
from sunlab.types import Conditioning, Samples


class UsualLCMLoRA:
    """One step of the recipe.

    Args:
        base: frozen; its backbone becomes the teacher, a copy of it the student.
        skip: k of the recipe, the teacher's step.
    """

    def __init__(self, base: BaseModel, *, skip: int = 20):
        self.base, self.teacher, self.student, self.skip = base, base.backbone, deepcopy(base.backbone), skip
        network: Any = self.student
        network.unet.add_adapter(LoraConfig(r=64, lora_alpha=64, target_modules=list(TARGETS)))
        for parameter in self.trainable():
            parameter.data = parameter.data.float()  # trained in single precision, as ours are
        self.empty = base.text([""]).tokens

    def trainable(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.student.parameters() if parameter.requires_grad]

    def loss(self, samples: Samples) -> Tensor:
        """The mean pseudo-Huber distance of f(x_t, t) to f(x_{t-k}, t - k), c = 1e-3."""
        assert samples.images is not None
        draws, path = Draws(samples.seeds, device=samples.images.device), self.teacher.path
        with torch.no_grad():
            x_0, positive = self.base.autoencoder.encode(samples.images), self.base.text(samples.prompts)
            step = path.last - self.skip * draws.integers("t", 0, path.steps // self.skip)
            t = path.time(step)
            s, w = path.time((step - self.skip).clamp(min=0)), draws.uniform("w", 6.0, 16.0)[:, None, None, None]
            alpha, sigma = path.at(t, x_0)
            x_t = alpha * x_0 + sigma * draws.normal("noise", x_0.shape[1:])
            empty = Conditioning(self.empty.expand(len(t), -1, -1))
            caption, blank = self.teacher(x_t, t, positive), self.teacher(x_t, t, empty)
            guided_x, guided_e = (u + w * (c - u) for c, u in ((caption.x_0, blank.x_0), (caption.epsilon, blank.epsilon)))
            alpha_s, sigma_s = path.at(s, x_0)
            target = self._clean(alpha_s * guided_x + sigma_s * guided_e, s, positive)
        difference = self._clean(x_t, t, positive) - target
        return ((difference.square() + 1e-6).sqrt() - 1e-3).mean()

    def _clean(self, x: Tensor, t: Tensor, positive: Conditioning) -> Tensor:
        scaled = (10.0 * self.teacher.path.step(t)).view(-1, 1, 1, 1)
        square = scaled**2 + 0.25
        return (0.25 / square).to(x) * x + (scaled / square.sqrt()).to(x) * self.student(x, t, positive).x_0


RECIPE = LCM(skip=20)
"""Ours, of the same recipe."""
