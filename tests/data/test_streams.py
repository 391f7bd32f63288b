"""What a step holds depends on neither ranks nor workers, and resuming continues exactly."""

import multiprocessing
import os
from itertools import islice
from multiprocessing.reduction import ForkingPickler

import pytest
import torch.distributed as dist

from sunlab.data import shared
from sunlab.data import streams as streams_module
from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Empty, Mixture
from sunlab.data.streams import Layout
from sunlab.errors import ConfigError, DataError, StorageError

STEPS = 14  # over two epochs of 6 steps and into the third


def batches(source, *, ranks=1, workers=0, first=0, steps=STEPS, streams=4, **given):
    """One list a step of (key, prompt, negative, seed), ranks in turn, and the keys alone of each rank's batches."""
    module = DataModule(source, Mixture(), batch_size=8, streams=streams, workers=workers, caption_dropout=0.3, **given)
    module._resumed = first
    found = [list(islice(module.loader(rank=rank, ranks=ranks), steps - first)) for rank in range(ranks)]
    for step in zip(*found, strict=True):
        rows = [
            (b.keys[i], b.prompts[i], b.negatives[i], b.seeds[i], int(b.images[i, 0, 0, 0]))
            for b in step
            for i in range(len(b))
        ]
        yield rows


@pytest.fixture
def alone(source):
    return list(batches(source()))


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 0), (1, 2), (2, 2)])
def test_steps_do_not_depend_on_ranks_and_workers(source, alone, ranks, workers):
    shared = list(batches(source(), ranks=ranks, workers=workers))
    assert [sorted(step) for step in shared] == [sorted(step) for step in alone]
    if ranks == 1:
        assert shared == alone  # order too: by stream


def test_local_batches_are_ordered_by_stream(source, alone):
    first, second = (
        next(iter(DataModule(source(), Mixture(), batch_size=8, streams=4).loader(rank=r, ranks=2))) for r in (0, 1)
    )
    assert [row[0] for row in alone[0]] == [*first.keys[:2], *second.keys[:2], *first.keys[2:], *second.keys[2:]]


@pytest.mark.parametrize(
    ("first", "ranks", "workers"),
    [(1, 1, 0), (5, 1, 0), (6, 1, 0), (9, 1, 0), (12, 1, 0), (5, 2, 0), (6, 2, 0), (9, 1, 2), (9, 2, 2)],
)
def test_resume_continues(source, alone, first, ranks, workers):
    rest = list(batches(source(), ranks=ranks, workers=workers, first=first))
    assert [sorted(step) for step in rest] == [sorted(step) for step in alone[first:]]


def test_an_epoch_repeats_nothing_and_leaves_out_less_than_a_batch(source, alone):
    epoch = [row[0] for step in alone[:6] for row in step]
    assert len(set(epoch)) == len(epoch) == 48  # of 51
    second = [row[0] for step in alone[6:12] for row in step]
    assert epoch != second and len(set(second)) == 48


def test_draws_are_keyed_by_epoch(alone):
    seeds = [row[3] for step in alone for row in step]
    assert len(set(seeds)) == len(seeds)
    prompts = [row[1] for step in alone for row in step]
    assert 0.15 < prompts.count("") / len(prompts) < 0.45


@pytest.mark.parametrize("workers", [0, 2])
def test_accumulation_cuts_the_same_step(source, alone, workers):
    module = DataModule(source(), Mixture(), batch_size=8, streams=4, accumulate=4, caption_dropout=0.3, workers=workers)
    micro = list(islice(module.loader(), 4 * 3))
    assert all(len(batch) == 2 for batch in micro)
    assert [key for batch in micro for key in batch.keys] == [row[0] for step in alone[:3] for row in step]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"batch_size": 10, "streams": 4}, "no multiple of data.streams = 4; set data.streams=2"),
        ({"batch_size": 64, "streams": 4}, "exceeds the 51 samples"),
        ({"batch_size": 8, "streams": 0}, "no multiple"),
        ({"batch_size": 8, "streams": 4, "caption_dropout": 2.0}, "not a share"),
    ],
)
def test_wrong_numbers_are_refused_at_once(source, given, message):
    with pytest.raises(ConfigError, match=message):
        DataModule(source(), Empty(), **given)


def test_uneven_readers_and_cuts_are_refused(source):
    with pytest.raises(ConfigError, match="multiple of 3"):
        DataModule(source(), Empty(), batch_size=8, streams=4).loader(rank=0, ranks=3)
    with pytest.raises(ConfigError, match="multiple of 8"):
        DataModule(source(), Empty(), batch_size=8, streams=4, workers=4).loader(rank=0, ranks=2)
    with pytest.raises(ConfigError, match="accumulated"):
        DataModule(source(), Empty(), batch_size=8, streams=4, accumulate=3).loader()


@pytest.mark.parametrize("workers", [0, 2])
def test_errors_of_workers_read_as_our_own(source, workers, folder):
    shards = source()
    for path in folder.glob("*.tar"):
        path.write_bytes(b"garbage" * 1000)
    module = DataModule(shards, Empty(), batch_size=8, streams=4, workers=workers)
    module.source.prompts = module.source.keywords = lambda limit: ()
    with pytest.raises(DataError, match=r"^/.*train-0000\d.tar: sample .*: damaged shard"):
        next(iter(module.loader()))


def test_layout_deals_every_stream_once():
    layout = Layout(100, 16, 8)
    assert sorted(sum((layout.deal(r, 4) for r in range(4)), ())) == list(range(8))


@pytest.mark.parametrize("shards", ["train-00003.tar", "train-0000[012].tar"])
def test_uneven_shards_give_every_reader_equal_steps(source, folder, shards):
    """One shard on two ranks, three shards of 7, 12 and 3 samples on two ranks with two workers each."""
    given = {"urls": [f"{folder}/{shards}"]}
    alone = list(batches(source(**given), steps=5))
    shared = list(batches(source(**given), ranks=2, workers=2, steps=5))
    assert [sorted(step) for step in shared] == [sorted(step) for step in alone]
    assert all(len(step) == 8 for step in alone)


def test_a_worker_without_shared_memory(source, monkeypatch, tmp_path):
    """Its own error is the run's, with the cause and a remedy, and what the failed attempt left is removed."""
    monkeypatch.setattr(shared, "FOLDER", tmp_path)

    def full(batch):
        (tmp_path / f"torch_{os.getpid()}_1_0").touch()
        raise RuntimeError(
            f"unable to allocate shared memory(shm) for file </torch_{os.getpid()}_1_0>: No space left on device"
        )

    monkeypatch.setattr(streams_module, "share", full)
    (tmp_path / "torch_1_1_0").touch()  # another process's
    with pytest.raises(StorageError, match=r"no shared memory left .*--shm-size.*data\.workers=0"):
        next(iter(DataModule(source(), Empty(), batch_size=8, streams=4, workers=1).loader()))
    assert [path.name for path in tmp_path.glob("torch_*")] == ["torch_1_1_0"]


def test_batches_of_workers_are_in_shared_memory(source):
    batch = next(iter(DataModule(source(size=8), Empty(), batch_size=8, streams=4, workers=1).loader()))
    assert batch.images.is_shared() and batch.crops.is_shared()


def test_a_batch_moves_to_shared_memory_as_it_is_pickled(source):
    """By the thread of a worker's queue, so that the worker decodes meanwhile."""
    (given,) = islice(DataModule(source(size=8), Empty(), batch_size=8, streams=4).loader().streams(0), 1)
    assert not given.batch.images.is_shared()
    ForkingPickler.dumps(given)
    assert given.batch.images.is_shared() and given.batch.crops.is_shared()


def of_a_group(source, folder, ranks):
    """What processes that talk over gloo read: a list a step of (key, prompt, negative, seed), and the positions that each
    of them would save after the last step."""
    context = multiprocessing.get_context("fork")
    found = context.SimpleQueue()

    def read(rank):
        dist.init_process_group("gloo", init_method=f"file://{folder}/group-{ranks}", rank=rank, world_size=ranks)
        module = DataModule(source, Mixture(), batch_size=8, streams=4, caption_dropout=0.3)
        batches = islice(module.loader(rank=rank, ranks=ranks), STEPS)
        rows = [list(zip(b.keys, b.prompts, b.negatives, b.seeds, strict=True)) for b in batches]
        module._resumed = STEPS
        found.put((rows, module.state_dict()))
        dist.destroy_process_group()

    processes = [context.Process(target=read, args=(rank,)) for rank in range(ranks)]
    for process in processes:
        process.start()
    parts, states = zip(*(found.get() for _ in processes), strict=True)
    for process in processes:
        process.join()
    assert all(process.exitcode == 0 for process in processes) and all(state == states[0] for state in states)
    return [sorted(row for rows in step for row in rows) for step in zip(*parts, strict=True)], states[0]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("order", ["stream", "exact"])
def test_processes_of_a_group_read_the_same_steps(source, tmp_path, order):
    shards = source(order=order)
    alone, state = of_a_group(shards, tmp_path, 1)
    assert len({row for step in alone for row in step}) == STEPS * 8 and ("cursors" in state) == (order == "stream")
    for ranks in (2, 4):
        assert of_a_group(shards, tmp_path, ranks) == (alone, state)
