"""The families of bases: their configurations inside the package, and which of them a file's tensors belong to."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from sunlab.backbones.sd.tokenizer import END, clip_tokenizer
from sunlab.errors import ConfigError, DataError

FAMILIES = Path(__file__).parents[2] / "assets" / "families"

Shape = Callable[[str], tuple[int, ...] | None]
"""Name of a tensor -> its shape, None where there is none."""

UNET = "model.diffusion_model."
FIRST = UNET + "input_blocks.0.0.weight"
CROSS = UNET + "input_blocks.{}.1.transformer_blocks.0.attn2.to_k.weight"
ARCHITECTURES = {"stable-diffusion-v2-768-v": "v_prediction", "stable-diffusion-v2-512": "epsilon"}  # ModelSpec's names
SECOND_ENCODER = "conditioner.embedders.1.model.token_embedding.weight"


def family_names() -> list[str]:
    return sorted(path.parent.name for path in FAMILIES.glob("*/model_index.json"))


def family_folder(family: str) -> Path:
    """The configurations of a family inside the package, or in a diffusers folder of the user's.

    Raises:
        ConfigError: neither.
    """
    for folder in (FAMILIES / family, Path(family)):
        if (folder / "model_index.json").is_file():
            return folder
    raise ConfigError(
        f"model.family: {family!r} is none of {', '.join(family_names())}, and no diffusers folder with model_index.json"
    )


def family_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; where it has no vocabulary, CLIP's with the folder's padding."""
    from transformers import CLIPTokenizer

    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return CLIPTokenizer.from_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    return clip_tokenizer(pad=json.loads(settings.read_text()).get("pad_token", END) if settings.is_file() else END)


def family_of(shape: Shape, metadata: Mapping[str, str], where: str) -> str:
    """The family of a file in the original layout, by its tensors' shapes and, where it has one, its ModelSpec header.

    Args:
        shape: of a tensor in the file.
        metadata: of the file.
        where: its name, for messages.

    Raises:
        ConfigError: SD 2.x that does not say what it predicts: shapes do not tell, and a wrong guess draws noise.
        DataError: not a text-to-image base of a known family.
    """
    first = shape(FIRST)
    if not first:
        raise DataError(f"{where}: no U-Net in Stable Diffusion's original layout ({FIRST}); is it a LoRA or an adapter?")
    if first[1] != 4:
        raise DataError(
            f"{where}: its U-Net takes {first[1]} channels (inpainting, depth, ...); a text-to-image base takes 4"
        )
    if (shape(CROSS.format(4)) or (0,))[-1] == 2048:
        if not shape(SECOND_ENCODER):
            raise DataError(f"{where}: an SDXL U-Net without its second text encoder; a file of the whole model is needed")
        return "sdxl"
    width = (shape(CROSS.format(1)) or (0,))[-1]
    if width == 768:
        return "sd15"
    if width != 1024:
        raise DataError(
            f"{where}: text width {width or 'unknown'} is of none of {', '.join(family_names())}; say model.family"
        )
    architecture = metadata.get("modelspec.architecture", "").split("/")[0]
    said = prediction_stated(shape, metadata) or ARCHITECTURES.get(architecture)
    if said is None:
        raise ConfigError(
            f"{where}: SD 2.x, and the file does not say what it predicts: set model.family=sd21 (768 pixels, v prediction) "
            "or model.family=sd21_base (512 pixels, epsilon prediction)"
        )
    return "sd21" if said == "v_prediction" else "sd21_base"


def prediction_stated(shape: Shape, metadata: Mapping[str, str]) -> str | None:
    """What a file says of its prediction: an empty tensor `v_pred`, as model sites mark SDXL fine-tunes, or ModelSpec."""
    if shape("v_pred") is not None:
        return "v_prediction"
    said = metadata.get("modelspec.prediction_type", "")
    return {"epsilon": "epsilon", "v": "v_prediction"}.get(said)
