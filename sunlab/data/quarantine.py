"""Bad samples that were left out, each written down once: `quarantine.jsonl`, and how many there may be."""

import json
from collections import Counter
from pathlib import Path

from sunlab.data.sample import Bad, BadSample
from sunlab.errors import DataError, StorageError
from sunlab.files import locked

NAME = "quarantine.jsonl"
LONGEST = 10_000  # bad samples in a row


class Quarantine:
    """One line a bad sample, whichever ranks and workers meet it, and in however many epochs:

        {"shard": "/data/00007.tar", "key": "000070123", "reason": "altered bytes", "message": "..."}

    Args:
        path: of the file.
        limit: samples that may be in it.
    """

    def __init__(self, path: Path = Path(NAME), limit: int = 1000):
        self.path, self.limit = path, limit
        self._known: set[tuple[str, str]] = set()

    def add(self, bad: BadSample) -> None:
        """Raises `DataError` where there are too many, `StorageError` where it cannot be written."""
        if (bad.shard, bad.key) in self._known:
            return
        try:
            with locked(self.path) as file:
                file.seek(0)
                self._known = {(entry["shard"], entry["key"]) for entry in map(json.loads, file)}
                if (bad.shard, bad.key) not in self._known:
                    self._known.add((bad.shard, bad.key))
                    entry = {"shard": bad.shard, "key": bad.key, "reason": bad.reason, "message": str(bad)}
                    file.write(json.dumps(entry).encode() + b"\n")
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written: {error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.path}: not a quarantine ({error!r}); move it away") from None
        if len(self._known) > self.limit:
            raise DataError(
                f"{self.path}: more than {self.limit} bad samples ({counts(self.path)}), the last: {bad}; "
                "mend the data, or raise quarantine_limit of the source"
            )


class Patience:
    """What a pipeline does with a bad sample: raise it, or record it and leave it out, unless only bad ones come.

    Args:
        quarantine: of bad samples; None: the first one is raised.
        instead: called instead of both; None: nothing is.
    """

    def __init__(self, quarantine: Quarantine | None, instead: Bad | None = None):
        self.quarantine, self.instead, self.row = quarantine, instead, 0

    def __call__(self, bad: BadSample) -> None:
        self.row += 1
        if self.instead is not None:
            self.instead(bad)
        elif self.quarantine is None:
            raise bad
        else:
            self.quarantine.add(bad)
        if self.row > LONGEST:
            raise DataError(f"{self.row:,} samples in a row are bad, the last: {bad}")

    @property
    def lenient(self) -> bool:
        """Whether it does not raise the first one."""
        return self.quarantine is not None or self.instead is not None

    def good(self) -> None:
        self.row = 0


def counts(path: Path) -> str:
    """`altered bytes: 3, bad caption: 1`; nothing where there is no quarantine."""
    if not path.is_file():
        return ""
    reasons = Counter(json.loads(line)["reason"] for line in path.read_bytes().splitlines())
    return ", ".join(f"{reason}: {count}" for reason, count in reasons.most_common())
