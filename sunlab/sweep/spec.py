"""The sweep file: which runs, over which configurations."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_type_hints

from registry import RegistryError, check_value, suggestion
from sunlab import renamed
from sunlab.config.read import name_of, read_file, read_override
from sunlab.config.schema import Budget, Component, component
from sunlab.config.shape import chooses_component
from sunlab.errors import ConfigError

Do = Literal["fit", "evaluate"]


@dataclass(frozen=True)
class Group:
    """One entry of `list:`. Its overrides come after the sweep's own; its runs are crossed over its grid and seeds."""

    name: str = ""  # the row of its runs in the table, and how `needs` and `{name}` name it
    config: list[str] = field(default_factory=list)  # further files, after the sweep's
    overrides: dict[str, Any] = field(default_factory=dict)  # any keys of a configuration, dotted
    grid: dict[str, list] = field(default_factory=dict)  # key -> values; every combination is a run
    seeds: list[int] | None = None  # null: the sweep's
    needs: list[str] = field(default_factory=list)  # groups that must be done first; `{name}` in a value is a run's folder
    do: list[Do] | None = None  # null: fit, and evaluate where an adapter or student is trained


Groups = list[Group]


@dataclass(frozen=True)
class Sweep:
    """A sweep file."""

    name: str = "sweep"  # of its folder in `dir`; the first file's name unless it is given
    dir: str = "runs"  # folder of all sweeps
    config: list[str] = field(default_factory=list)  # the configuration that all runs start from; later files win
    overrides: dict[str, Any] = field(default_factory=dict)  # over it, in all runs
    grid: dict[str, list] = field(default_factory=dict)  # crossed with every group
    seeds: list[int] | None = None  # of every group that names none; null: the configuration's
    budget: Budget | None = None  # null: `trainer.max_steps` of each run
    baseline: str | None = None  # the row that the table compares the others with: a label, or `label, variant`
    launcher: Component = component("launchers", "local")  # where the runs are started, with its options
    list: Groups = field(default_factory=Groups)  # none: the grid alone. (Last: it hides the type of its name.)

    @property
    def folder(self) -> Path:
        return Path(self.dir) / self.name

    def plain(self) -> dict[str, Any]:
        """As in a file."""
        return asdict(self)


KEYS = tuple(f.name for f in fields(Sweep))


def load_sweep(files: Sequence[str | Path], words: Sequence[str] = (), *, launcher: str | None = None) -> Sweep:
    """Read and check sweep files.

    Args:
        files: later ones win, key by key.
        words: `key=value`; those of the sweep's own keys (`launcher.threads=1`, `budget.nfe=9000`, `name=again`) are
            its own, all others are overrides of every run, after all keys of the file.
        launcher: the launcher's name. Options that the files give to another one are dropped.

    Raises:
        ConfigError: naming file, key, value and alternatives of everything that is wrong.
    """
    values: dict[str, Any] = {}
    for path in map(Path, files):
        values |= read_file(path)
    values.setdefault("name", name_of(files[0]))
    held = values.get("launcher", "local")
    if launcher is not None and launcher != (held.get("name") if isinstance(held, Mapping) else held):
        values["launcher"] = launcher
    last: dict[str, Any] = {}
    for key, value in map(read_override, words):
        first, _, rest = key.partition(".")
        if first not in KEYS:
            last[key] = value
        elif not rest:
            values[first] = value
        else:
            held = values.get(first, "local" if first == "launcher" else {})
            values[first] = _placed({"name": held} if isinstance(held, str) else held or {}, rest, value)
    where = ", ".join(map(str, files))
    problems: list[str] = []
    sweep = _section(Sweep, values, "", where, problems)
    problems = problems or [f"{where}: {line}" for line in _disagreements(sweep)]
    if problems:
        raise ConfigError("\n".join(problems))
    return _with_last(sweep, last)


def _placed(held: Mapping[str, Any], key: str, value: Any) -> dict[str, Any]:
    """`held` with `value` at a dotted key."""
    first, _, rest = key.partition(".")
    return {**held, first: _placed(held.get(first) or {}, rest, value) if rest else value}


def _with_last(sweep: Sweep, last: Mapping[str, Any]) -> Sweep:
    """Apply the command line's overrides after those of each group."""
    if not last:
        return sweep
    given = sweep.list or [Group()]
    groups = [{**asdict(g), "overrides": merged(g.overrides, last)} for g in given]
    return Sweep(**{**{f: getattr(sweep, f) for f in KEYS}, "list": [Group(**g) for g in groups]})


def merged(former: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides `later` applied to `former`: a key replaces itself and all keys below it."""
    dropped = tuple(later)
    kept = {k: v for k, v in former.items() if not any(_below(k, d) for d in dropped)}
    return {**kept, **later}


def _below(key: str, other: str) -> bool:
    """Whether `other` replaces `key`, or chooses the component that `key` is a parameter of."""
    whole = other.removesuffix(".name") if chooses_component(other) else other
    return key == other or key.startswith(f"{whole}.")


def _section(section: type, values: Any, path: str, where: str, problems: list[str]) -> Any:
    known = {f.name: f for f in fields(section)}
    hints = get_type_hints(section)
    if not isinstance(values, Mapping):
        problems.append(f"{where}: {path}: expected a section with {', '.join(known)}, got {values!r}")
        return None
    checked: dict[str, Any] = {}
    for key, value in values.items():
        here = f"{path}.{key}" if path else str(key)
        if new := renamed.KEYS.get(here):
            problems.append(f"{where}: {here}: is now {new}")
        elif key not in known:
            noun = f"{path or 'a sweep file'} takes"
            problems.append(f"{where}: {here}: no such key; {suggestion(str(key), known, noun=noun)}")
        elif section is Sweep and key == "list":
            items = value if isinstance(value, list) else [value]
            checked[key] = [_section(Group, item, f"list.{i}", where, problems) for i, item in enumerate(items)]
        elif section is Sweep and key == "budget":
            checked[key] = None if value is None else _section(Budget, value, here, where, problems)
        else:
            try:
                checked[key] = check_value(value, hints[key], key=here)
            except RegistryError as error:
                problems.append(f"{where}: {error}")
    if any(f.default is MISSING and f.default_factory is MISSING and n not in checked for n, f in known.items()):
        return None
    return None if problems else section(**checked)


def _disagreements(sweep: Sweep) -> list[str]:
    found = []
    names = [group.name for group in sweep.list]
    for index, group in enumerate(sweep.list):
        if group.name and group.name in names[:index]:
            found.append(f"list.{index}.name: {group.name!r} appears twice; give each group another name")
        for need in group.needs:
            if need not in names[:index]:
                found.append(f"list.{index}.needs: no group {need!r} before this one; {suggestion(need, names[:index])}")
        for key, values in group.grid.items():
            if not values:
                found.append(f"list.{index}.grid.{key}: no values")
    found += [f"grid.{key}: no values" for key, values in sweep.grid.items() if not values]
    if sweep.budget is not None and (sweep.budget.nfe is None) == (sweep.budget.seconds is None):
        found.append("budget: give either nfe or seconds")
    if not sweep.name or sweep.name in (".", "..") or "/" in sweep.name:
        found.append(f"name: is the name of one folder in dir, got {sweep.name!r}")
    return found
