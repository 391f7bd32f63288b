"""Backbones over one network of diffusers: what all families hand on to it."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

from sunlab.backbones.attention import Attachment, Extension, NetworkLayers, TextAttention, TokenContext
from sunlab.backbones.base import Backbone
from sunlab.backbones.save import save_part
from sunlab.backbones.state import checkpoint
from sunlab.types import Conditioning


class NetworkBackbone(Backbone, ABC):
    """A backbone over one network of diffusers, the module named as the first of its `folders`.

    Attributes:
        index, scheduler: model_index.json and the scheduler's configuration, as they are saved again.
    """

    index: Mapping[str, Any] = MappingProxyType({})
    scheduler: Mapping[str, Any] = MappingProxyType({})

    @property
    @abstractmethod
    def attached(self) -> NetworkLayers:
        """The network as adapters attach to it."""

    def configure(self, *, gradient_checkpointing: bool, compile: str, attention: str = "sdpa") -> None:
        """Apply the constructor's options to the network, see the families."""
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

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        (folder / "scheduler").mkdir(parents=True, exist_ok=True)
        written = {"model_index.json": dict(self.index), "scheduler/scheduler_config.json": dict(self.scheduler)}
        for name, content in written.items():
            (folder / name).write_text(json.dumps(content, indent=2) + "\n")
        save_part(self.attached.network, folder / self.folders[0], dtype)


class TransformerBackbone(NetworkBackbone, ABC):
    """One over a diffusion transformer, a stack of blocks of one width."""

    folders: ClassVar[tuple[str, ...]] = ("transformer", "scheduler")
    transformer: Any

    def middle(self) -> tuple[nn.Module, int]:
        blocks, described = self.transformer.transformer_blocks, self.transformer.config
        return blocks[len(blocks) // 2], described.num_attention_heads * described.attention_head_dim
