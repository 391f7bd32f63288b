"""A tree of plain values -> YAML that reads back as the same tree, with a comment on each leaf on request."""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*")
NOT_TEXT = {"true", "false", "yes", "no", "on", "off", "y", "n", "null", "nan", "inf"}


def dump(tree: Mapping[str, Any], comment: Callable[[str], str] | None = None) -> str:
    """YAML text. `comment` gives a leaf's comment by its dotted path."""
    return "".join(f"{line}\n" for line in _lines(tree, "", comment))


def _lines(value: Mapping[str, Any], path: str, comment: Callable[[str], str] | None) -> list[str]:
    lines = []
    for key, child in value.items():
        here = f"{path}.{key}" if path else str(key)
        if isinstance(child, Mapping) and child:
            lines += [f"{flow(key)}:", *(f"  {line}" for line in _lines(child, here, comment))]
        elif isinstance(child, list) and child and all(isinstance(item, Mapping) and item for item in child):
            lines.append(f"{flow(key)}:")
            for index, item in enumerate(child):
                first, *rest = _lines(item, f"{here}.{index}", comment)
                lines += [f"  - {first}", *(f"    {line}" for line in rest)]
        else:
            line = f"{flow(key)}: {flow(child)}"
            lines.append(f"{line}  # {comment(here)}" if comment else line)
    return lines


def flow(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{flow(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, int):
        return str(value)
    text = str(value)
    if PLAIN.fullmatch(text) and text.lower() not in NOT_TEXT:
        return text
    return json.dumps(text, ensure_ascii=False)
