"""Progress as whole lines, which a log file holds as well as a terminal."""

import time
from collections.abc import Callable, Sequence

EVERY = 15.0  # seconds between two lines at most
SHARE = 0.05  # of the work between two lines at most


Notes = Callable[[], Sequence[str]]
"""What a line says besides; called for lines that are printed, since it may wait for a device."""


class Lines:
    """Prints one line at the start and then one after 15 s or 5 % of the work, whichever comes first, and one at the end.

        evaluate: 64 of 256 pictures, 12.3 pictures/s, 0:05 elapsed, 0:16 left

    Args:
        what: the name of the work, which starts each line.
        total: how much work there is; None where it is not known.
        unit: of the work, in the plural.
        enabled: False prints nothing, as on all ranks but the first.
        rate: whether units a second are shown.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        what: str,
        total: float | None,
        *,
        unit: str,
        enabled: bool = True,
        rate: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.what, self.total, self.unit, self.enabled, self.rate, self._clock = what, total, unit, enabled, rate, clock
        self._began = self._printed = clock()
        self._first = self._done = 0.0  # units done before this process began, and by now
        self._first_share = self._last_share = 0.0

    def begin(self, done: float = 0.0, *, share: float | None = None) -> None:
        """Print the line at the start. Args: done, share: what was done before, which says nothing about the rate."""
        self._began = self._clock()
        self._first = self._done = done
        self._first_share = self._share(share)
        self._print(list, share, self._began)

    def skip(self, count: float) -> None:
        """Count units that were done before and are only found now."""
        self._first += count
        self._done += count
        if self.total:
            self._first_share += count / self.total

    def add(self, count: float, notes: Notes = list) -> None:
        """`count` more units are done."""
        self.update(self._done + count, notes)

    def update(self, done: float, notes: Notes = list, *, share: float | None = None) -> None:
        """Print a line where one is due.

        Args:
            done: units done by now.
            notes: see `Notes`.
            share: of all work; None: `done` of the total.
        """
        self._done = done
        now, gained, whole = self._clock(), self._share(share) - self._last_share, self._share(share) >= 1
        due = now - self._printed >= EVERY or gained >= SHARE
        if due or (whole and self._last_share < 1):
            self._print(notes, share, now)

    def _share(self, share: float | None) -> float:
        return share if share is not None else self._done / self.total if self.total else 0.0

    def _print(self, notes: Notes, share: float | None, now: float) -> None:
        self._printed, self._last_share = now, self._share(share)
        if not self.enabled:
            return
        elapsed = self._printed - self._began
        parts = [f"{int(self._done)} of {int(self.total)} {self.unit}" if self.total else f"{int(self._done)} {self.unit}"]
        parts += notes()
        made, gained = self._done - self._first, self._last_share - self._first_share
        if self.rate and made > 0 and elapsed > 0:
            parts.append(f"{made / elapsed:.3g} {self.unit}/s")
        if elapsed > 0:
            parts.append(f"{clock_time(elapsed)} elapsed")
        if gained > 0 and self._last_share < 1:
            parts.append(f"{clock_time(elapsed * (1 - self._last_share) / gained)} left")
        print(f"{self.what}: {', '.join(parts)}", flush=True)


def clock_time(seconds: float) -> str:
    """0:05, 12:34, 1:02:03."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
