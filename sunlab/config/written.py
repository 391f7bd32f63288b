"""Plain YAML scalars as they were written, where YAML 1.1 turns them into something else."""

from typing import Any

import yaml


def as_written(value: Any, text: str) -> Any:
    """`value`, which was read from the YAML `text`, with the text of each plain scalar whose value reads differently.

    `16:00` is the number 960 to YAML 1.1, `0123` is 83, `1e3` is 1000.0 and `no` is false; they become text again. `64`,
    `0.5`, `true` and what stands in quotes stay what they are.
    """
    return _restored(value, yaml.compose(text, Loader=yaml.SafeLoader))


def _restored(value: Any, node: yaml.Node | None) -> Any:
    if isinstance(value, dict) and isinstance(node, yaml.MappingNode):
        nodes = {key.value: child for key, child in node.value}
        return {key: _restored(child, nodes.get(key)) for key, child in value.items()}
    if isinstance(value, list) and isinstance(node, yaml.SequenceNode):
        return [_restored(child, inner) for child, inner in zip(value, node.value, strict=True)]
    if isinstance(node, yaml.ScalarNode) and node.style is None and isinstance(value, (bool, int, float)):
        return value if node.value.lower() == str(value).lower() else node.value
    return value
