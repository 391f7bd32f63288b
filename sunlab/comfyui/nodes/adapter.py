"""An adapter file of sunlab (format 2), read and checked.

The package runs without sunlab, so the format and the names of tensors are stated here again; a test compares them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import DataError
from .seal import unpack, verify

FORMAT = 2
KINDS = ("sun", "sun_w")
PARTS = {
    "to_k_neg.weight": ("negative", "to_k"), "to_v_neg.weight": ("negative", "to_v"),
    "to_k_neg_alpha": ("negative", "alpha"), "to_k_neg_beta": ("negative", "beta"),
    "to_k_extra_pos.weight": ("positive", "to_k"), "to_v_extra_pos.weight": ("positive", "to_v"),
    "to_k_extra_pos_alpha": ("positive", "alpha"), "to_k_extra_pos_beta": ("positive", "beta"),
    "guidance_saturation": ("steering", "curve"),
}  # fmt: skip
"""End of a tensor's name -> the branch and the parameter that it is."""
REMEDIES = {
    "lora": "it is a LoRA: run `sunlab export FILE --layout kohya --out lora.safetensors`, and load that with the node "
    "LoraLoaderModelOnly",
    "sun_lora": "its LoRA and its SUN branches were trained as one: draw with sunlab.plug in diffusers, or train an adapter "
    "of the kind 'sun'",
}


class Branch(nn.Module):
    """Parameters of one branch of one layer: to_k and to_v (h, d); alpha and beta (h,), or None; curve (1,) of steering."""

    to_k: Tensor
    to_v: Tensor
    alpha: Tensor | None
    beta: Tensor | None
    curve: Tensor

    def __init__(self, tensors: Mapping[str, Tensor]):
        super().__init__()
        for name in ("to_k", "to_v", "alpha", "beta", "curve"):
            tensor = tensors.get(name)
            self.register_parameter(name, None if tensor is None else nn.Parameter(tensor, requires_grad=False))


@dataclass(frozen=True)
class SUNAdapter:
    """An adapter, for the socket `SUN_ADAPTER`.

    Attributes:
        name: of its file.
        header: what the file states of itself.
        layers: by path in diffusers' U-Net with "/" for ".", its branches `negative`, `positive` and `steering`.
        patcher: the same as a model of ComfyUI, which loads and offloads its weights.
    """

    name: str
    header: Mapping[str, Any]
    layers: nn.ModuleDict
    patcher: Any = None

    @property
    def spec(self) -> Mapping[str, Any]:
        return self.header["adapter"]

    def branches(self, path: str) -> dict[str, Branch]:
        """Of the layer of this path, by name."""
        return dict(self.layers[path.replace(".", "/")].items())  # type: ignore[operator]

    def guidance(self) -> float:
        """The middle of the guidance scales of the training."""
        low, high = self.header.get("guidance") or (1.0, 1.0)
        return (low + high) / 2


def read_adapter(path: str | Path) -> SUNAdapter:
    """Read a file and check its structure, header, both SHA-256 and values.

    Raises:
        DataError: a file that is damaged, of another program or format, or of a kind that these nodes cannot apply.
    """
    where = str(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from None
    tensors, header = unpack(data, where)
    if header is None:
        raise DataError(
            f"{where}: no header of sunlab; if it is in the layout of SUN's authors, run `sunlab export FILE --layout "
            "sunlab --out NEW.safetensors` and load that"
        )
    _check(header, where)
    verify(data, header, where)
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{where}: {name} has values that are not finite floating-point numbers")
    return SUNAdapter(Path(path).name, header, _layers(tensors, header["adapter"], where))


def _check(header: Mapping[str, Any], where: str) -> None:
    """The fields that these nodes use."""
    if header.get("format") != FORMAT:
        raise DataError(
            f"{where}: format {header.get('format')!r}, these nodes read {FORMAT}; install them anew with sunlab"
        )
    spec = header.get("adapter")
    kind = spec.get("name") if isinstance(spec, dict) else None
    if kind not in KINDS:
        remedy = REMEDIES.get(str(kind), f"these nodes apply {' and '.join(KINDS)}; draw with sunlab.plug in diffusers")
        raise DataError(f"{where}: an adapter of the kind {kind!r}: {remedy}")
    base = header.get("base")
    if base is not None and not (isinstance(base, dict) and isinstance(base.get("cross_attention"), str)):
        raise DataError(f"{where}: header: base: expected a family and a hash of shapes, got {base!r}")
    guidance = header.get("guidance")
    if guidance is not None and not (isinstance(guidance, list) and len(guidance) == 2 and all(map(_is_number, guidance))):
        raise DataError(f"{where}: header: guidance: expected [lowest, highest] or null, got {guidance!r}")
    steps = header.get("steps", 1)
    if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
        raise DataError(f"{where}: header: steps: expected a number of steps, got {steps!r}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)


def _layers(tensors: Mapping[str, Tensor], spec: Mapping[str, Any], where: str) -> nn.ModuleDict:
    grouped: dict[str, dict[str, dict[str, Tensor]]] = {}
    for name, tensor in tensors.items():
        ending = next((ending for ending in PARTS if name.endswith(f".{ending}")), None)
        if ending is None:
            raise DataError(f"{where}: unknown tensor {name}; install these nodes anew with the sunlab that wrote the file")
        branch, part = PARTS[ending]
        path = name.removesuffix(f".{ending}").replace(".", "/")
        grouped.setdefault(path, {}).setdefault(branch, {})[part] = tensor
    scale = ("alpha", "beta") if spec.get("scale", True) else ()
    wanted = {"negative": ("to_k", "to_v", *scale)} if spec.get("negative", True) else {}
    wanted |= {"positive": ("to_k", "to_v", *scale)} if spec.get("extra_positive", True) else {}
    wanted |= {"steering": ("curve",)} if "saturation" in spec else {}  # the parameter of adapters that w steers
    for path, branches in grouped.items():
        found = {name: tuple(sorted(parts)) for name, parts in branches.items()}
        if found != {name: tuple(sorted(parts)) for name, parts in wanted.items()}:
            raise DataError(
                f"{where}: {path.replace('/', '.')} does not have the tensors that its header states; fetch it again"
            )
    return nn.ModuleDict(
        {path: nn.ModuleDict({n: Branch(parts) for n, parts in branches.items()}) for path, branches in grouped.items()}
    )
