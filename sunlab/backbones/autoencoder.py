"""The contract of an autoencoder: pixels <-> latents."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn


class Autoencoder(nn.Module, ABC):
    """It moves to the device of its input: a training from stored latents keeps none on its accelerator until it samples.

    Attributes:
        folders: its folders in a saved base.
        factor: pixels that a latent position is wide.
    """

    folders: ClassVar[tuple[str, ...]]
    factor: int

    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents (B, C, H / factor, W / factor) of images (B, 3, H, W) uint8, without gradient."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] of scaled latents (B, C, h, w), without gradient."""

    @abstractmethod
    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write its part of a saved base into `folder`."""


def to_signed(images: Tensor) -> Tensor:
    """uint8 -> [-1, 1]."""
    return images.float() / 127.5 - 1
