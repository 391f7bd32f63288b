"""All trials, one after the other."""

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from fault_injection.families import MODULES
from fault_injection.ranks import Main
from fault_injection.trial import TRIALS, Result, Trial, perform
from fault_injection.warm import warm
from fault_injection.world import World
from sunlab.errors import ConfigError


def trials(only: Sequence[str] = ()) -> list[Trial]:
    """Those whose family is named, or whose name begins with one of the words; all without words.

    Raises:
        ConfigError: nothing of that name.
    """
    for name in MODULES:
        import_module(f"fault_injection.families.{name}")
    chosen = [one for one in TRIALS if not only or any(word == one.family or one.name.startswith(word) for word in only)]
    if not chosen:
        raise ConfigError(f"--only {' '.join(only)}: no such trial; known: {', '.join(one.name for one in TRIALS)}")
    return chosen


def run_trials(
    main: Main,
    *,
    seed: int = 0,
    quick: bool = False,
    kills: int | None = None,
    only: Sequence[str] = (),
    folder: Path | None = None,
    tell: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Do the trials in a scratch folder, which is removed again unless it was given.

    Args:
        main: the command line; ranks call it.
        seed: of all that is drawn.
        quick: the short form.
        kills: SIGKILLs of the kill trial.
        only: families, or beginnings of names.
        folder: to work in, and to keep.
        tell: called with every result as it comes.

    Raises:
        ConfigError: not on Linux, or a wrong `only`.
    """
    if not sys.platform.startswith("linux"):
        raise ConfigError("fault injection reads /proc and forks its ranks: it needs Linux")
    chosen = trials(only)
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1", PYTHONWARNINGS="ignore")
    place = folder or Path(tempfile.mkdtemp(prefix="sunlab-faults-"))
    place.mkdir(parents=True, exist_ok=True)
    world = World(place.absolute(), main, seed, quick, kills)
    results = []
    try:
        warm(world.base())
        for one in chosen:
            results.append(perform(one, world))
            tell(results[-1])
    finally:
        if folder is None:
            shutil.rmtree(place, ignore_errors=True)
    return results


def timed(do: Callable[[], list[Result]]) -> tuple[list[Result], float]:
    """Results and seconds."""
    begun = time.monotonic()
    return do(), time.monotonic() - begun
