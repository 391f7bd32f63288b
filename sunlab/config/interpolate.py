"""`${a.b}` is resolved, `${oc.env:NAME}` only where the configuration opts in, every other resolver is refused.

A value read from the environment may be a secret: it is known to the running program only, and neither messages nor
saved files show it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.grammar_parser import parse

from sunlab.config.merge import Draft
from sunlab.config.shape import leaves
from sunlab.errors import ConfigError

MASK = "<environment>"


@dataclass(frozen=True)
class Resolved:
    """The values of a draft, and the same with `MASK` wherever the environment had a part."""

    values: dict[str, Any]
    masked: dict[str, Any] = field(repr=False)

    def hide(self, text: str) -> str:
        """`text` without any value that the environment had a part in."""
        shown = dict(_scalars(self.masked))
        secrets = {str(v) for path, v in _scalars(self.values) if repr(v) != repr(shown.get(path, v)) and str(v)}  # NaN too
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(repr(secret)[1:-1], MASK).replace(secret, MASK)
        return text

    def writable(self, raw: Any, checked: Any) -> Any:
        """`checked`, the tree that may be saved: where the environment had a part, the text of `raw`."""
        return _writable(raw, self.values, self.masked, checked)


def resolve(draft: Draft) -> Resolved:
    """Resolve a draft's interpolations. Raises `ConfigError` for a refused resolver or a key that does not exist."""
    allow_env = draft.values.get("allow_env") is True
    for path, text in _scalars(draft.values):
        if isinstance(text, str) and "${" in text:
            _refuse_resolvers(text, allow_env, f"{draft.origin(path)}: {path}")
    values = _resolved(draft.values)
    return Resolved(values, _resolved(_mask(draft.values)) if allow_env else values)


def _resolved(values: Any) -> dict[str, Any]:
    try:
        return OmegaConf.to_container(OmegaConf.create(values), resolve=True, throw_on_missing=True)  # type: ignore
    except OmegaConfBaseException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "object_type" not in line]
        raise ConfigError(f"interpolation: {'; '.join(lines)}") from None


def _refuse_resolvers(text: str, allow_env: bool, where: str) -> None:
    try:
        found = list(_resolvers(parse(text)))
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: not an interpolation: {' '.join(str(error).split())}") from None
    for name in found:
        if name == "oc.env" and allow_env:
            continue
        remedy = "set `allow_env: true` to opt in" if name == "oc.env" else "only ${other.key} is resolved"
        raise ConfigError(f"{where}: the resolver {name!r} is refused; {remedy}")


def _resolvers(tree: Any) -> list[str]:
    children = getattr(tree, "children", None) or []
    own = [c.getText() for c in children if type(c).__name__ == "ResolverNameContext"]
    return own + [name for child in children for name in _resolvers(child)]


def _mask(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _mask(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_mask(v) for v in value]
    return MASK if isinstance(value, str) and "oc.env" in value else value


def _scalars(value: Any) -> list[tuple[str, Any]]:
    """Every scalar, those inside lists of plain values too."""
    found = []
    for path, leaf in leaves(value):
        if isinstance(leaf, list):
            found += [p for i, item in enumerate(leaf) for p in _nested(item, f"{path}.{i}")]
        else:
            found.append((path, leaf))
    return found


def _nested(item: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(item, (Mapping, list)) and item:
        return [(f"{path}.{p}", v) for p, v in _scalars({"_": item})]
    return [(path, item)]


def _writable(raw: Any, value: Any, masked: Any, checked: Any) -> Any:
    if isinstance(raw, str) and "${" in raw:
        escaped = isinstance(checked, str) and "${" in checked
        return raw if value != masked or escaped else checked
    if isinstance(raw, Mapping) and isinstance(checked, Mapping):
        return {k: _writable(raw[k], value[k], masked[k], v) if k in raw else v for k, v in checked.items()}
    if isinstance(raw, list) and isinstance(checked, (list, tuple)):
        return [_writable(*four) for four in zip(raw, value, masked, checked, strict=True)]
    return checked
