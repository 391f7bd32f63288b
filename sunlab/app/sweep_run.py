"""One run of a sweep: train, evaluate, write metrics.json."""

import signal
from pathlib import Path

from registry import load_plugins
from sunlab.app.evaluate import check_judges, evaluate
from sunlab.app.fit import fit
from sunlab.config.load import LoadedConfig, load_config
from sunlab.config.write import flow
from sunlab.distributed.signals import ASKING, Signals
from sunlab.errors import ConfigError, Preempted
from sunlab.files import read_json, write_json
from sunlab.sweep.grid import Run
from sunlab.sweep.record import environment


def work(entry: Run, folder: Path, signals: Signals) -> None:
    """Train and evaluate as `do` says. Finished parts are not repeated."""
    write_json(folder / "environment.json", environment(seed=entry.seed))
    if "evaluate" in entry.do:
        config = load_config([folder / "config.yaml"]).config
        load_plugins(config.plugins)
        check_judges(config)
    if "fit" in entry.do and not (folder / "training.json").is_file():
        write_json(folder / "training.json", train(folder, signals))
    if signals.received is not None:
        stop(signals.received)
    for number in ASKING:  # an evaluation writes atomically and can be interrupted anywhere
        signal.signal(number, lambda number, _: stop(signal.Signals(number).name))
    if "evaluate" in entry.do:
        evaluate(evaluation(entry, folder), pictures=folder.parents[1] / "pictures")
    found = {"training": read_json(folder / "training.json"), "evaluation": read_json(folder / "evaluation" / "report.json")}
    write_json(folder / "metrics.json", found)


def stop(name: str) -> None:
    raise Preempted(f"stopped by {name} after the training; finished pictures are kept")


def train(folder: Path, signals: Signals) -> dict[str, float]:
    """Fit, from the last checkpoint if there is one. Returns the cost."""
    started = any((folder / "checkpoints").glob("*.ckpt"))
    return dict(fit(load_config([folder / "config.yaml"]), resume="last" if started else None, signals=signals)["cost"])


def evaluation(entry: Run, folder: Path) -> LoadedConfig:
    """The run's configuration for the evaluation of `evaluate.variants`, or of the adapter that it trained."""
    file = folder / "config.yaml"
    words = [f"run.dir={flow(str(folder))}", "run.name=evaluation"]
    config = load_config([file]).config
    if not config.evaluate.variants:
        adapter = folder / "export" / "adapter.safetensors"
        if not adapter.is_file():
            raise ConfigError(f"{file}: evaluate.variants: nothing to evaluate, and this run trains no adapter; give a list")
        steps = config.student.steps
        own = {"name": f"{steps} step{'s' * (steps > 1)}", "adapter": str(adapter), "steps": steps}
        words.append(f"evaluate.variants={flow([own])}")
    return load_config([file], words)


def assist(entry: Run, folder: Path, signals: Signals) -> None:
    """What the other ranks do: training."""
    if "fit" in entry.do and not (folder / "training.json").is_file():
        train(folder, signals)
