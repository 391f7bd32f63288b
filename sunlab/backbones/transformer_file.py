"""A transformer from one `.safetensors` file, as model sites share them; the rest of the base is in a diffusers folder."""

from typing import Any

import torch
from safetensors.torch import load_file

from sunlab.backbones.files import Files
from sunlab.backbones.weight_files import reading, require_all
from sunlab.errors import DataError


def read_transformer(files: Files, kind: str, dtype: torch.dtype) -> Any:
    """diffusers' model of the class `kind`, its configuration from the folder that the user named.

    The names of the tensors are diffusers' own, or those of the authors where diffusers converts them (SD 3, SANA).

    Raises:
        DataError: a damaged file, or one of another model.
    """
    import diffusers

    cls, folder, place = getattr(diffusers, kind), files.configurations, str(files.place)
    with torch.device("meta"):
        names = cls.from_config(cls.load_config(folder, subfolder="transformer")).state_dict().keys()
    with reading(place):
        if names & files.shapes.keys() or not hasattr(cls, "from_single_file"):
            require_all(sorted(names - files.shapes.keys()), place)
            model = cls.from_config(cls.load_config(folder, subfolder="transformer"))
            model.load_state_dict(load_file(place))
            return torch.nn.Module.to(model, dtype)  # diffusers' own `to` warns of an empty list
        try:
            model = cls.from_single_file(
                place, config=str(folder), subfolder="transformer", local_files_only=True, torch_dtype=dtype
            )
        except IndexError as error:  # diffusers' conversion finds no blocks
            raise DataError(f"{place}: no transformer of the class {kind} in its authors' layout or diffusers'") from error
    require_all([name for name, tensor in model.state_dict().items() if tensor.is_meta], place)
    return torch.nn.Module.to(model, dtype)
