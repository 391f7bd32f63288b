"""The contract of an autoencoder: pixels <-> latents."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from sunlab.errors import ConfigError


class Autoencoder(nn.Module, ABC):
    """It moves to the device of its input: a training from stored latents keeps none on its accelerator until it samples.

    Attributes:
        folders: its folders in a saved base.
        factor: pixels that a latent position is wide.
        channels: C of its latents.
    """

    folders: ClassVar[tuple[str, ...]]
    factor: int
    channels: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (B, C, H / factor, W / factor) of images (B, 3, H, W) uint8, without gradient."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of scaled latents (B, C, h, w), without gradient."""

    @abstractmethod
    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write its part of a saved base into `folder`."""


class Sliced(Autoencoder):
    """Another autoencoder, a few pictures at a time, so that memory does not grow with the batch.

    Args:
        inner: what encodes and decodes.
        rows: pictures at a time.

    Raises:
        ConfigError: no pictures at a time.
    """

    def __init__(self, inner: Autoencoder, rows: int):
        super().__init__()
        if rows < 1:
            raise ConfigError(f"model.autoencoder_batch is {rows}: give at least 1, or null for the whole batch")
        self.inner, self.rows = inner, rows
        self.folders, self.factor, self.channels = inner.folders, inner.factor, inner.channels  # type: ignore[misc]

    def encode(self, images: Tensor) -> Tensor:
        return torch.cat([self.inner.encode(part) for part in images.split(self.rows)])

    def decode(self, latents: Tensor) -> Tensor:
        return torch.cat([self.inner.decode(part) for part in latents.split(self.rows)])

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        self.inner.save(folder, dtype=dtype)


def to_signed(images: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return images.float() / 127.5 - 1
