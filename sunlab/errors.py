"""What can go wrong, each with the exit code that the command line ends with (BSD's sysexits where they fit)."""

INTERRUPTED = 130  # 128 + SIGINT, as shells have it
INTERNAL = 70  # a bug: EX_SOFTWARE


class SunlabError(Exception):
    """An error for the user: what is wrong, where, and the remedy. Never a bug of sunlab's."""

    exit_code = 1


class ConfigError(SunlabError):
    """A wrong configuration: names the key, the value, the file and the alternatives."""

    exit_code = 78


class DataError(SunlabError):
    """Unusable data: names the shard and the sample."""

    exit_code = 65


class StorageError(SunlabError):
    """A file cannot be read or written."""

    exit_code = 74


class Preempted(SunlabError):
    """The run stopped on request, saved its state, and can be resumed."""

    exit_code = 75


class BelowBar(SunlabError):
    """A measured number misses the bar that the configuration sets for it. Everything was measured and written."""

    exit_code = 1


class NotFinite(DataError):
    """Losses or gradients were not finite for several steps in a row."""


class ProcessDied(SunlabError):
    """A rank or a loader worker died or was stopped. The run can be resumed."""

    exit_code = 71  # EX_OSERR


def exit_code(error: Exception) -> int | None:
    """The exit code of an error for the user, None for a bug."""
    if isinstance(error, SunlabError):
        return error.exit_code
    if isinstance(error, OSError):
        return StorageError.exit_code
    from registry import RegistryError  # not for `--help`

    return ConfigError.exit_code if isinstance(error, RegistryError) else None


def message(error: Exception) -> str:
    """What an error tells the user."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)
