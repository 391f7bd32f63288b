"""diffusers' UNet2DConditionModel as a `Backbone`."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.files import Files, describe_files
from sunlab.backbones.folder import Kinds, Parts, read_folder
from sunlab.backbones.network import Compile, Kernels, NetworkBackbone
from sunlab.backbones.schedule import read_path
from sunlab.backbones.sd.autoencoder import VAE
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.backbones.sd.original_file import stated_scheduler
from sunlab.backbones.sd.single_file import read_single_file
from sunlab.backbones.sd.tokenizer import LENGTH
from sunlab.backbones.state import at_time
from sunlab.backbones.text import TextEncoder
from sunlab.diffusion.path import ProbabilityPath
from sunlab.types import Conditioning, PredictionType

UNET: Kinds = {"unet": ("UNet2DConditionModel",), "vae": ("AutoencoderKL", "AutoencoderTiny")}


class DiffusersUNet(NetworkBackbone):
    """The U-Net of Stable Diffusion 1.x, 2.x and XL, as diffusers loads it.

    Args:
        unet: a UNet2DConditionModel.
        path: the probability path that it was trained on.
        prediction_type: what it predicts.
        channels_last: convolutions in NHWC.
        gradient_checkpointing, attention, compile: see `NetworkBackbone`.
    """

    folders: ClassVar[tuple[str, ...]] = ("unet", "scheduler")
    view = UNetLayers

    def __init__(
        self,
        unet: Any,
        path: ProbabilityPath,
        prediction_type: PredictionType,
        *,
        gradient_checkpointing: bool = False,
        channels_last: bool = False,
        attention: Kernels = "sdpa",
        compile: Compile = "none",
    ):
        super().__init__()
        self.unet: Any = unet
        self.path, self.prediction_type = path, prediction_type
        described: Any = unet.config
        self.sample_shape = (described.in_channels, described.sample_size, described.sample_size)
        if channels_last:
            self.unet.to(memory_format=torch.channels_last)
        self.configure(gradient_checkpointing=gradient_checkpointing, compile=compile, attention=attention)

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        dtype = self.unet.dtype
        given: dict[str, Any] = {"encoder_hidden_states": conditioning.tokens.to(dtype)}
        if conditioning.mask is not None:
            given["encoder_attention_mask"] = conditioning.mask
        if conditioning.pooled is not None:
            given["added_cond_kwargs"] = {"text_embeds": conditioning.pooled.to(dtype), **conditioning.added}
        time = self.network_time(t)
        output = self.attached.run(at_time(state, time), x.to(dtype), time, return_dict=False, **given)[0]
        return output.to(x.dtype)

    def blank(self, rows: int) -> Conditioning:
        return Conditioning(torch.zeros(rows, LENGTH, self.unet.config.cross_attention_dim, dtype=self.unet.dtype))

    def middle(self) -> tuple[nn.Module, int]:
        return self.unet.mid_block, self.unet.config.block_out_channels[-1]

    @classmethod
    @abstractmethod
    def text_encoder(cls, parts: Parts, size: tuple[int, int]) -> TextEncoder:
        """The text encoder of the parts; size: height and width in pixels of the pictures to draw."""

    @classmethod
    @abstractmethod
    def configuration_of(cls, files: Files) -> Path:
        """The packaged configurations that a single file of the family has, by its tensors.

        Raises:
            ConfigError: the file does not say which, and a wrong guess would draw noise.
        """

    @classmethod
    def mismatch(cls, files: Files) -> str | None:
        return super().mismatch(files) if files.index else cls.file_mismatch(files)

    @classmethod
    @abstractmethod
    def file_mismatch(cls, files: Files) -> str | None:
        """Why a single file is not of the family; None if it is."""

    @classmethod
    def read(cls, files: Files, *, fresh: Collection[str], dtype: torch.dtype, weights: bool) -> Parts:
        folder = files.configurations or cls.configuration_of(files)
        if files.single and weights:
            parts = read_single_file(files, folder, cls.kinds, cls.pipeline, dtype=dtype)
        else:
            parts = read_folder(describe_files(folder), cls.kinds, fresh=fresh, dtype=dtype, weights=weights)
        return replace(parts, scheduler={**parts.scheduler, **stated_scheduler(files)})

    @classmethod
    def wrap(
        cls, parts: Parts, scheduler: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Self, TextEncoder, Autoencoder]:
        backbone, autoencoder = cls(parts.network, *read_path(scheduler), **options), VAE(parts.vae)
        _, height, width = backbone.sample_shape
        return backbone, cls.text_encoder(parts, (height * autoencoder.factor, width * autoencoder.factor)), autoencoder
