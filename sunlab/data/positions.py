"""Where all virtual streams stand at each step, for checkpoints, and what their readers counted."""

import logging
from collections.abc import Mapping, Sequence

import torch.distributed as dist

from sunlab.data.cursor import Cursor, Tally
from sunlab.data.filters.base import Dropped
from sunlab.data.streams import Share
from sunlab.errors import ConfigError

KEPT = 256  # steps: more than any trainer fetches ahead


class Positions:
    """Args: streams: how many."""

    def __init__(self, streams: int):
        self.streams = streams
        self.tally = Tally()
        self.before = Dropped()  # what filters did until the checkpoint from which the run was resumed
        self._steps: dict[int, dict[int, Cursor]] = {0: {}}  # steps that were made -> this rank's cursors then
        self._warned = False

    def note(self, step: int, shares: Sequence[Share]) -> None:
        """What the readers of this process gave to a step."""
        cursors = {stream: cursor for share in shares for stream, cursor in share.cursors.items()}
        if cursors:
            self._steps[step + 1] = {**self._steps.get(step, {}), **cursors}
            self._steps.pop(step - KEPT, None)
        for share in shares:
            if share.tally is not None:
                self.tally.add(share.tally)
        if self.tally.unread and not self._warned:
            self._warned = True
            logging.getLogger("sunlab.data").warning("%s", self.tally.unread)

    def at(self, step: int) -> Mapping[int, Cursor]:
        """Raises `ConfigError` where the positions at a step are not known."""
        if step not in self._steps:
            raise ConfigError(f"data: where the streams stood at step {step} is not known; resume from a checkpoint")
        return self._steps[step]

    def gathered(self, step: int) -> tuple[list[list[int]], Dropped]:
        """From all ranks: a row for each stream, its cursor after `step` steps, and what the filters did in the whole run.
        Forgets the cursors of earlier steps."""
        own = (self.at(step), self.tally.dropped)
        every = [own]
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            every = [own] * dist.get_world_size()
            dist.all_gather_object(every, own)
        dropped = Dropped()
        for part in (self.before, *(counted for _, counted in every)):
            dropped.add(part)
        for old in [known for known in self._steps if known < step]:
            del self._steps[old]
        whole: dict[int, Cursor] = {}
        for stream, cursor in (item for some, _ in every for item in some.items()):
            # after a resume a rank knows the streams of others where the checkpoint left them: the farthest is right
            whole[stream] = max(cursor, whole.get(stream, cursor), key=lambda one: (one.window, one.offset))
        return [list(whole.get(stream, Cursor())) for stream in range(self.streams)], dropped

    def restore(self, step: int, rows: Sequence[Sequence[int]], before: Dropped) -> None:
        """The positions of a checkpoint, and what the filters did until then."""
        self.before = before
        self._steps = {step: {stream: Cursor(*map(int, row)) for stream, row in enumerate(rows)}}
