"""A sweep file -> its runs, one resolved configuration each."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import product
from typing import Any

from registry import suggestion
from sunlab.config.load import load_config
from sunlab.config.write import flow
from sunlab.errors import ConfigError
from sunlab.registries import registry_of
from sunlab.sweep.spec import Group, Sweep, merged

RUN = "run"  # `{run}` in a value is the run's own folder
DIGITS = 12  # of an identity
FOLDER = re.compile(r"\{([^{}\"',]+)\}/")  # how a value names a run's folder


@dataclass(frozen=True)
class Run:
    """One run of a plan.

    Attributes:
        id: hash of its resolved configuration, without the names of folders. Parents count by their identities.
        label: its row in the table: the group's name and the values of its grid.
        seed: of its configuration.
        axes: the keys that the sweep varies, with this run's values.
        needs: identities of the runs that must be done before.
        do: what is done in it, in this order.
        tree: the resolved configuration; `{run}` and `{id:...}` in its texts are still to become folders. Empty in a plan
            that was read from a sweep's folder, where each run has its file.
    """

    id: str
    label: str
    seed: int
    axes: Mapping[str, Any]
    needs: tuple[str, ...]
    do: tuple[str, ...]
    tree: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        return f"{self.label}, seed {self.seed}"


def plan(sweep: Sweep) -> list[Run]:
    """All runs, parents before children. A run of two groups is in both, with one identity.

    Raises:
        ConfigError: an invalid configuration, with the name of its group, or a baseline without a row.
    """
    made: dict[str, list[Run]] = {}
    runs: list[Run] = []
    for index, group in enumerate(sweep.list or [Group()]):
        of_group = list(_runs(sweep, group, made))
        made[group.name or str(index)] = of_group
        runs += of_group
    labels = dict.fromkeys(run.label for run in runs)
    if sweep.baseline is not None and not any(f"{sweep.baseline}, ".startswith(f"{label}, ") for label in labels):
        raise ConfigError(f"baseline: there will be no row {sweep.baseline!r}; {suggestion(sweep.baseline, labels)}")
    return runs


def _runs(sweep: Sweep, group: Group, made: Mapping[str, Sequence[Run]]) -> Iterator[Run]:
    base = merged(sweep.overrides, group.overrides)
    grid = {**sweep.grid, **group.grid}
    seeds = group.seeds if group.seeds is not None else sweep.seeds
    if seeds is None and "seed" not in grid:  # those of the parents that it goes on from
        text = flow(group.overrides) + flow(grid)
        seeds = list(dict.fromkeys(run.seed for need in group.needs if f"{{{need}}}" in text for run in made[need]))
    if seeds:
        grid["seed"] = seeds
    for values in product(*grid.values()):
        axes = dict(zip(grid, values, strict=True))
        for parents in _parents(group, axes, made):
            yield _run(sweep, group, merged(base, axes), axes, parents)


def _parents(group: Group, axes: Mapping[str, Any], made: Mapping[str, Sequence[Run]]) -> Iterator[dict[str, list[Run]]]:
    """For each needed group, the run that a child goes on from, or all of them where no value names the group.

    A child that goes on from one meets the parent of its own values on the axes that both vary (its seed above all), and is
    crossed with the rest.
    """
    options: list[list[tuple[str, list[Run]]]] = []
    text = flow(group.overrides) + flow(axes)
    for need in group.needs:
        runs = list(made[need])
        if f"{{{need}}}" not in text:
            options.append([(need, runs)])
            continue
        varied = [key for key in axes if len({flow(run.axes.get(key)) for run in runs}) > 1]
        fitting = [run for run in runs if all(run.axes.get(key) == axes[key] for key in varied)]
        if not fitting:
            raise ConfigError(
                f"{group.name or 'a group'} needs {need!r}, which has no run with "
                + ", ".join(f"{key}={flow(axes[key])}" for key in varied)
            )
        options.append([(need, [run]) for run in fitting])
    for chosen in product(*options):
        yield dict(chosen)


def _run(
    sweep: Sweep,
    group: Group,
    overrides: Mapping[str, Any],
    axes: Mapping[str, Any],
    parents: Mapping[str, Sequence[Run]],
) -> Run:
    tokens = {name: f"{{id:{runs[0].id}}}" for name, runs in parents.items() if len(runs) == 1}
    given = _replaced(dict(overrides), {f"{{{name}}}": token for name, token in tokens.items()})
    for left in FOLDER.findall(flow(given)):
        if left != RUN and not left.startswith("id:") and ".." not in left:  # {00..09} is a pattern of files
            known = suggestion(left, [*tokens, RUN], noun="it can name")
            raise ConfigError(f"{group.name or 'a group'}: {{{left}}} is not a group of its `needs`; {known}")
    if sweep.budget is not None:
        given |= {f"budget.{key}": value for key, value in vars(sweep.budget).items() if value is not None}
    files = [*sweep.config, *group.config]
    label = _label(group, axes, parents)
    try:
        tree = load_config(files, [f"{key}={flow(value)}" for key, value in given.items()]).saved
    except ConfigError as error:
        raise ConfigError(f"{label}: {error}") from None
    if tree["trainer"].get("fast_dev_run"):
        raise ConfigError(f"{label}: trainer.fast_dev_run: it writes nothing that a sweep could use; use it with sunlab fit")
    needs = tuple(dict.fromkeys(run.id for runs in parents.values() for run in runs))
    do = tuple(group.do) if group.do is not None else _usual(tree)
    tree = {**tree, "run": {key: value for key, value in tree["run"].items() if key not in ("dir", "name")}}
    return Run(_identity(tree, do, needs), label, tree["seed"], {**axes, "seed": tree["seed"]}, needs, do, tree)


def _usual(tree: Mapping[str, Any]) -> tuple[str, ...]:
    task = registry_of("tasks").get(tree["task"]["name"]).factory
    return ("fit", "evaluate") if getattr(task, "evaluated", False) else ("fit",)


def _identity(tree: Mapping[str, Any], do: Sequence[str], needs: Sequence[str]) -> str:
    facts = {"config": tree, "do": list(do), "needs": sorted(needs)}
    return sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()[:DIGITS]


def _label(group: Group, axes: Mapping[str, Any], parents: Mapping[str, Sequence[Run]]) -> str:
    """The group's name, the values of its grid, and those of a parent's grid that it was crossed with."""
    shown = {key: value for key, value in axes.items() if key != "seed"}
    for name, runs in parents.items():
        if len(runs) == 1:
            shown |= {f"{name}.{k}": v for k, v in runs[0].axes.items() if k not in axes and k != "seed"}
    parts = [group.name] if group.name else []
    parts += [f"{key}={flow(value)}" for key, value in shown.items()]
    return ", ".join(parts) or "run"


def _replaced(value: Any, words: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for word, new in words.items():
            value = value.replace(word, new)
        return value
    if isinstance(value, Mapping):
        return {key: _replaced(item, words) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_replaced(item, words) for item in value]
    return value


def resolved(run: Run, runs: str) -> dict[str, Any]:
    """The configuration to write, with folders instead of identities. Args: runs, the folder of all runs."""
    words = {f"{{id:{need}}}": f"{runs}/{need}" for need in run.needs} | {f"{{{RUN}}}": f"{runs}/{run.id}"}
    tree = _replaced(dict(run.tree), words)
    return {**tree, "run": {"dir": runs, "name": run.id, **tree["run"]}}
