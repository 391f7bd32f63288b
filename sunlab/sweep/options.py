"""Options of sbatch that a configuration may give, checked before anything is queued."""

import re
from collections.abc import Mapping
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
WHOLE = ("gpus",)  # an option of its own, though the beginning of another
LATEST = 65535  # seconds: sbatch takes no earlier signal
TIME = re.compile(
    r"(?:(?P<d>\d+)-(?P<dh>\d+)(?::(?P<dm>\d+)(?::(?P<ds>\d+))?)?|(?:(?P<h>\d+):(?=\d+:))?(?P<m>\d+)(?::(?P<s>\d+))?)"
)
UNLIMITED = ("unlimited", "infinite")


def free_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """`launcher.sbatch` with dashes for underscores.

    Raises:
        ConfigError: a key that is no long option, or one that sunlab sets or has a name of its own for, abbreviations
            included, which sbatch would take; or a value that is neither text, a number, true, false nor null.
    """
    checked: dict[str, Any] = {}
    for written, value in given.items():
        key, here = str(written).replace("_", "-"), f"launcher.sbatch.{written}"
        if not KEY.fullmatch(key):
            raise ConfigError(f"{here}: is no long option of sbatch; write it without dashes before, such as mem-per-cpu")
        if key not in WHOLE:
            for option in OURS:
                if option.startswith(key):
                    raise ConfigError(f"{here}: sunlab sets --{option} itself; leave it out")
            for option, name in NAMED.items():
                if option.startswith(key):
                    raise ConfigError(f"{here}: say it as launcher.{name}")
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
    """Raises `ConfigError` for a notice that sbatch does not take, or that leaves no time to train."""
    if not 1 <= notice <= LATEST:
        raise ConfigError(f"launcher.notice: expected 1 to {LATEST} seconds, got {notice}")
    if time is not None and seconds(time) < 2 * notice:
        raise ConfigError(
            f"launcher.notice: {notice} s before a limit of {seconds(time):.0f} s a run would be stopped as soon as it has "
            "begun, again and again; give a longer launcher.time or a shorter launcher.notice"
        )
