"""The keys under `trainer:` are the arguments of `lightning.Trainer`, checked against its signature."""

from collections.abc import Mapping
from typing import Any, get_type_hints

from registry import RegistryError, check_value, suggestion

# What a configuration says elsewhere, or what only Python can say.
ELSEWHERE = {
    "callbacks": "give them as the configuration's own `callbacks:`",
    "default_root_dir": "files go to `run.dir`/`run.name`",
    "plugins": "they are Python objects, and the configuration's own `plugins:` are sunlab's",
}
HALF = "the frozen weights' type is model.dtype, what is trained is float32; give auto, bf16-mixed, 16-mixed or 32-true"
WHOLE = {"16-true", "bf16-true", "64-true", "64", 64, "transformer-engine", "transformer-engine-float16"}
"""Precisions that would convert the whole module."""


def trainer_problems(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, message) of every wrong key or type. Lightning is imported only where there is a key to check."""
    if not values:
        return []
    from lightning import Trainer

    hints = get_type_hints(Trainer.__init__)
    hints.pop("return", None)
    known = [key for key in hints if key not in ELSEWHERE]
    found = []
    for key, value in values.items():
        if key in ELSEWHERE:
            found.append((key, f"not taken here; {ELSEWHERE[key]}"))
        elif key not in hints:
            found.append((key, f"lightning.Trainer takes no such argument; {suggestion(key, known)}"))
        elif key == "precision" and isinstance(value, (str, int)) and value in WHOLE:
            found.append((key, f"{value!r} is not taken; {HALF}"))
        elif key == "precision" and value == "auto":
            continue  # resolved before Lightning sees it; see `sunlab.precision`
        elif key == "logger":
            if not isinstance(value, bool) and value is not None:
                found.append((key, f"expected true, false or null, got {value!r}"))
        else:
            try:
                check_value(value, hints[key], key=key)
            except RegistryError as error:
                found.append((key, str(error).removeprefix(f"{key}: ")))
    return found
