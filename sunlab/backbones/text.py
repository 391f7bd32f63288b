"""The contract of a text encoder: prompts -> embeddings."""

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from sunlab.types import Conditioning


class TextEncoder(nn.Module, ABC):
    """Encodes prompts, and remembers embeddings while it is frozen.

    Args:
        memory: of the remembered embeddings, in MiB; the least recently used are dropped.

    Attributes:
        folders: its folders in a saved base.
        model: the network or networks, whose parameters these are.
        separate_negatives: whether `encode_negative` differs from `forward`.
    """

    folders: ClassVar[tuple[str, ...]]
    model: nn.Module
    separate_negatives: ClassVar[bool] = False

    def __init__(self, *, memory: int = 256):
        super().__init__()
        self._memory: OrderedDict[tuple[bool, int, str], Conditioning] = OrderedDict()
        self._limit = memory * 2**20

    @abstractmethod
    def forward(self, prompts: Sequence[str]) -> Conditioning:
        """Embeddings (B, L, d), with gradient where the model is trained."""

    def encode_negative(self, prompts: Sequence[str]) -> Conditioning:
        """The same of negative prompts, in the same shape. Some models encode them differently (SANA)."""
        return self(prompts)

    @abstractmethod
    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Write its part of a saved base into `folder`."""

    def framed(self, conditioning: Conditioning, crops: Tensor | None) -> Conditioning:
        """The conditioning with the network's inputs about the training pictures.

        Args:
            crops: (B, 6), see `Samples.crops`; None: pictures of the size to draw, uncropped.
        """
        return conditioning

    def forget(self) -> None:
        """Drop all remembered embeddings, for a model that has changed."""
        self._memory.clear()

    @torch.no_grad()
    def remembered(self, prompts: Sequence[str], *, negative: bool = False, exact: bool = False) -> Conditioning:
        """Embeddings without gradient, each distinct prompt encoded once. Only for a model that does not change.

        Args:
            negative: they are negative prompts.
            exact: to the last bit, the embeddings do not depend on what is remembered. New prompts are encoded in a batch of
                as many rows as there are prompts, since batches of another size round differently: a resumed run remembers
                other prompts than an unbroken one.
        """
        apart, count = negative and self.separate_negatives, len(prompts) if exact else 0
        new = [p for p in dict.fromkeys(prompts) if (apart, count, p) not in self._memory]
        if new:
            filled = [*new, *prompts][:count] if exact else new
            encoded = self.encode_negative(filled) if apart else self(filled)
            for row, prompt in enumerate(new):
                self._memory[apart, count, prompt] = encoded[row : row + 1].map(torch.clone)
        for prompt in prompts:
            self._memory.move_to_end((apart, count, prompt))
        rows = Conditioning.cat([self._memory[apart, count, p] for p in prompts])
        size = sum(tensor[0].nbytes for tensor in (rows.tokens, rows.pooled) if tensor is not None)
        while len(self._memory) * size > self._limit:
            self._memory.popitem(last=False)
        return rows
