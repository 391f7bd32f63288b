"""The script that sbatch is given: short enough to be read, and safe whatever the values in it hold."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunlab.errors import ConfigError

CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a line break would begin a line of its own in the script

SCRIPT = """\
#!/bin/bash
# {title}
{directives}

set -u
{choice}
exec >>"$log" 2>&1
echo "== $(date '+%F %T') job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${{SLURM_RESTART_COUNT:-0}} + 1))"

# Whoever ends the whole job (scancel, the time limit itself) ends this shell too: then it is not put back.
ended=no
trap 'ended=yes' TERM

{srun} "${{command[@]}}"
code=$?

# 75: the run was asked to stop, saved its state, and wants to go on. 138: SIGUSR1 came before it could listen (128 + 10).
if [ "$ended" = no ] && {{ [ $code -eq 75 ] || [ $code -eq 138 ]; }}; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
        echo "== $(date '+%F %T') code $code: back into the queue"
        scontrol requeue "{job}" && sleep 60 # until Slurm ends this shell
    else
        echo "== $(date '+%F %T') code $code: not put back again after {restarts} restarts"
    fi
fi
exit $code
"""
ONE = """
log={log}
command=({command})
"""


@dataclass(frozen=True)
class Task:
    """One run. Attributes: name, for the reader; log, appended to over all attempts."""

    name: str
    command: Sequence[str]
    log: Path


@dataclass(frozen=True)
class Batch:
    """What one call of sbatch queues: a run, or an array of them.

    Attributes:
        directives: long options of sbatch without their dashes; True stands alone, None and False are left out.
        srun: the words that start each command, srun first.
        restarts: how often the job is put back at most.
    """

    title: str
    directives: Mapping[str, Any]
    srun: Sequence[str]
    tasks: Sequence[Task]
    restarts: int = 100


def render(batch: Batch) -> str:
    """The script. Raises `ConfigError` for a value that no line of it can hold."""
    array = len(batch.tasks) > 1
    return SCRIPT.format(
        title=oneline(batch.title),
        directives="\n".join(directive(k, v) for k, v in batch.directives.items() if v is not None and v is not False),
        choice=_choice(batch.tasks) if array else _one(batch.tasks[0]).rstrip(),
        srun=shlex.join(plain(word, "srun") for word in batch.srun),
        restarts=batch.restarts,
        job="${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" if array else "$SLURM_JOB_ID",
    )


def directive(key: str, value: Any) -> str:
    """`#SBATCH --partition=gpu`. sbatch reads quotes as a shell does, but backslashes within them too."""
    if value is True:
        return f"#SBATCH --{key}"
    quoted = shlex.quote(plain(str(value), key)).replace("\\", "\\\\")
    return f"#SBATCH --{key}={quoted}"


def plain(text: str, key: str) -> str:
    """`text`, if it can stand on one line. Raises `ConfigError`."""
    if CONTROL.search(text):
        raise ConfigError(f"launcher.{key}: {text!r} holds a control character or a line break, which no script may")
    return text


def pattern(path: Path) -> str:
    """A path for `--output`, in which sbatch would read `%` as the beginning of a field."""
    if "\\" in str(path):
        raise ConfigError(f"{path}: sbatch takes no log in a folder with a backslash in its name; set run.dir to another")
    return str(path).replace("%", "%%")


def _one(task: Task) -> str:
    command = shlex.join(plain(word, "command") for word in task.command)
    return ONE.format(log=shlex.quote(plain(str(task.log), "log")), command=command)


def _choice(tasks: Sequence[Task]) -> str:
    lines = ["case $SLURM_ARRAY_TASK_ID in"]
    for index, task in enumerate(tasks):
        body = "\n".join(f"    {line}" for line in _one(task).strip().splitlines())
        lines.append(f"{index}) # {oneline(task.name)}\n{body}\n    ;;")
    return "\n".join([*lines, "esac"])


def oneline(text: str) -> str:
    """For a reader only: what cannot stand on a line becomes a space."""
    return CONTROL.sub(" ", text)
