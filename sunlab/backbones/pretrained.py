"""Loading and saving a pretrained model: the family that recognises its files reads them."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.base import BACKBONES, BaseModel
from sunlab.backbones.files import Files, describe_files
from sunlab.backbones.locate import is_hub_id, locate, quiet
from sunlab.backbones.weight_files import refuse_pickle
from sunlab.errors import ConfigError, DataError
from sunlab.types import PredictionType

__all__ = ["load_base", "outline_base", "quiet", "save_base"]


def save_base(model: BaseModel, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write a folder that `load_base` opens; one of a diffusers family opens in `DiffusionPipeline.from_pretrained`."""
    folder.mkdir(parents=True, exist_ok=True)
    for part in model.parts:
        part.save(folder, dtype=dtype)


def load_base(
    base: str | Path,
    *,
    backbone: str | Mapping[str, Any] | None = None,
    fresh: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
    family: str | None = None,
    prediction_type: PredictionType | None = None,
    zero_terminal_snr: bool | None = None,
) -> BaseModel:
    """Load a base. Only safetensors are read.

    Args:
        base: a diffusers folder, a .safetensors file of a whole model, a hub id, or the name of a packaged model.
        backbone: the family's name, or a mapping with its name and parameters; None: the family that recognises the files.
        fresh: parts of a folder (`vae`, `unet`, `transformer`, `text_encoder`) at random weights, by their configuration.
        dtype: of the weights.
        family: whose configuration a single file has: a name (`sd15`, `sdxl`, `sana_600m`, ...) or a diffusers folder; None:
            by its tensors.
        prediction_type: over what the base states, for fine-tunes to v prediction whose file does not say so.
        zero_terminal_snr: likewise, whether the schedule is rescaled to end in pure noise (arXiv 2305.08891).

    Raises:
        ConfigError: no such base, or one of another kind; pickled weights; epsilon prediction from pure noise.
        DataError: damaged or incomplete weights.
        StorageError: a hub id that cannot be fetched.
    """
    files = describe_files(locate(base), None if family is None else configurations(family))
    if fresh and files.single:
        raise ConfigError(f"model.fresh: {list(fresh)} needs a diffusers folder, {files.place} is a single file")
    name, options = chosen(files, backbone)
    said = stated(prediction_type, zero_terminal_snr)
    return BACKBONES.get(name).factory.load(files, options=options, fresh=fresh, dtype=dtype, said=said)


def outline_base(
    base: str | Path,
    *,
    backbone: str | Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    family: str | None = None,
    prediction_type: PredictionType | None = None,
    zero_terminal_snr: bool | None = None,
) -> BaseModel:
    """A base on the meta device: parameters with shapes and types, without values. No weights are read or fetched.

    Args:
        base, ...: see `load_base`. If `base` is not there, or on the hub, the configuration of `family` is taken.

    Raises:
        ConfigError: a base that is not there, and no family; pickled weights.
    """
    files = _outlined(base, family)
    name, options = chosen(files, backbone)
    said = stated(prediction_type, zero_terminal_snr)
    return BACKBONES.get(name).factory.load(files, options=options, dtype=dtype, said=said, weights=False)


def stated(prediction_type: PredictionType | None, zero_terminal_snr: bool | None) -> dict[str, Any]:
    """What the user states over a scheduler's configuration, by diffusers' names."""
    said = {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_terminal_snr}
    return {key: value for key, value in said.items() if value is not None}


def chosen(files: Files, backbone: str | Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Name and parameters of the family of these files.

    Raises:
        ConfigError: the family that the user names does not fit; or none or several recognise a folder.
        DataError: no family recognises a single file.
    """
    if backbone is not None:
        spec = BACKBONES.check(backbone, key="model.backbone")
        if reason := BACKBONES.get(spec.name).factory.mismatch(files):
            raise ConfigError(f"model.backbone: {spec.name} does not fit {files.place}: {reason}")
        return spec.name, dict(spec.parameters)
    reasons = {name: BACKBONES.get(name).factory.mismatch(files) for name in BACKBONES.names()}
    fitting = [name for name, reason in reasons.items() if reason is None]
    if len(fitting) == 1:
        return fitting[0], {}
    if fitting:
        raise ConfigError(f"{files.place}: several backbones recognise it, {', '.join(fitting)}; set model.backbone to one")
    lines = "".join(f"\n  {name}: {reason}" for name, reason in reasons.items())
    raise (DataError if files.single else ConfigError)(f"{files.place}: no backbone recognises it:{lines}")


def packaged() -> dict[str, Path]:
    """Name of a family's configurations -> their folder, of all families."""
    return {k: v for name in BACKBONES.names() for k, v in BACKBONES.get(name).factory.configurations().items()}


def configurations(family: str) -> Path:
    """The folder of a family's configurations, packaged under a name or the user's.

    Raises:
        ConfigError: neither.
    """
    folder = packaged().get(family, Path(family))
    if not (folder / "model_index.json").is_file():
        raise ConfigError(
            f"model.family: {family!r} is none of {', '.join(sorted(packaged()))}, and no diffusers folder with "
            "model_index.json"
        )
    return folder


def _outlined(base: str | Path, family: str | None) -> Files:
    refuse_pickle([Path(base)], f"model.base: {base}")  # it would not load either, whatever its family
    if not is_hub_id(base):
        try:
            return describe_files(locate(base), None if family is None else configurations(family))
        except ConfigError:
            if family is None:
                raise
    if family is None:
        raise ConfigError(
            f"model.family: say which ({', '.join(sorted(packaged()))}), so that {base!r} is known without its weights"
        )
    return describe_files(configurations(family))
