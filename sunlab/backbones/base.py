"""The contract of a backbone, and the pretrained model (a base for short) that it is part of."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from registry import Registry
from sunlab.backbones.attention import Attachment, Extension, Layers, NetworkLayers, TextAttention, TokenContext
from sunlab.backbones.autoencoder import Autoencoder
from sunlab.backbones.features import hidden_states
from sunlab.backbones.files import Files
from sunlab.backbones.state import checkpoint
from sunlab.backbones.text import TextEncoder
from sunlab.diffusion.path import ProbabilityPath
from sunlab.diffusion.prediction import Prediction
from sunlab.errors import ConfigError
from sunlab.hashing import files_hash
from sunlab.types import Conditioning, PredictionType


class Backbone(nn.Module, ABC):
    """A denoising network with the probability path that it was trained on.

    Attributes:
        folders: its folders in a saved base.
        path: alpha(t) and sigma(t).
        prediction_type: what its output means.
        sample_shape: (C, H, W) of its latents, (C, F, H, W) of F latent frames for video.
        pipeline: diffusers' class of its pipelines.
        masked: whether `predict` takes a mask of the prompt's tokens; else a prompt with one raises `ConfigError`.
    """

    folders: ClassVar[tuple[str, ...]]
    path: ProbabilityPath
    prediction_type: PredictionType
    sample_shape: tuple[int, ...]
    pipeline: ClassVar[str] = "DiffusionPipeline"
    masked: ClassVar[bool] = True

    def network_time(self, t: Tensor) -> Tensor:
        """The network's time input for t in [0, 1] (B,), float32: the training step."""
        return self.path.step(t).float()

    @abstractmethod
    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        """The raw output in the shape of x (B, *sample_shape), t in [0, 1] (B,). `state` reaches the attached extensions in
        this pass alone; without one they are off."""

    @abstractmethod
    def context(self, conditioning: Conditioning) -> TokenContext:
        """The prompt exactly as the attention layers receive it."""

    @abstractmethod
    def text_attention(self) -> Mapping[str, TextAttention]:
        """The layers that an adapter may extend, by path, in the network's order."""

    @abstractmethod
    def extend(self, extensions: Mapping[str, Extension]) -> Attachment:
        """Attach extensions to layers of `text_attention`, by path; on top of those that are there.

        Raises:
            ConfigError: a layer runs code of another library that cannot be composed with; nothing has been changed then.
        """

    @abstractmethod
    def layers(self) -> Mapping[str, nn.Module]:
        """Linear and convolution layers by path, outside the wrappers of other libraries' LoRAs: what a LoRA adapts."""

    @abstractmethod
    def blank(self, rows: int) -> Conditioning:
        """Zeros in the shape of encoded prompts, as many as `rows`, on the current default device."""

    @abstractmethod
    def enable_checkpointing(self, function: Callable[..., Any] = checkpoint) -> None:
        """Recompute activations in the backward pass: `function` (block, arguments) runs each block of the network."""

    @property
    @abstractmethod
    def checkpointing(self) -> bool:
        """Whether activations are recomputed."""

    def middle(self) -> tuple[nn.Module, int]:
        """The layer in the middle of the network whose output a discriminator reads, and its width h.

        Raises:
            ConfigError: the family names none.
        """
        raise ConfigError(f"{type(self).__name__} has no `middle` layer for a discriminator; set loss.gan=0")

    def features(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        """Hidden states (B, P, h), the output of `middle`; the rest of the network is not run."""
        return hidden_states(self.middle()[0], lambda: self.predict(x, t, conditioning))

    @classmethod
    @abstractmethod
    def mismatch(cls, files: Files) -> str | None:
        """Why these files are not a base of this family; None if they are."""

    @classmethod
    @abstractmethod
    def load(
        cls,
        files: Files,
        *,
        options: Mapping[str, Any] = MappingProxyType({}),
        fresh: Collection[str] = (),
        dtype: torch.dtype = torch.float32,
        said: Mapping[str, Any] = MappingProxyType({}),
        weights: bool = True,
    ) -> "BaseModel":
        """The whole base: the backbone with its text encoder and autoencoder. Only safetensors are read.

        Args:
            files: of this family.
            options: keyword arguments of the constructor, checked.
            fresh: parts that start at random weights.
            dtype: of the weights.
            said: stated over the scheduler's configuration, see `stated`.
            weights: False: on the meta device, shapes and types alone.

        Raises:
            ConfigError: a model of another kind, or pickled weights.
            DataError: damaged weights, or weights that do not fit their configuration.
        """

    @classmethod
    def configurations(cls) -> Mapping[str, Path]:
        """Folders with packaged configurations of the family, for files that have none beside them, by name."""
        return {}

    @classmethod
    def known_layers(cls) -> Mapping[str, Layers]:
        """The text-attention layers of the family's published models, by the name that adapter files state."""
        return {}

    @classmethod
    def write_tiny(cls, folder: Path) -> Path:
        """Write a base of the family with random weights that is small enough for tests into `folder`, and return it. The
        tests of `BackboneContract` run on it.

        Raises:
            NotImplementedError: the family has none.
        """
        raise NotImplementedError(f"{cls.__name__} has no tiny base: implement write_tiny, or give the fixture `place`")

    @classmethod
    def adaptable(cls, network: Any) -> NetworkLayers | None:
        """The network of a diffusers pipeline as adapters attach to it; None if the family has no such class of networks."""
        return None

    @abstractmethod
    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write its part of a saved base into `folder`, and the entries that identify the family."""

    def identity(self) -> str:
        """SHA-256 of the names, types, shapes and values of its parameters and buffers."""
        digest = sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def forward(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Prediction:
        value = self.predict(x, t, conditioning, state)
        alpha, sigma = self.path.at(t, x)
        return Prediction(value, self.prediction_type, x, alpha, sigma)


@dataclass(frozen=True)
class BaseModel:
    """A pretrained model.

    Attributes:
        backbone, autoencoder, text: its parts.
        folder: of the configurations.
        weights: folder of a part (`unet`, `vae`, `text_encoder`, ...) -> the files with its weights.
        said: what the user states over the configurations (prediction type, zero terminal SNR).
    """

    backbone: Backbone
    autoencoder: Autoencoder
    text: TextEncoder
    folder: Path
    weights: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)

    @property
    def parts(self) -> tuple[Backbone, TextEncoder, Autoencoder]:
        return self.backbone, self.text, self.autoencoder

    def encode(self, prompts: Sequence[str], *, negative: bool = False, exact: bool = False) -> Conditioning:
        """Embeddings of prompts, or of negative prompts, which some models encode apart; see `TextEncoder.remembered`."""
        return self.text.remembered(prompts, negative=negative, exact=exact)

    def fingerprint(self) -> str:
        """SHA-256 of the weights that make a trajectory: the files of the backbone and the text encoders."""
        names = (*self.backbone.folders, *self.text.folders)
        files = dict.fromkeys(file for name in names for file in self.weights.get(name, ()))
        return self._with_said(files_hash(list(files)))

    def identity(self) -> str:
        """SHA-256 of every file of the base."""
        return self._with_said(self._hash([name for part in self.parts for name in part.folders]))

    def encoders_identity(self, *, text: bool = True) -> str:
        """SHA-256 of the files that make latents of pictures and, with `text`, embeddings of prompts."""
        return self._hash([*self.autoencoder.folders, *(self.text.folders if text else ())])

    def _hash(self, names: Sequence[str]) -> str:
        files = [f for name in names for f in (*sorted((self.folder / name).glob("*")), *self.weights.get(name, ()))]
        return files_hash([file for file in dict.fromkeys(files) if file.is_file()])

    def _with_said(self, digest: str) -> str:
        said = json.dumps(dict(self.said), sort_keys=True)
        return sha256(f"{digest} {said}".encode()).hexdigest() if self.said else digest

    def freeze(self) -> "BaseModel":
        for part in self.parts:
            part.requires_grad_(False).eval()
        return self

    def to(self, device: torch.device | str) -> "BaseModel":
        for part in self.parts:
            part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device


BACKBONES: Registry[Backbone] = Registry(
    "backbone",
    base=Backbone,
    entry_points="sunlab.backbones",
    components=(
        "sunlab.backbones.sd.family",
        "sunlab.backbones.sdxl.family",
        "sunlab.backbones.pixart.transformer",
        "sunlab.backbones.sana.family",
        "sunlab.backbones.sd3.transformer",
        "sunlab.backbones.wan.transformer",
    ),
)
