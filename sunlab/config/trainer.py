"""The keys under `trainer:` are the arguments of `lightning.Trainer`, checked against its signature."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_type_hints

from registry import Parameter, RegistryError, check_value, suggestion

# What a configuration says elsewhere, or what only Python can say.
ELSEWHERE = {
    "callbacks": "give them as the configuration's own `callbacks:`",
    "default_root_dir": "files go to `run.dir`/`run.name`",
    "plugins": "they are Python objects, and the configuration's own `plugins:` are sunlab's",
}
HALF = "the frozen weights' type is model.dtype, what is trained is float32; give auto, bf16-mixed, 16-mixed or 32-true"
WHOLE = {"16-true", "bf16-true", "64-true", "64", 64, "transformer-engine", "transformer-engine-float16"}
"""Precisions that would convert the whole module."""
Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed", "32", "16", "bf16", 32, 16] | None
"""Those that are taken; `auto` is resolved before Lightning sees it (`sunlab.precision`)."""


def parameters_of_the_trainer() -> dict[str, Parameter]:
    """What `trainer:` takes. Imports Lightning."""
    from lightning import Trainer

    hints = get_type_hints(Trainer.__init__) | {"logger": bool | None, "precision": Precision}
    found = inspect.signature(Trainer.__init__).parameters.values()
    return {
        p.name: Parameter(p.name, hints[p.name], p.default) for p in found if p.name in hints and p.name not in ELSEWHERE
    }


def trainer_problems(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, message) of every wrong key or type. Lightning is imported only where there is a key to check."""
    known = parameters_of_the_trainer() if values else {}
    found = []
    for key, value in values.items():
        if key in ELSEWHERE:
            found.append((key, f"not taken here; {ELSEWHERE[key]}"))
        elif key not in known:
            found.append((key, f"lightning.Trainer takes no such argument; {suggestion(key, known)}"))
        elif key == "precision" and isinstance(value, (str, int)) and value in WHOLE:
            found.append((key, f"{value!r} is not taken; {HALF}"))
        else:
            try:
                check_value(value, known[key].annotation, key=key)
            except RegistryError as error:
                found.append((key, str(error).removeprefix(f"{key}: ")))
    return found
