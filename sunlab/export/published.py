"""The layout of the adapter that the paper's authors published: tensors numbered by attention layer.

`"<i>.to_k_neg.weight"` and so on: i is the position among the U-Net's attention processors, self-attention even,
cross-attention odd; down blocks, then up blocks, then the mid block. fp16. For SD 1.5: 128 tensors, 38,388,480 numbers.
The file has no metadata, so every tensor is assigned by its checked shape.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from sunlab.adapters.sun import NAMES
from sunlab.backbones.attention import Layer, Layers
from sunlab.errors import DataError
from sunlab.export.shapes import families, family_of, shape_hash

NEGATIVE = tuple(name for name in NAMES.values() if "neg" in name)
POSITIVE = tuple(name for name in NAMES.values() if "pos" in name)
NUMBERED = re.compile(rf"\d+\.({'|'.join(map(re.escape, NEGATIVE + POSITIVE))})")
ASSUMED = {"prediction_type": "epsilon", "spacing": "trailing"}
"""Settings that the layout does not store and its readers assume."""
ORDERS = (("down_blocks", "up_blocks", "mid_block"), ("down_blocks", "mid_block", "up_blocks"))
"""Orders of the blocks: the authors', as diffusers lists processors, and the one in which they are run."""
UNET = {*ORDERS[0], "conv_in", "conv_out", "time_embedding", "add_embedding"}
"""First parts of the names of a U-Net's layers."""


def is_published(names: Iterable[str]) -> bool:
    names = list(names)
    return bool(names) and all(NUMBERED.fullmatch(name) for name in names)


def describe(tensors: Mapping[str, Tensor], where: str) -> dict[str, Any]:
    """A header for such a file, from the authors' documentation, since the file has no metadata. Raises `DataError`."""
    suffixes = {name.partition(".")[2] for name in tensors}
    if not suffixes >= set(NEGATIVE):
        raise DataError(f"{where}: no tensor ends in {sorted(set(NEGATIVE) - suffixes)[0]!r}")
    spec = {"name": "sun", "extra_positive": bool(suffixes & set(POSITIVE)), "negative": True, "normalise": True,
            "scale": True, "init": "copy", "compat": False}  # fmt: skip
    return {"adapter": spec, **ASSUMED, "solver": "ddim", "steps": 4, "times": [1.0, 0.75, 0.5, 0.25, 0.001],
            "final_alpha": "base", "guidance": None, "dtype": "float16"}  # fmt: skip


def place(tensors: Mapping[str, Tensor], layers: Layers, where: str) -> dict[str, Tensor]:
    """The tensors named by layer.

    Args:
        layers: of the U-Net they are for; widths and text width are what decides.

    Raises:
        DataError: a wrong shape or dtype, a missing or extra tensor, by name; or shapes that fit in two orders.
    """
    for name, tensor in tensors.items():
        if tensor.dtype != torch.float16:
            raise DataError(f"{where}: {name} is {tensor.dtype}, the published layout is float16")
    if not is_unet(layers):
        raise DataError(
            f"{where}: the published layout holds adapters of Stable Diffusion's U-Nets, this network is another"
        )
    suffixes = NEGATIVE + (POSITIVE if any(n.endswith(POSITIVE) for n in tensors) else ())
    plans = [_plan(layers, order, suffixes) for order in ORDERS]
    problems = [_problem(tensors, plan) for plan in plans]
    fitting = [plan for plan, problem in zip(plans, problems, strict=True) if problem is None]
    if not fitting:
        fits = [
            name
            for name, known in families()
            if is_unet(known) and _problem(tensors, _plan(known, ORDERS[0], suffixes)) is None
        ]
        problem = f"it is of {fits[0]!r}" if fits else problems[0]
        raise DataError(f"{where}: does not fit a U-Net of the family {family_of(layers)!r}: {problem}")
    if any(plan != fitting[0] for plan in fitting):
        raise DataError(f"{where}: ambiguous: its shapes fit this U-Net in two orders of the blocks")
    return {target: tensors[name] for name, (target, _) in fitting[0].items()}


def number(tensors: Mapping[str, Tensor], header: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The reverse: a SUN adapter's tensors named by position, in fp16. Raises `DataError` if the layout cannot store it."""
    spec = header["adapter"]
    unsaid = {key: header[key] for key, value in ASSUMED.items() if header.get(key, value) != value}
    if unsaid:
        raise DataError(
            f"{where}: made for {', '.join(map(str, unsaid.values()))}, which the published layout cannot say: its "
            f"readers take {', '.join(ASSUMED.values())} for granted; use --layout sunlab"
        )
    given = {key: spec.get(key) for key in ("name", "negative", "normalise", "scale")}
    if given != {"name": "sun", "negative": True, "normalise": True, "scale": True}:
        raise DataError(
            f"{where}: the published layout holds adapters of the kind 'sun' with negative, normalise and scale true, "
            f"not {given}; use --layout sunlab"
        )
    if not is_unet(tensors):
        raise DataError(f"{where}: the published layout holds adapters of Stable Diffusion's U-Nets; use --layout sunlab")
    paths = dict.fromkeys(path for path, _ in map(_split, tensors))
    numbers = {path: i for i, path in _numbered(paths, ORDERS[0]).items()}
    return {f"{numbers[path]}.{suffix}": tensors[f"{path}.{suffix}"].half() for path, suffix in map(_split, tensors)}


def is_unet(paths: Iterable[str]) -> bool:
    """Whether layers of these names are those of one of Stable Diffusion's U-Nets."""
    return all(path.partition(".")[0] in UNET for path in paths)


def header_of_base(layers: Layers) -> dict[str, Any]:
    """The header's field `base` for layers that are known by name."""
    return {"family": family_of(layers), "cross_attention": shape_hash(layers)}


def _plan(layers: Layers, order: Sequence[str], suffixes: Sequence[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Published name -> our name, and the shape it must have."""
    return {
        f"{i}.{suffix}": (f"{path}.{suffix}", _shape(layers[path], suffix))
        for i, path in _numbered(layers, order).items()
        for suffix in suffixes
    }


def _shape(layer: Layer, suffix: str) -> tuple[int, ...]:
    return (layer.width, layer.text) if suffix.endswith(".weight") else (layer.width,)


def _problem(tensors: Mapping[str, Tensor], plan: Mapping[str, tuple[str, tuple[int, ...]]]) -> str | None:
    if missing := sorted(plan.keys() - tensors.keys(), key=_natural):
        return f"missing {missing[0]}"
    if extra := sorted(tensors.keys() - plan.keys(), key=_natural):
        return f"unknown {extra[0]}"
    for name, (target, shape) in plan.items():
        if tuple(tensors[name].shape) != shape:
            return f"{name} has shape {tuple(tensors[name].shape)}, {target} needs {shape}"
    return None


def _numbered(paths: Iterable[str], order: Sequence[str]) -> dict[int, str]:
    ranked = sorted(paths, key=lambda path: (order.index(path.partition(".")[0]), _natural(path)))
    return {2 * k + 1: path for k, path in enumerate(ranked)}


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


def _split(name: str) -> tuple[str, str]:
    suffix = next(s for s in NEGATIVE + POSITIVE if name.endswith(f".{s}"))
    return name.removesuffix(f".{suffix}"), suffix
