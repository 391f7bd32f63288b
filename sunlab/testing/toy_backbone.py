"""A whole base small enough to read: rectified flow, text with padding, and a network that passes no keyword arguments on.

It is registered as `toy`, and shows what a new family has to write: a backbone, a text encoder and an autoencoder.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sunlab.backbones import BACKBONES, Autoencoder, Backbone, BaseModel, Extension, Files, TextEncoder, TokenContext
from sunlab.backbones.autoencoder import to_signed
from sunlab.backbones.state import at_time, carrying, checkpoint
from sunlab.backbones.weight_files import reading
from sunlab.diffusion.path import RectifiedFlow
from sunlab.testing.toy import SHAPE, TOKENS
from sunlab.testing.toy_attention import ToyAttachment, ToyAttention, ToyTextAttention
from sunlab.types import Conditioning

WIDTH = 16
LENGTH, TEXT = TOKENS
INDEX = {"_class_name": "ToyModel"}


class ToyBlock(nn.Module):
    """Cross-attention to the prompt and a feed-forward layer, over hidden states (B, P, h)."""

    def __init__(self) -> None:
        super().__init__()
        self.attn2 = ToyAttention(WIDTH, WIDTH, heads=2)
        self.mix = nn.Linear(SHAPE[1] * SHAPE[2], SHAPE[1] * SHAPE[2])
        self.ff = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, hidden: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        hidden = hidden + self.mix(hidden.mT).mT
        hidden = hidden + self.attn2(hidden, tokens, mask)
        return hidden + self.ff(hidden)


@BACKBONES.register("toy")
class ToyBackbone(Backbone):
    """Two blocks over latents (2, 4, 4).

    Args:
        gradient_checkpointing: recompute activations in the backward pass.
    """

    folders: ClassVar[tuple[str, ...]] = ("network",)
    prediction_type = "flow"
    sample_shape = SHAPE

    def __init__(self, *, gradient_checkpointing: bool = False):
        super().__init__()
        self.path = RectifiedFlow(shift=2.0)
        self.caption = nn.Sequential(nn.Linear(TEXT, WIDTH), nn.LayerNorm(WIDTH))
        self.time = nn.Sequential(nn.Linear(2, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.proj_in, self.proj_out = nn.Linear(SHAPE[0], WIDTH), nn.Linear(WIDTH, SHAPE[0])
        self.blocks: Any = nn.ModuleList(ToyBlock() for _ in range(2))
        self._recompute: Callable[..., Any] | None = checkpoint if gradient_checkpointing else None

    def predict(self, x: Tensor, t: Tensor, conditioning: Conditioning, state: Any = None) -> Tensor:
        with carrying(at_time(state, self.network_time(t))):
            return self._run(x, t, conditioning)

    def _run(self, x: Tensor, t: Tensor, conditioning: Conditioning) -> Tensor:
        given, dtype = self.context(conditioning), self.proj_in.weight.dtype
        phase = (self.network_time(t) / 1000).to(dtype)
        hidden = self.proj_in(x.to(dtype).flatten(2).mT) + self.time(torch.stack([phase, phase.cos()], -1))[:, None]
        for block in self.blocks:
            if self._recompute is not None and torch.is_grad_enabled():
                hidden = self._recompute(block, hidden, given.tokens, given.mask)
            else:
                hidden = block(hidden, given.tokens, given.mask)
        return self.proj_out(hidden).mT.unflatten(2, SHAPE[1:]).to(x.dtype)

    def context(self, conditioning: Conditioning) -> TokenContext:
        return TokenContext(self.caption(conditioning.tokens.to(self.proj_in.weight.dtype)), conditioning.mask)

    def text_attention(self) -> dict[str, ToyTextAttention]:
        return {f"blocks.{i}.attn2": ToyTextAttention(block.attn2) for i, block in enumerate(self.blocks)}

    def extend(self, extensions: Mapping[str, Extension]) -> ToyAttachment:
        return ToyAttachment({path: layer.attention for path, layer in self.text_attention().items()}, extensions)

    def layers(self) -> dict[str, nn.Module]:
        """Every linear layer by path."""
        return {name: module for name, module in self.named_modules() if isinstance(module, nn.Linear)}

    def blank(self, rows: int) -> Conditioning:
        return Conditioning(torch.zeros(rows, LENGTH, TEXT), mask=torch.ones(rows, LENGTH, dtype=torch.bool))

    def enable_checkpointing(self, function: Callable[..., Any] = checkpoint) -> None:
        self._recompute = function

    def middle(self) -> tuple[nn.Module, int]:
        return self.blocks[0], WIDTH

    @property
    def checkpointing(self) -> bool:
        return self._recompute is not None

    @classmethod
    def mismatch(cls, files: Files) -> str | None:
        kind = files.index.get("_class_name")
        return None if kind == INDEX["_class_name"] else f"its class is {kind}, not {INDEX['_class_name']}"

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
        with torch.device("cpu" if weights else "meta"):
            base = BaseModel(cls(**options), ToyAutoencoder(), ToyText(), files.place, said=said)
        found = {}
        for part in base.parts:
            (name,) = part.folders
            if weights and name not in fresh:
                found[name] = (files.place / name / "model.safetensors",)
                with reading(str(found[name][0])):
                    part.load_state_dict(load_file(found[name][0]))
            part.to(dtype)
        return BaseModel(base.backbone, base.autoencoder, base.text, files.place, found, said)

    @classmethod
    def write_tiny(cls, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for part in toy_base().parts:
            part.save(folder, dtype=torch.float32)
        return folder

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        (folder / "model_index.json").write_text(json.dumps(INDEX))
        save_weights(self, folder / "network", dtype)


class ToyText(TextEncoder):
    """Five words at most after a start token, each a row of a table; the rest is padding, which is masked."""

    folders: ClassVar[tuple[str, ...]] = ("words",)

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Embedding(64, TEXT)

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        rows = [[1, *(2 + sha256(word.encode()).digest()[0] % 62 for word in p.split()[: LENGTH - 1])] for p in prompts]
        ids = torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows], device=next(self.parameters()).device)
        return Conditioning(self.model(ids), mask=ids > 0)

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        save_weights(self, folder / "words", dtype)


class ToyAutoencoder(Autoencoder):
    """One convolution each way."""

    folders: ClassVar[tuple[str, ...]] = ("pixels",)
    factor, channels = 8, SHAPE[0]

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Conv2d(3, 2, 8, 8), nn.ConvTranspose2d(2, 3, 8, 8)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        return self.to(images.device).encoder(to_signed(images).to(self.encoder.weight.dtype)).float()

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        pixels = self.to(latents.device).decoder(latents.to(self.decoder.weight.dtype))
        return (pixels.float() / 2 + 0.5).clamp(0, 1)

    def save(self, folder: Path, *, dtype: torch.dtype) -> None:
        save_weights(self, folder / "pixels", dtype)


def save_weights(part: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.detach().to(dtype).contiguous().clone() for k, v in part.state_dict().items()}, folder / "model.safetensors"
    )


def toy_base(seed: int = 0) -> BaseModel:
    """A toy with random weights, the same for a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BaseModel(ToyBackbone(), ToyAutoencoder(), ToyText(), Path("toy"))
