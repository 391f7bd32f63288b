"""Low-rank adaptation of a network's weights (arXiv 2106.09685)."""

from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from sunlab.adapters.base import ADAPTERS, REPLACED, Adapter
from sunlab.adapters.merged import KINDS, merged, merges
from sunlab.adapters.state import PassState
from sunlab.backbones.attention import Adaptable
from sunlab.backbones.state import carried
from sunlab.backbones.weights import device_of, dtype_of
from sunlab.errors import ConfigError
from sunlab.types import Conditioning

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
LCM = (*ATTENTION, "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2", "conv_shortcut",
       "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj")  # fmt: skip


@ADAPTERS.register("lora")
class LoRA(Adapter):
    """LoRA on attention, feed-forward and convolution layers, as LCM-LoRA places it; negative prompts have no effect.

    The update `alpha / r B A x` is added to a layer's output, with A and B initialised as peft does. The base's parameters,
    their names and their flags stay as they are, and LoRAs of peft may be loaded beside it. In single precision a layer is
    computed with the merged weight W + alpha / r B A where that takes fewer operations (`merges`).

    Args:
        rank: r.
        alpha: the update is scaled by alpha / r; null: alpha = r.
        targets: ends of the names of the layers that get one.
    """

    uses_negative = False
    changes_weights = True
    scales = frozenset({"lora_scale"})

    def __init__(self, *, rank: int = 64, alpha: float | None = None, targets: tuple[str, ...] = LCM):
        super().__init__()
        self.spec = {"name": "lora", "rank": rank, "alpha": alpha, "targets": list(targets)}
        self.rank, self.scale, self.targets = rank, (alpha or rank) / rank, targets
        self.always = False
        self.updates = nn.ModuleDict()
        self._hooks: list[RemovableHandle] = []
        self._forwards: set[Callable[..., Tensor]] = set()
        self._attached = 0  # how many times it was
        self._find_layers: Callable[[], Mapping[str, nn.Module]] = dict
        self._layers: dict[str, Any] = {}

    def attach(self, backbone: Adaptable) -> None:
        if self._layers:
            raise ConfigError("this adapter is attached already; detach it first")
        ends = tuple(f".{target}" for target in self.targets)
        layers = {path: layer for path, layer in backbone.layers().items() if f".{path}".endswith(ends)}
        if not layers:
            raise ConfigError(f"adapter.targets: no layer of this network ends in {', '.join(self.targets)}")
        self._find_layers = backbone.layers
        self._attached += 1
        for path, layer in layers.items():
            if (key := path.replace(".", "/")) not in self.updates:
                self.updates[key] = Update(layer, self.rank)
            update: Any = self.updates[key]
            self._layers[path] = layer
            if type(layer) in KINDS and "forward" not in vars(layer):  # not where another library or LoRA replaced it
                forward = self._forward(update, type(layer))
                self._forwards.add(forward)
                layer.forward = MethodType(forward, layer)
            else:
                self._hooks.append(layer.register_forward_hook(self._add(update)))

    def detach(self) -> None:
        for hook in self._hooks:
            hook.remove()
        for layer in self._layers.values():
            if getattr(vars(layer).get("forward"), "__func__", None) in self._forwards:
                del layer.forward
        self._hooks, self._forwards, self._layers, self._find_layers = [], set(), {}, dict

    def check_attached(self) -> None:
        found = self._find_layers()
        if any(found.get(path) is not layer for path, layer in self._layers.items()):
            raise ConfigError(REPLACED)

    def state(self, positive: Conditioning, negative: Conditioning | None, guidance: Tensor) -> PassState:
        return PassState(in_attention=False, loras={id(self): 1.0})

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{key.replace('/', '.')}.{part}.weight": getattr(update, part).weight
            for key, update in self.updates.items()
            for part in ("lora_A", "lora_B")
        }

    def _factor(self) -> float | None:
        """On the update in this pass; None: it is off."""
        factor = 1.0 if self.always else getattr(carried(), "loras", {}).get(id(self))
        return None if factor is None else self.scale * factor

    def _add(self, update: "Update") -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
            factor = self._factor()
            return None if factor is None else (out + update(args[0]) * factor).to(out.dtype)

        return hook

    def _forward(self, update: "Update", kind: type[nn.Module]) -> Callable[..., Tensor]:
        """That of a layer, in place of its class's. Another library may have wrapped it by the time that the adapter is
        detached, and keep it: it is then the class's."""
        plain, attached = kind.forward, self._attached

        def forward(layer: Any, x: Tensor) -> Tensor:
            factor = self._factor() if self._layers and self._attached == attached else None
            a, b = update.lora_A.weight, update.lora_B.weight
            if factor is not None and merges(layer, x, a, b):
                return merged(layer, x, a, b, factor)
            out: Tensor = plain(layer, x)
            return out if factor is None else (out + update(x) * factor).to(out.dtype)

        return forward


class Update(nn.Module):
    """B A of one layer, zero at first.

    Args:
        layer: a linear layer or a convolution.
        rank: r.
    """

    def __init__(self, layer: Any, rank: int):
        super().__init__()
        if isinstance(layer, nn.Linear):
            self.lora_A: Any = nn.Linear(layer.in_features, rank, bias=False)
            self.lora_B: Any = nn.Linear(rank, layer.out_features, bias=False)
        else:
            kind: Any = getattr(nn, f"Conv{layer.weight.ndim - 2}d")
            shape = {name: getattr(layer, name) for name in ("kernel_size", "stride", "padding", "dilation")}
            self.lora_A = kind(layer.in_channels, rank, bias=False, **shape)
            self.lora_B = kind(rank, layer.out_channels, 1, bias=False)
        self.lora_A.reset_parameters()  # peft draws A twice: a fixed seed gives its values
        nn.init.zeros_(self.lora_B.weight)
        self.to(device_of(layer), dtype_of(layer))

    def forward(self, x: Tensor) -> Tensor:
        return self.lora_B(self.lora_A(x.to(self.lora_A.weight.dtype)))
