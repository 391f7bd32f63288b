"""sbatch's options, checked before anything is queued, and its script, in which every value is quoted."""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sunlab.errors import ConfigError

KEY = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
OURS = (
    "array", "output", "error", "open-mode", "requeue", "no-requeue", "signal", "nodes", "ntasks", "ntasks-per-node",
    "dependency", "kill-on-invalid-dep", "wrap", "parsable", "wait", "test-only", "chdir", "job-name", "input", "clusters",
    "help", "usage", "version",
)  # fmt: skip
NAMED = {
    "partition": "partition",
    "account": "account",
    "qos": "qos",
    "constraint": "constraint",
    "time": "time",
    "mem": "memory",
    "cpus-per-task": "cpus",
    "gpus-per-node": "gpus",
}
WHOLE = ("gpus",)  # an option, and a prefix of another
LATEST = 65535  # seconds, sbatch's maximum
TIME = re.compile(
    r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?:(?P<h>\d+):(?=\d+:))?(?P<m>\d+)(?::(?P<s>\d+))?)"
)
UNLIMITED = ("unlimited", "infinite")
CONTROL = re.compile(r"[\x00-\x1f\x7f]")  # a line break would start another line of the script

SCRIPT = """\
#!/bin/bash
# {title}
{directives}

set -u
{choice}
exec >>"$log" 2>&1
echo "== $(date '+%F %T') job $SLURM_JOB_ID on $SLURM_JOB_NODELIST, start $((${{SLURM_RESTART_COUNT:-0}} + 1))"

# scancel and the time limit end this shell too: the job is not requeued then.
ended=no
trap 'ended=yes' TERM

{srun} "${{command[@]}}"
code=$?

# 75: the run saved a checkpoint and is to be resumed. 138: SIGUSR1 came before its handler was installed (128 + 10).
if [ "$ended" = no ] && {{ [ $code -eq 75 ] || [ $code -eq 138 ]; }}; then
    if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {restarts} ]; then
        echo "== $(date '+%F %T') code $code: requeued"
        scontrol requeue "{job}" && sleep 60 # until Slurm ends this shell
    else
        echo "== $(date '+%F %T') code $code: not requeued after {restarts} restarts"
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
        directives: long options of sbatch without dashes; True is an option without a value, None and False are left out.
        srun: the words before each command, srun first.
        restarts: how often the job is requeued at most.
    """

    title: str
    directives: Mapping[str, Any]
    srun: Sequence[str]
    tasks: Sequence[Task]
    restarts: int = 100


def render(batch: Batch) -> str:
    """The script. Raises `ConfigError` for a value with a control character."""
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
    """`text`. Raises `ConfigError` if it has a control character."""
    if CONTROL.search(text):
        raise ConfigError(f"launcher.{key}: {text!r} contains a control character or a line break; remove it")
    return text


def pattern(path: Path) -> str:
    """A path for `--output`, in which sbatch would read `%` as the beginning of a field."""
    if "\\" in str(path):
        raise ConfigError(f"{path}: sbatch cannot write a log to a folder with a backslash in its name; change run.dir")
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
    """For comments: control characters become spaces."""
    return CONTROL.sub(" ", text)


def free_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`launcher.sbatch` with dashes for underscores.

    Raises:
        ConfigError: a key that is not a long option, or one that sunlab sets or has another name for, abbreviations
            included; or a value that is neither text, a number, true, false nor null.
    """
    checked: dict[str, Any] = {}
    for written, value in given.items():
        key, here = str(written).replace("_", "-"), f"launcher.sbatch.{written}"
        if not KEY.fullmatch(key):
            raise ConfigError(f"{here}: not a long option of sbatch; write it without leading dashes, such as mem-per-cpu")
        if key not in WHOLE:
            for option in OURS:
                if option.startswith(key):
                    raise ConfigError(f"{here}: sunlab sets --{option} itself; leave it out")
            for option, name in NAMED.items():
                if option.startswith(key):
                    raise ConfigError(f"{here}: use launcher.{name}")
        if value is not None and not isinstance(value, (str, int, float)):
            raise ConfigError(f"{here}: expected text, a number, true, false or null, got {value!r}")
        checked[key] = value
    return checked


def seconds(time: str) -> float:
    """A time limit as sbatch reads it: 90 (minutes), 90:30, 12:00:00, 2-12, 2-12:30, 2-12:30:00, unlimited.

    Raises:
        ConfigError: none of these.
    """
    if time.lower() in UNLIMITED:
        return float("inf")
    found = TIME.fullmatch(time)
    if found is None:
        raise ConfigError(f'launcher.time: expected minutes, H:M:S or D-H:M:S, such as "12:00:00", got {time!r}')
    part = {key: int(value or 0) for key, value in found.groupdict().items()}
    hours = part["h"] + part["dh"] + 24 * part["d"]
    return 3600 * hours + 60 * (part["m"] + part["dm"]) + part["s"] + part["ds"]


def check_notice(notice: int, time: str | None) -> None:
    """Raises `ConfigError` for a notice that sbatch rejects, or that leaves no time to train."""
    if not 1 <= notice <= LATEST:
        raise ConfigError(f"launcher.notice: expected 1 to {LATEST} seconds, got {notice}")
    if time is not None and seconds(time) < 2 * notice:
        raise ConfigError(
            f"launcher.notice: {notice} s is more than half of launcher.time ({seconds(time):.0f} s), so that "
            "every start would end at once; set a longer launcher.time or a shorter launcher.notice"
        )
