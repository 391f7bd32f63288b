"""Backbones over one network of diffusers: what all families hand on to it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, Self

import torch
from torch import nn

from sunlab.backbones.attention import Attachment, Extension, Layers, NetworkLayers, TextAttention, TokenContext
from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.base import Backbone, BaseModel
from sunlab.backbones.files import Files
from sunlab.backbones.folder import Kinds, Parts, index_mismatch, read_folder
from sunlab.backbones.save import save_part
from sunlab.backbones.state import checkpoint
from sunlab.backbones.text import TextEncoder
from sunlab.diffusion.path import ProbabilityPath
from sunlab.errors import ConfigError
from sunlab.types import Conditioning, PredictionType

FAMILIES = Path(__file__).parents[1] / "assets" / "families"
Compile = Literal["none", "default", "reduce-overhead", "max-autotune"]
Kernels = Literal["sdpa", "eager"]


class NetworkBackbone(Backbone, ABC):
    """A backbone over one network of diffusers, the module named as the first of its `folders`.

    Args:
        gradient_checkpointing: recompute activations in the backward pass: less memory, a third more compute.
        compile: the mode of torch.compile, compiled in the first pass with each shape and state of the adapter; it needs a
            C++ compiler on CPUs. `none`: not compiled.
        attention: `sdpa`, torch's fused kernels; `eager`, matrix products and softmax, which on CPUs in bfloat16 take half
            the time of the fused kernel's backward.

    Attributes:
        kinds: the classes of the parts of its bases.
        view: its network as adapters attach to it.
        packaged: names of its configurations in `FAMILIES`.
        shapes: the text-attention layers of its published models, by name.
        index, scheduler: model_index.json and the scheduler's configuration, as they are saved again.
    """

    kinds: ClassVar[Kinds]
    view: ClassVar[type[NetworkLayers]]
    packaged: ClassVar[tuple[str, ...]] = ()
    shapes: ClassVar[Mapping[str, Layers]] = MappingProxyType({})
    index: Mapping[str, Any] = MappingProxyType({})
    scheduler: Mapping[str, Any] = MappingProxyType({})

    @property
    def attached(self) -> NetworkLayers:
        """The network as adapters attach to it."""
        return self.view(getattr(self, self.folders[0]))

    def configure(
        self, *, gradient_checkpointing: bool = False, compile: Compile = "none", attention: Kernels = "sdpa"
    ) -> None:
        """Apply options of the constructor to the network."""
        network = self.attached.network
        if attention == "eager":
            from diffusers.models.attention_processor import AttnProcessor

            network.set_attn_processor(AttnProcessor())
        if gradient_checkpointing:
            self.enable_checkpointing()
        if compile != "none":
            network.compile(mode=compile)  # in place: names of parameters and the module itself stay as they are

    def context(self, conditioning: Conditioning) -> TokenContext:
        return self.attached.context(conditioning)

    def text_attention(self) -> Mapping[str, TextAttention]:
        return self.attached.text_attention()

    def extend(self, extensions: Mapping[str, Extension]) -> Attachment:
        return self.attached.extend(extensions)

    def layers(self) -> Mapping[str, nn.Module]:
        return self.attached.layers()

    def enable_checkpointing(self, function: Callable[..., Any] = checkpoint) -> None:
        self.attached.network.enable_gradient_checkpointing(function)

    @property
    def checkpointing(self) -> bool:
        return bool(self.attached.network.is_gradient_checkpointing)

    @classmethod
    def mismatch(cls, files: Files) -> str | None:
        return index_mismatch(files, cls.kinds)

    @classmethod
    def configurations(cls) -> Mapping[str, Path]:
        return {name: FAMILIES / name for name in cls.packaged}

    @classmethod
    def known_layers(cls) -> Mapping[str, Layers]:
        return cls.shapes

    @classmethod
    def read(cls, files: Files, *, fresh: Collection[str], dtype: torch.dtype, weights: bool) -> Parts:
        """The models of a base, see `load`."""
        return read_folder(files, cls.kinds, fresh=fresh, dtype=dtype, weights=weights)

    @classmethod
    @abstractmethod
    def wrap(
        cls, parts: Parts, scheduler: Mapping[str, Any], options: Mapping[str, Any]
    ) -> tuple[Self, TextEncoder, Autoencoder]:
        """The backbone, text encoder and autoencoder over the models.

        Args:
            parts: the models.
            scheduler: its configuration, with what the user states over it.
            options: of the constructor.
        """

    @classmethod
    def load(
        cls,
        files: Files,
        *,
        options: Mapping[str, Any] = MappingProxyType({}),
        fresh: Collection[str] = (),
        dtype: torch.dtype = torch.float32,
        said: Mapping[str, Any] = MappingProxyType({}),
        weights: bool = True,
    ) -> BaseModel:
        with nullcontext() if weights else torch.device("meta"):
            parts = cls.read(files, fresh=fresh, dtype=dtype, weights=weights)
        scheduler = {**parts.scheduler, **said}
        backbone, text, autoencoder = cls.wrap(parts, scheduler, options)
        backbone.index, backbone.scheduler = parts.index, scheduler
        if (channels := backbone.sample_shape[0]) != autoencoder.channels:
            raise ConfigError(
                f"{parts.folder}: its {cls.folders[0]} takes {channels} channels, its autoencoder makes "
                f"{autoencoder.channels} (an inpainting or depth model?); a text-to-image base is needed"
            )
        return BaseModel(backbone, autoencoder, text, parts.folder, parts.weights, said)

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        (folder / "scheduler").mkdir(parents=True, exist_ok=True)
        written = {"model_index.json": dict(self.index), "scheduler/scheduler_config.json": dict(self.scheduler)}
        for name, content in written.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        save_part(self.attached.network, folder / self.folders[0], dtype)


class TransformerBackbone(NetworkBackbone, ABC):
    """One over a diffusion transformer, a stack of blocks of one width. Its latents are square where the transformer's
    configuration states their size; else the family sets `sample_shape`.

    Args:
        transformer: diffusers' model.
        path: the probability path that it was trained on.
        prediction_type: what it predicts.
        gradient_checkpointing, compile: see `NetworkBackbone`.

    Attributes:
        blocks: the transformer's attribute with them.
    """

    folders: ClassVar[tuple[str, ...]] = ("transformer", "scheduler")
    blocks: ClassVar[str] = "transformer_blocks"

    def __init__(
        self,
        transformer: Any,
        path: ProbabilityPath,
        prediction_type: PredictionType,
        *,
        gradient_checkpointing: bool = False,
        compile: Compile = "none",
    ):
        super().__init__()
        self.transformer: Any = transformer
        self.path, self.prediction_type = path, prediction_type
        if (side := getattr(transformer.config, "sample_size", None)) is not None:
            self.sample_shape = (transformer.config.in_channels, side, side)
        self.configure(gradient_checkpointing=gradient_checkpointing, compile=compile)

    @classmethod
    def adaptable(cls, network: Any) -> NetworkLayers | None:
        return cls.view(network) if type(network).__name__ in cls.kinds[cls.folders[0]] else None

    def middle(self) -> tuple[nn.Module, int]:
        blocks, described = getattr(self.transformer, self.blocks), self.transformer.config
        return blocks[len(blocks) // 2], described.num_attention_heads * described.attention_head_dim
