"""One adapter file to another layout, with a model card."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from sunlab.errors import ConfigError, DataError
from sunlab.export.card import Publication, is_card, model_card
from sunlab.export.file import DTYPES, AdapterFile, read_adapter, write_bytes, write_tensors
from sunlab.export.load import adapter_of
from sunlab.export.lora import check_is_lora, to_diffusers, to_kohya
from sunlab.export.published import header_of_base, is_unet, number, place
from sunlab.export.shapes import families

LAYOUTS = ("sunlab", "published", "diffusers", "kohya")


def export_adapter(
    source: str | Path, *, layout: str, out: str | Path, publication: Publication | None = None
) -> list[Path]:
    """Write an adapter file again in another layout, and README.md, the model card, beside it.

    Args:
        layout: `sunlab`; `published`, the authors' (SUN); `diffusers` or `kohya` (LoRA students).
        publication: what the card states of an adapter on the Hub, or None.

    Raises:
        ConfigError: an unknown layout, `out` is the source, or a README.md is there that is no card of ours.
        DataError: a damaged file, or an adapter that the layout cannot hold.
    """
    out = Path(out)
    if layout not in LAYOUTS:
        raise ConfigError(f"--layout: no layout {layout!r}; known: {', '.join(LAYOUTS)}")
    if out.suffix != ".safetensors":
        raise ConfigError(f"--out: {out} must end in .safetensors")
    if out.resolve() == Path(source).resolve():
        raise ConfigError(f"--out: {out} is the adapter itself; choose another name")
    card = out.parent / "README.md"
    if card.exists() and not is_card(card.read_text(encoding="utf-8", errors="replace")):
        raise ConfigError(f"--out: {card} is there and is no model card of sunlab's; choose another folder")
    file = named_by_layer(read_adapter(source))
    out.parent.mkdir(parents=True, exist_ok=True)
    spec, where = file.header["adapter"], str(file.path)
    if layout == "sunlab":
        write_tensors(out, file.tensors, file.header, dtype=DTYPES[file.header.get("dtype", "float16")])
    elif layout == "published":
        _write(out, number(file.tensors, file.header, where))
    else:
        check_is_lora(file.tensors, spec, where, layout)
        if (file.header.get("base") or {}).get("backbone") == "pixart":
            raise DataError(f"{where}: diffusers' PixArt pipelines load no LoRAs; draw with sunlab.plug(pipe, FILE)")
        if layout == "kohya":
            _write(out, to_kohya(file.tensors, spec))
        else:
            tensors, settings = to_diffusers(file.tensors, spec)
            _write(out, tensors, {"lora_adapter_metadata": json.dumps(settings, sort_keys=True)})
    card.write_text(model_card(file.header, adapter_of(file), out.name, layout, publication), encoding="utf-8")
    return [out, card]


def named_by_layer(file: AdapterFile) -> AdapterFile:
    """A file of the authors' layout with its tensors named by layer, on the known family that they fit.

    Raises:
        DataError: they fit no family.
    """
    if file.layout != "published":
        return file
    problems = []
    for layers in (layers for _, layers in families() if is_unet(layers)):
        try:
            tensors = place(file.tensors, layers, str(file.path))
        except DataError as error:
            problems.append(error)
        else:
            return AdapterFile(file.path, {**file.header, "base": header_of_base(layers)}, tensors)
    raise problems[0]


def _write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    data = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_bytes(path, save(data, {"format": "pt", **(metadata or {})}))
