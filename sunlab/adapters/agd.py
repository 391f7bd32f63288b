"""Adapter guidance distillation (AGD, arXiv 2503.07274)."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from sunlab.adapters.base import ADAPTERS, REPLACED, Adapter
from sunlab.adapters.state import PassState
from sunlab.backbones.attention import Adaptable, Attachment, AttentionCall, TextAttention
from sunlab.backbones.weights import device_of, dtype_of
from sunlab.errors import ConfigError
from sunlab.types import Conditioning


@ADAPTERS.register("agd")
class AGD(Adapter):
    """Small adapters beside the text-attention layers that learn classifier-free guidance in one pass.

    The output of each layer becomes `Attention(x, c) + f(x; w, t, c)`, f conditioned on the guidance scale w, the time t and
    the prompt c, and zero at first. It follows the authors' code (cristianpjensen/agd on GitHub): `attention` is their
    `CrossAttentionCFGAdapter` (agd/models/attention.py), `offset` their `AdditiveCFGAdapter` (agd/models/additive.py); the
    numbers of the paper's equations were not at hand. It is trained on CFG-guided trajectories: `loss: {name: cfg, states:
    teacher}` over `teacher.guidance: [low, high]`. It distils guidance against one unconditional prompt (`data.negatives:
    empty`), so negative prompts have no effect, and it reduces no steps.

    Args:
        architecture: of f. `attention`: one head, `f = W_o softmax(Q K^T / sqrt(h)) V + b` with Q = W_q x, K = W_k z,
            V = W_v z and z the tokens E_w(w), E_t(t) and W_c c + b_c, plus sinusoids of their positions. `offset`:
            `f = W_o LayerNorm(relu(W (E_w(w) + E_t(t) + W_c mean(c) + b_c) + b)) + b_o`, the same at all positions. E is
            `LayerNorm(MLP(cos(2 pi (f s + p))))` of a number s.
        hidden: width of f inside.
    """

    steered = True
    uses_negative = False
    scales = frozenset({"scale"})

    def __init__(self, *, architecture: Literal["attention", "offset"] = "attention", hidden: int = 320):
        super().__init__()
        if hidden < 1:
            raise ConfigError(f"adapter.hidden must be at least 1, got {hidden}")
        self.spec = {"name": "agd", "architecture": architecture, "hidden": hidden}
        self.kind: type[Beside] = AttentionAdapter if architecture == "attention" else OffsetAdapter
        self.hidden = hidden
        self.layers = nn.ModuleDict()
        self._attachment: Attachment | None = None

    def attach(self, backbone: Adaptable) -> None:
        if self._attachment is not None:
            raise ConfigError("this adapter is attached already; detach it first")
        self._attachment = backbone.extend({p: self._extension(p, a) for p, a in backbone.text_attention().items()})

    def detach(self) -> None:
        if self._attachment is not None:
            self._attachment.remove()
            self._attachment = None

    def check_attached(self) -> None:
        if self._attachment is not None and not self._attachment.intact():
            raise ConfigError(REPLACED)

    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> PassState:
        return replace(PassState.of(None), guidance=guidance)

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{path.replace('/', '.')}.agd.{name}": parameter
            for path, beside in self.layers.items()
            for name, parameter in beside.named_parameters()
        }

    def _extension(self, path: str, layer: TextAttention) -> "AGDAttention":
        if layer.extended:
            raise ConfigError(f"another adapter of sunlab is attached to this network ({path}); detach it first")
        if (key := path.replace(".", "/")) not in self.layers:
            made = self.kind(layer.width, layer.text_width, self.hidden)
            self.layers[key] = made.to(device_of(layer.to_k), dtype_of(layer.to_k))
        beside: Any = self.layers[key]
        return AGDAttention(beside)


class AGDAttention:
    """Extension of one text-attention layer: its output plus `scale f`. Args: beside, f."""

    def __init__(self, beside: "Beside"):
        self.beside = beside

    def __call__(self, call: AttentionCall, state: PassState) -> Tensor:
        if not state.in_attention:
            return call.below(state)
        if state.guidance is None or state.time is None:
            raise ConfigError(
                "agd: this family's network does not state the time of a pass, which the adapter is conditioned on"
            )
        rows, out = len(call.hidden), call.below()
        dtype = self.beside.of_prompt.weight.dtype
        time = (state.time / 100).expand(rows) if state.time.ndim == 0 else state.time / 100  # about the range of w
        mask = call.mask()
        mask = None if mask is None else mask[:, :1].to(dtype)  # equal in all heads
        added = self.beside(call.hidden.to(dtype), state.guidance, time, call.tokens.to(dtype), mask)
        return out + (state.scale * added).to(out.dtype)


class Beside(nn.Module, ABC):
    """f of one layer.

    Args:
        width: of x and of the layer's output. text_width: d, of the prompt's tokens. hidden: inside.
    """

    def __init__(self, width: int, text_width: int, hidden: int):
        super().__init__()
        self.of_guidance, self.of_time = ScalarEncoder(hidden), ScalarEncoder(hidden)
        self.of_prompt = nn.Linear(text_width, hidden)
        self.out = nn.Linear(hidden, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    @abstractmethod
    def forward(self, x: Tensor, w: Tensor, t: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        """f (B, P or 1, h) of x (B, P, h), w and t (B,), tokens (B, L, d); mask, a term of the scores (B, 1, 1 or P, L)."""


class AttentionAdapter(Beside):
    """Cross-attention of one head from x to guidance scale, time and prompt."""

    def __init__(self, width: int, text_width: int, hidden: int):
        super().__init__(width, text_width, hidden)
        self.to_q = nn.Linear(width, hidden, bias=False)
        self.to_k, self.to_v = (nn.Linear(hidden, hidden, bias=False) for _ in range(2))

    def forward(self, x: Tensor, w: Tensor, t: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        seen = torch.cat([torch.stack([self.of_guidance(w), self.of_time(t)], 1), self.of_prompt(tokens)], dim=1)
        seen = seen + positions(seen)
        mask = None if mask is None else pad(mask, (2, 0))
        query, key, value = (part[:, None] for part in (self.to_q(x), self.to_k(seen), self.to_v(seen)))
        return self.out(scaled_dot_product_attention(query, key, value, attn_mask=mask)[:, 0])


def positions(tokens: Tensor) -> Tensor:
    """Sinusoids (L, h) of the positions l of tokens (B, L, h): sin, then cos, of l / 10000^(2 i / h), i = 0, 1, ..."""
    length, width = tokens.shape[1:]
    wide = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    rate = 10000 ** (-torch.arange(0, width, 2, dtype=wide, device=tokens.device) / width)
    angle = torch.arange(length, dtype=wide, device=tokens.device)[:, None] * rate
    return torch.cat([angle.sin(), angle.cos()], 1)[:, :width].to(tokens.dtype)


class OffsetAdapter(Beside):
    """An MLP of guidance scale, time and mean token, whatever x is."""

    def __init__(self, width: int, text_width: int, hidden: int):
        super().__init__(width, text_width, hidden)
        self.mix, self.norm = nn.Linear(hidden, hidden), nn.LayerNorm(hidden)

    def forward(self, x: Tensor, w: Tensor, t: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        kept = tokens.new_ones(tokens.shape[:2]) if mask is None else (mask[:, 0, 0] > -1).to(tokens.dtype)
        mean = (tokens * kept[..., None]).sum(1) / kept.sum(1, keepdim=True).clamp(min=1)
        mixed = torch.relu(self.mix(self.of_guidance(w) + self.of_time(t) + self.of_prompt(mean)))
        return self.out(self.norm(mixed))[:, None]


class ScalarEncoder(nn.Module):
    """LayerNorm(MLP(gamma(s))) (B, hidden) of s (B,), gamma(s) = cos(2 pi (f s + p)).

    The authors draw the frequencies f from a standard normal distribution and the phases p from a uniform one; here they are
    quantiles of those, so that they are no part of the file. Their time is encoded by the base's own time embedding.
    """

    def __init__(self, hidden: int):
        super().__init__()
        self.hidden = hidden
        self.net = nn.Sequential(
            nn.Linear(hidden, 4 * hidden), nn.ReLU(), nn.Linear(4 * hidden, hidden), nn.LayerNorm(hidden)
        )

    def forward(self, s: Tensor) -> Tensor:
        weight: Any = self.net[0].weight
        frequencies, phases = quantiles(self.hidden, s.device, torch.promote_types(weight.dtype, torch.float32))
        angle = frequencies * s.to(frequencies.dtype)[:, None] + phases
        return self.net(torch.cos(2 * torch.pi * angle).to(weight.dtype))


def quantiles(count: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of the standard normal distribution, and of the uniform one in an order of their own (count,). They are no buffers: a
    module in half precision would round them, and angles are many turns."""
    number = torch.arange(count, dtype=torch.float64, device=device)
    return torch.special.ndtri((number + 0.5) / count).float().to(dtype), (number * 0.6180339887498949 % 1).float().to(dtype)
