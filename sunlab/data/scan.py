"""A pass over all samples of a shard in its order, before training: for filters, picture sizes and pools of captions."""

from collections.abc import Collection, Iterator

from sunlab.data.manifest import Shard
from sunlab.data.opened import BadSample, Raw, loads_of
from sunlab.data.remote import Remote


def scan(shard: Shard, remote: Remote, suffixes: Collection[str]) -> Iterator[tuple[int, Raw | BadSample]]:
    """The number of each sample that is read, and its members of these suffixes. They are verified like those that are
    trained on, so that altered bytes decide nothing: a bad sample is yielded as the error that it will raise.

    Raises:
        DataError, StorageError: the shard cannot be fetched or opened, or its index is not its own.
    """
    numbers = shard.numbers(0, len(shard)).tolist()
    with remote.held(shard.url, shard.bytes) as path:
        loads = loads_of(path, shard.read_index(remote), numbers, shard.url, suffixes)
    for number, load in zip(numbers, loads, strict=True):
        try:
            yield number, load if isinstance(load, BadSample) else load()
        except BadSample as error:
            yield number, error
