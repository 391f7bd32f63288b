"""A base from one `.safetensors` file in Stable Diffusion's original layout, as model sites share them; offline."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sunlab.backbones.sd.families import Shape, family_folder, family_of, family_tokenizer, prediction_stated
from sunlab.backbones.sd.folder import ENCODERS, NETWORKS, read_folder
from sunlab.backbones.sd.original_layout import POSITIONS, encoders, original, text_state
from sunlab.backbones.sd.parts import Parts
from sunlab.backbones.weight_files import reading
from sunlab.errors import DataError


@dataclass(frozen=True)
class Described:
    """What a file says of itself without its weights being read.

    Attributes:
        folder: the configurations of its family.
        scheduler: what the file states of its scheduler, over the family's.
        shapes: of its tensors by name.
    """

    folder: Path
    scheduler: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def describe_file(file: Path, family: str | None) -> Described:
    """Args: family, the user's word for it, a name or a folder of configurations; None: by the tensors' shapes.

    Raises:
        ConfigError: an unknown family, or one that has to be said.
        DataError: a damaged file, or no text-to-image base.
    """
    folder = None if family is None else family_folder(family)
    with reading(str(file)), safe_open(file, "pt") as opened:
        shapes = {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
        metadata = opened.metadata() or {}
    prediction = prediction_stated(shapes.get, metadata)
    said: dict[str, Any] = {} if prediction is None else {"prediction_type": prediction}
    if "ztsnr" in shapes:  # an empty tensor that marks a zero terminal signal-to-noise ratio
        said["rescale_betas_zero_snr"] = True
    return Described(folder or family_folder(family_of(shapes.get, metadata, str(file))), said, shapes)


def read_single_file(file: Path, *, family: str | None = None, dtype: torch.dtype) -> Parts:
    """The parts in a file.

    Args:
        file: of a whole model.
        family: see `describe_file`.
        dtype: of the weights.

    Raises:
        ConfigError, DataError: see `describe_file`; tensors that are missing or of another shape, by name.
    """
    import diffusers

    described = describe_file(file, family)
    with torch.device("meta"):
        outline = read_folder(described.folder, dtype=dtype, weights=False)
    require_fitting(described.shapes.get, outline, str(file))
    names = [name for name in ENCODERS if outline.index.get(name, [None])[0]]
    tokens = {
        (part := name.replace("text_encoder", "tokenizer")): family_tokenizer(described.folder / part) for name in names
    }
    pipeline = getattr(diffusers, "StableDiffusionXLPipeline" if len(names) == 2 else "StableDiffusionPipeline")
    without: dict[str, Any] = (
        {"feature_extractor": None} if len(names) == 2 else {"feature_extractor": None, "safety_checker": None}
    )
    models = text_encoders(file, outline, names, dtype)
    with reading(str(file)):
        pipe = pipeline.from_single_file(
            str(file), config=str(described.folder), local_files_only=True, torch_dtype=dtype,
            scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False), **tokens, **models, **without,
        )  # fmt: skip
    texts = tuple(zip(tokens.values(), models.values(), strict=True))
    weights = dict.fromkeys((*NETWORKS, *names), (file,))
    scheduler = {**outline.scheduler, **described.scheduler}
    return Parts(pipe.unet, pipe.vae, texts, scheduler, outline.index, described.folder, weights)


def text_encoders(file: Path, outline: Parts, names: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    """transformers' models with the file's weights, in the place of the outline's shapes. Not left to diffusers, whose
    conversion has to follow the layout that transformers gives its models."""
    states = dict(zip(names, (model.state_dict() for _, model in outline.texts), strict=True))
    places = encoders(states, outline.unet.config)
    models: dict[str, Any] = {}
    with reading(str(file)), safe_open(file, "pt") as opened:
        for name, (_, model) in zip(names, outline.texts, strict=True):
            state = text_state(lambda k: opened.get_tensor(k).to(dtype), states[name], *places[name])
            model.load_state_dict(state, assign=True)
            for module in model.modules():
                if "position_ids" in module._buffers:  # not in the state, and so without values yet
                    length = module.position_embedding.num_embeddings
                    module.register_buffer("position_ids", torch.arange(length)[None], persistent=False)
            models[name] = model.eval()
    return models


def require_fitting(shape: Shape, outline: Parts, where: str) -> None:
    """Raise `DataError` naming what the family has and the file has not, or in another shape; 1 x 1 convolutions and
    matrices count as the same."""
    states = {"unet": outline.unet.state_dict(), "vae": outline.vae.state_dict()}
    states |= {
        f"text_encoder{'_2' if number else ''}": model.state_dict() for number, (_, model) in enumerate(outline.texts)
    }
    wanted = original(states, outline.unet.config, outline.vae.config)
    wrong = []
    for name, tensor in wanted.items():
        found = shape(name)
        if found is None and not name.endswith(POSITIONS):
            wrong.append(name)
        elif found is not None and _plain(found) != _plain(tuple(tensor.shape)):
            wrong.append(f"{name} {list(tensor.shape)} (it has {list(found)})")
    if wrong:
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise DataError(
            f"{where}: lacks {', '.join(wrong[:3])}{more}; is it a whole model of the family in {outline.folder}? "
            "(model.family says another)"
        )


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[:-2] if len(shape) == 4 and shape[-2:] == (1, 1) else shape
