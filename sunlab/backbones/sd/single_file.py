"""A base from one `.safetensors` file in Stable Diffusion's original layout, as model sites share them; offline."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from sunlab.backbones.files import Files, describe_files
from sunlab.backbones.folder import Kinds, Parts, class_of, read_folder
from sunlab.backbones.sd.original_layout import POSITIONS, encoders, original, text_state
from sunlab.backbones.sd.tokenizer import read_tokenizer
from sunlab.backbones.weight_files import reading
from sunlab.errors import DataError

Shape = Callable[[str], tuple[int, ...] | None]
"""Name of a tensor -> its shape, None if there is none."""
UNREAD = {"feature_extractor", "safety_checker"}
"""Parts of a pipeline that no base needs."""


def read_single_file(files: Files, folder: Path, kinds: Kinds, pipeline: str, *, dtype: torch.dtype) -> Parts:
    """The parts in a file.

    Args:
        files: a single file of a whole model.
        folder: the configurations of its family.
        kinds: the family's.
        pipeline: diffusers' class that reads it.
        dtype: of the weights.

    Raises:
        DataError: tensors that are missing or of another shape, by name; a damaged file.
    """
    import diffusers

    with torch.device("meta"):
        outline = read_folder(describe_files(folder), kinds, dtype=dtype, weights=False)
    require_fitting(files.shapes.get, outline, str(files.place))
    parts = [name for name in kinds if class_of(outline.index, name)]
    names = [name for name in parts if name.startswith("text_encoder")]
    tokens = {(words := name.replace("text_encoder", "tokenizer")): read_tokenizer(folder / words) for name in names}
    kind = getattr(diffusers, pipeline)
    models = text_encoders(files.place, outline, names, dtype)
    with reading(str(files.place)):
        pipe = kind.from_single_file(
            str(files.place), config=str(folder), local_files_only=True, torch_dtype=dtype,
            scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
            **tokens, **models, **dict.fromkeys(UNREAD & set(kind._optional_components)),
        )  # fmt: skip
    texts = tuple(zip(tokens.values(), models.values(), strict=True))
    weights = dict.fromkeys(parts, (files.place,))
    return Parts(pipe.unet, pipe.vae, texts, outline.scheduler, outline.index, folder, weights)


def text_encoders(file: Path, outline: Parts, names: Sequence[str], dtype: torch.dtype) -> dict[str, Any]:
    """transformers' models with the file's weights, replacing the outline's shapes. Not left to diffusers, whose
    conversion has to follow the layout that transformers gives its models."""
    states = dict(zip(names, (model.state_dict() for _, model in outline.texts), strict=True))
    places = encoders(states, outline.network.config)
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
    states = {"unet": outline.network.state_dict(), "vae": outline.vae.state_dict()}
    states |= {
        f"text_encoder{'_2' if number else ''}": model.state_dict() for number, (_, model) in enumerate(outline.texts)
    }
    wanted = original(states, outline.network.config, outline.vae.config)
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
