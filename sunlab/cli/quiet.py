"""Hide messages of libraries that do not help users; `--debug` shows them."""

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

TALKATIVE = ("lightning.pytorch", "lightning.fabric", "lightning_utilities")
REPORTS = ("lightning.pytorch.profilers", "lightning.pytorch.callbacks.model_summary")
"""Messages that matter only if `trainer.profiler` or `trainer.enable_model_summary` is set."""
KNOWN = (
    ".*treespec.*is deprecated.*",  # Lightning 2.6 with torch 2.13
    ".*module\\(s\\) in eval mode at the start of training.*",  # the frozen teacher is meant to be
    ".*does not have many workers.*",  # the lab's data are read in the training process
    ".*weights_only.*was not set.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*The dirpath has changed.*",
    ".*`srun` command is available on your system but is not used.*",  # raised wherever Slurm is installed
)


def quiet() -> None:
    """Silence them, for the process."""
    for name in TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    for name in REPORTS:
        logging.getLogger(name).setLevel(logging.INFO)
    for message in KNOWN:
        warnings.filterwarnings("ignore", message=message)


class Shown(logging.Handler):
    """Prints what is logged to the standard error of the moment, one line each."""

    def emit(self, record: logging.LogRecord) -> None:
        print(f"{record.levelname.lower()}: {self.format(record)}", file=sys.stderr, flush=True)


@contextmanager
def shown_log() -> Iterator[None]:
    """Print what sunlab logs, from the level INFO on: what filters dropped, remote reads that are tried again."""
    log, handler = logging.getLogger("sunlab"), Shown()
    former = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(former)


@contextmanager
def brief_warnings(wanted: bool) -> Iterator[None]:
    """A warning is one line, without the place in the code that it came from."""

    def brief(message: Warning | str, *place: Any, **more: Any) -> str:
        return f"warning: {message}\n"

    usual = warnings.formatwarning
    warnings.formatwarning = brief if wanted else usual
    try:
        yield
    finally:
        warnings.formatwarning = usual
