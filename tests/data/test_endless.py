"""The order "stream": steps do not depend on ranks and workers, resuming is exact, a pass loses and repeats nothing."""

import io
import json
import tracemalloc
from functools import cache
from itertools import islice
from random import Random

import numpy as np
import pytest
import webdataset
from tars import members, png, write_tar
from webdataset.writer import TarWriter

from sunlab.data.cursor import Cursor, Request
from sunlab.data.datamodule import DataModule
from sunlab.data.decode import Decoder
from sunlab.data.negatives import Mixture
from sunlab.data.shards import Shards
from sunlab.data.stages.archive import Open
from sunlab.data.stages.order import permutation
from sunlab.data.stream import Stream
from sunlab.data.streams import Layout
from sunlab.errors import ConfigError, DataError

STEPS = 30  # of 8 samples, over 51: into the fifth pass


def batches(source, *, ranks=1, workers=0, steps=STEPS, state=None, **given):
    """One list a step of (key, prompt, negative, seed, pixel), ranks in turn, and the state that a checkpoint keeps."""
    modules = [
        DataModule(
            source, Mixture(), batch_size=8, streams=4, workers=workers, caption_dropout=0.3, caption_noise=0.3, **given
        )
        for _ in range(ranks)
    ]
    for module in modules:
        if state is not None:
            module.load_state_dict(state)
    found = [list(islice(module.loader(rank=rank, ranks=ranks), steps)) for rank, module in enumerate(modules)]
    rows = [
        [
            (b.keys[i], b.prompts[i], b.negatives[i], b.seeds[i], int(b.images[i, 0, 0, 0]))
            for b in step
            for i in range(len(b))
        ]
        for step in zip(*found, strict=True)
    ]
    return rows, modules


def state_at(modules, step):
    """As the ranks' data modules say it together after `step` steps."""
    cursors = [Cursor()] * 4
    for module in modules:
        for stream, cursor in module.positions.at(step).items():
            cursors[stream] = cursor
    return {**modules[0].state_dict(), "step": step, "cursors": [list(cursor) for cursor in cursors]}


@pytest.fixture
def stream(source):
    return lambda **given: source(order="stream", **given)


@pytest.fixture
def alone(stream):
    return batches(stream())


@pytest.mark.parametrize(("ranks", "workers"), [(2, 0), (4, 0), (1, 2), (2, 2)])
def test_steps_do_not_depend_on_ranks_and_workers(stream, alone, ranks, workers):
    shared, _ = batches(stream(), ranks=ranks, workers=workers)
    assert [sorted(step) for step in shared] == [sorted(step) for step in alone[0]]


@pytest.mark.parametrize(("first", "ranks", "workers"), [(1, 1, 0), (7, 2, 0), (8, 1, 2), (19, 2, 2), (25, 4, 0)])
@pytest.mark.parametrize("shuffle", [0, 5, 1000])
def test_resume_is_exact(stream, shuffle, first, ranks, workers):
    whole, modules = batches(stream(shuffle=shuffle))
    rest, _ = batches(
        stream(shuffle=shuffle), ranks=ranks, workers=workers, steps=STEPS - first, state=state_at(modules, first)
    )
    assert [sorted(step) for step in rest] == [sorted(step) for step in whole[first:]]


def test_a_checkpoint_grows_by_bytes(alone):
    assert len(str(state_at(alone[1], 20)["cursors"])) < 200


def test_every_sample_once_a_pass(stream):
    for streams in (1, 2, 5, 8):
        keys = [
            item["sample"].key for v in range(streams) for item in stream().pipeline(streams=streams, stream=v, passes=2)
        ]
        assert len(keys) == 2 * 51 and len(set(keys)) == 51


def test_keys_name_shard_and_pass(stream, alone, folder):
    keys = [row[0] for step in alone[0] for row in step]
    assert len(set(keys)) == len(keys) and any(key.endswith("(pass 1)") for key in keys)
    assert all(key.startswith(f"{folder.name}/train-0000") for key in keys)


def test_negatives_are_captions_of_the_neighbourhood(alone):
    drawn = {row[2] for step in alone[0] for row in step}
    assert sum(text.startswith("a thing") for text in drawn) > 10


def test_filters_are_counted_and_stop_where_nothing_passes(stream, folder):
    even = {"name": "json_field", "field": "number", "min": 26, "missing": "drop"}
    source = stream(filters=[even])
    rows, modules = batches(source, steps=20)
    assert all(int(row[0].rpartition("/")[2][:5]) >= 26 for step in rows for row in step)
    dropped = modules[0].positions.tally.dropped
    assert dropped.seen == dropped.kept + dropped.first["json_field number"] and dropped.kept >= 160
    modules[0].report_in(folder)
    module = DataModule(source, Mixture(), batch_size=8, streams=4)
    module.load_state_dict(state_at(modules, 20))
    report = json.loads((folder / "filters.json").read_text())
    assert report == {
        "seen": dropped.seen,
        "kept": dropped.kept,
        "bad": 0,
        "filters": {
            "json_field number": {
                "dropped": dropped.seen - dropped.kept,
                "dropped_alone": dropped.seen - dropped.kept,
                "missing": 0,
            }
        },
    }
    module.report_in(folder)
    list(islice(module.loader(), 5))
    module.state_dict()  # a resumed run goes on counting
    again = json.loads((folder / "filters.json").read_text())
    assert again["seen"] == report["seen"] + module.positions.tally.dropped.seen > report["seen"] + 40
    nothing = stream(filters=[{**even, "min": 100}])
    with pytest.raises(DataError, match=r"drop every sample.*\n(.*\n)+.*0 of \d+ samples kept"):
        batches(nothing, steps=1)


def test_a_filter_that_drops_nothing_is_reported(stream):
    dropped = stream(filters=[{"name": "caption_length", "missing": "keep"}])
    _, modules = batches(dropped, steps=2)
    nothing = {"dropped": 0, "dropped_alone": 0, "missing": 0}
    assert modules[0].positions.tally.dropped.report()["filters"] == {"caption_length": nothing}


def test_manifests_decide_the_default_order(folder):
    from sunlab.data.indexing import index_all

    paths, given = sorted(folder.glob("train-*.tar")), {"urls": [f"{folder}/train-*.tar"]}
    assert Shards(**given).order == "stream" and Shards(**given, limit=3).order == "exact"
    index_all(paths[:4])
    assert Shards(**given).order == "stream"  # one shard is not listed
    index_all(paths[4:])
    assert Shards(**given).order == "exact" and Shards(**given, order="stream").order == "stream"
    for path in folder.glob("*.index"):
        path.unlink()
    assert Shards(**given).order == "exact"  # counts alone decide


def test_stages_of_a_user_in_counted_shards(source):
    """A stage sees undecoded samples in both orders; there it may not drop any."""
    shards = source(stages=[{"name": "subsample", "after": "verify", "share": 1.0}])
    assert [name for name, _ in shards.plan()] == [
        *("shards", "split", "shuffle", "open", "verify", "subsample", "decode", "prompts", "batch")
    ]
    found = batches(shards, steps=6)[0]
    assert found == batches(source(), steps=6)[0]
    some = source(stages=[{"name": "subsample", "after": "verify", "share": 0.5}])
    with pytest.raises(DataError, match="fewer samples than it counted, or a stage dropped some"):
        batches(some, steps=6)


def test_filters_are_counted_over_all_ranks(stream, folder, monkeypatch):
    source = stream(filters=[{"name": "json_field", "field": "number", "min": 26, "missing": "drop"}])
    _, modules = batches(source, ranks=2, steps=10)
    owned = [(module.positions.at(10), module.positions.tally.dropped) for module in modules]

    def gather(found, _):
        found[:] = owned

    for name, value in {"is_initialized": lambda: True, "get_world_size": lambda: 2, "all_gather_object": gather}.items():
        monkeypatch.setattr(f"torch.distributed.{name}", value)
    _, dropped = modules[0].positions.gathered(10)
    assert dropped.seen == sum(one.seen for _, one in owned) and min(one.seen for _, one in owned) > 0


def test_ranks_that_were_resumed_gather_the_positions_of_all(stream, alone, monkeypatch):
    """Each of them knows the others' streams where the checkpoint left them."""
    _, modules = batches(stream(), ranks=2, steps=10, state=state_at(alone[1], 5))
    owned = [(module.positions.at(15), module.positions.tally.dropped) for module in modules]
    for order in (owned, owned[::-1]):
        given = {"is_initialized": lambda: True, "get_world_size": lambda: 2}
        given["all_gather_object"] = lambda found, _, order=order: found.__setitem__(slice(None), order)
        for name, value in given.items():
            monkeypatch.setattr(f"torch.distributed.{name}", value)
        assert modules[0].positions.gathered(15)[0] == state_at(alone[1], 15)["cursors"]


def test_a_small_share_of_bad_samples_is_left_out(tmp_path):
    samples = [members(n) for n in range(40)]
    samples[7]["png"] = b"broken"
    write_tar(tmp_path / "a.tar", samples)
    given = {"urls": [f"{tmp_path}/a.tar"], "shuffle": 4}
    with pytest.raises(DataError, match=r"sample .*00007': undecodable image"):
        list(Shards(**given).pipeline(stream=0, passes=1))
    source = Shards(**given, on_error="quarantine")
    source.quarantine_in(tmp_path)
    assert len(list(source.pipeline(stream=0, passes=2))) == 78
    assert len((tmp_path / "quarantine.jsonl").read_text().splitlines()) == 1


RATIOS = Random(0).choices(range(3), (2, 1, 1), k=48)


@pytest.fixture(scope="module")
def ratios(tmp_path_factory):
    """Two shards of 24 pictures: half of them wide, others tall and square; one cannot be decoded."""
    from test_framing import picture

    folder, sizes = tmp_path_factory.mktemp("ratios"), [(96, 48), (48, 96), (64, 64)]
    for shard in range(2):
        numbers = range(24 * shard, 24 * shard + 24)
        samples = [{**members(n), "png": picture(*sizes[RATIOS[n]])} for n in numbers]
        if shard:
            samples[9]["png"] = samples[9]["png"][:60]  # its header says its size
        write_tar(folder / f"{shard}.tar", samples)
    return folder


def bucketed(ratios, *, ranks=1, workers=0, accumulate=1, state=None, steps=12):
    source = Shards(urls=[f"{ratios}/*.tar"], size=48, buckets=16, on_error="quarantine")
    source.quarantine_in(ratios)
    modules = [
        DataModule(source, Mixture(), batch_size=8, streams=4, workers=workers, accumulate=accumulate) for _ in range(ranks)
    ]
    for module in modules:
        if state is not None:
            module.load_state_dict(state)
    loaders = [module.loader(rank=rank, ranks=ranks) for rank, module in enumerate(modules)]
    found = zip(*(islice(loader, steps * accumulate) for loader in loaders), strict=True)
    return list(found), modules


def keys_of(micro, accumulate=1):
    steps = [micro[n : n + accumulate] for n in range(0, len(micro), accumulate)]
    return [sorted(key for batches in step for batch in batches for key in batch.keys) for step in steps]


def test_a_step_has_one_shape(ratios):
    """On all its ranks, in the proportions of the data, whatever is accumulated."""
    whole, modules = bucketed(ratios, steps=24)
    shapes = [tuple(batch.images.shape[1:]) for (batch,) in whole]
    assert set(shapes) == {(3, 32, 64), (3, 64, 32), (3, 48, 48)} and 8 <= shapes.count((3, 32, 64)) <= 16
    fitting = sum(
        tuple(batch.images.shape[1:]) == [(3, 32, 64), (3, 64, 32), (3, 48, 48)][RATIOS[int(key.split("/")[2][:5])]]
        for (batch,) in whole
        for key in batch.keys
    )
    assert fitting > 0.7 * 192  # the others fill groups of another shape
    assert any("(for 00033)" in key for (batch,) in whole for key in batch.keys)
    for ranks, workers, accumulate in ((2, 2, 1), (1, 0, 2)):
        found, _ = bucketed(ratios, ranks=ranks, workers=workers, accumulate=accumulate)
        assert all(len({batch.images.shape[1:] for batch in batches}) == 1 for batches in found)
        assert keys_of(found, accumulate) == keys_of(whole)[:12]
    for first in (1, 9):
        rest, _ = bucketed(ratios, ranks=2, state=state_at(modules, first), steps=12 - first)
        assert keys_of(rest) == keys_of(whole)[first:12]


def test_a_stage_that_drops_samples_of_buckets(ratios):
    given = {"urls": [f"{ratios}/*.tar"], "size": 48, "buckets": 16, "on_error": "quarantine"}
    source = Shards(**given, stages=[{"name": "subsample", "after": "shuffle", "share": 0.5}])
    with pytest.raises(DataError, match="put it before shuffle"):
        list(islice(DataModule(source, Mixture(), batch_size=8, streams=4).loader(), 9))


def test_it_is_a_webdataset_pipeline(stream):
    """That webdataset's own stages extend."""
    pipeline = stream().pipeline(passes=1)
    assert isinstance(pipeline, webdataset.DataPipeline)
    longer = pipeline.compose(webdataset.map(lambda item: item["sample"].prompt), webdataset.batched(10, collation_fn=None))
    assert [len(batch) for batch in longer] == [10] * 5 + [1]


def test_stages_of_a_user(stream, folder):
    plain = stream()
    names = [name for name, _ in plain.pipeline().plan()]
    assert names == ["shards", "split", "open", "tar", "group", "verify", "shuffle", "decode"]
    some = stream(stages=[{"name": "subsample", "after": "verify", "share": 0.5}])
    assert [name for name, _ in some.pipeline().plan()][6] == "subsample"
    kept = [item["sample"].key for item in some.pipeline(stream=0, passes=1)]
    every = [item["sample"].key for item in plain.pipeline(stream=0, passes=1)]
    assert 15 <= len(kept) <= 36 and set(kept) < set(every)
    with pytest.raises(ConfigError, match=r"'nowhere', which is no stage; there are shards, split"):
        stream(stages=[{"name": "subsample", "after": "nowhere", "share": 0.5}]).pipeline()
    with pytest.raises(ConfigError, match=r"data\.source\.stages\.0: .*after"):
        stream(stages=[{"name": "subsample", "share": 0.5}])


class Tar(io.BytesIO):
    """An archive that notes how many are open."""

    open, most = 0, 0

    def __init__(self, data):
        super().__init__(data)
        Tar.open += 1
        Tar.most = max(Tar.most, Tar.open)

    def close(self):
        Tar.open -= not self.closed
        super().close()


@cache
def captions(count):
    """An archive of so many samples without pictures."""
    data = io.BytesIO()
    with TarWriter(data, encoder=False, mtime=0) as tar:
        for number in range(count):
            tar.write({"__key__": f"{number:05d}", "txt": b"a caption"})
    return data.getvalue()


def test_a_thousand_ranks_share_a_large_set(monkeypatch):
    """1,024 ranks x 8 workers over 41,455 shards of unequal sizes, without a process, a server or a file: each sample once a
    pass; no reader without samples; open files and memory do not grow with the number of shards."""
    shards, ranks, workers = 41_455, 1_024, 8
    streams = ranks * workers
    sizes = np.random.default_rng(0).integers(1, 40, shards)
    order = permutation(shards, 0, 3)
    taken = [order[v::streams] for v in range(streams)]
    assert sorted(int(n) for some in taken for n in some) == list(range(shards))
    assert {len(some) for some in taken} == {5, 6}
    counts = [int(sizes[some].sum()) for some in taken]
    assert sum(counts) == sizes.sum() and min(counts) > 0
    layout = Layout(2**62, streams, streams)
    readers = [layout.deal(77 + ranks * worker, streams) for worker in range(workers)]  # one rank's
    assert [len(own) for own in readers] == [1] * workers
    monkeypatch.setattr(Open, "file", lambda self, url: Tar(captions(int(sizes[int(url[-9:-4])]))))
    source = Stream([f"http://host/{n:05d}.tar" for n in range(shards)], Decoder(pictures=False), 100)
    for size in range(1, 40):
        captions(size)
    for stream in (int(np.argmin(counts)), int(np.argmax(counts))):
        tracemalloc.start()
        request = {"streams": streams, "stream": stream, "start": Cursor(epoch=3)}
        keys = [item["sample"].key for item in source.pipeline(Request(**request, passes=4))]
        memory = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert len(keys) == len(set(keys)) == counts[stream]
        assert {int(key.split("/")[1]) for key in keys} == set(taken[stream].tolist())
        assert Tar.most <= 2 and Tar.open == 0 and memory < 8 * 2**20, (Tar.most, memory)
        endless = islice(source.pipeline(Request(**request)), counts[stream] + 1)
        assert len(list(endless)) == counts[stream] + 1  # the next pass begins without the other readers


@pytest.mark.parametrize("index", [True, False])
def test_cut_and_altered_shards(folder, index):
    """Where webdataset's own reader yields fewer or other samples without an error."""
    from sunlab.data.indexing import index_all

    paths = sorted(folder.glob("train-*.tar"))
    if index:
        index_all(paths)
    path = paths[3]
    data = path.read_bytes()
    place = data.index(b"IDAT") + 8
    url = f"{folder}/train-00003.tar"

    def read():
        return list(Shards(urls=[url], order="stream", shuffle=0).pipeline(stream=0, passes=1))

    assert len(read()) == 20
    path.write_bytes(data[: 4 * len(data) // 5 // 512 * 512])
    with pytest.raises(DataError, match="damaged shard"):
        read()
    if index:
        path.write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        with pytest.raises(DataError, match="altered bytes"):
            read()


def test_shards_as_img2dataset_writes_them(tmp_path):
    """A jpg, txt and json a sample; the parquet of all rows and the statistics beside each shard are no shards."""
    for shard in range(2):
        samples = []
        for number in range(5):
            key = f"{shard:05d}{number:04d}"
            record = {"caption": f"caption {key}", "url": "http://x", "key": key, "status": "success", "error_message": None}
            record |= {
                "width": 8,
                "height": 8,
                "original_width": 80,
                "original_height": 80,
                "exif": "{}",
                "sha256": "0" * 64,
            }
            text = f"caption {key}".encode()
            samples.append(
                {"__key__": key, "jpg": png(number, kind="JPEG"), "txt": text, "json": json.dumps(record).encode()}
            )
        write_tar(tmp_path / f"{shard:05d}.tar", samples)
        (tmp_path / f"{shard:05d}.parquet").write_bytes(b"PAR1")
        (tmp_path / f"{shard:05d}_stats.json").write_text("{}")
    for pattern in ("{00000..00001}.tar", "*.tar"):
        source = Shards(urls=[f"{tmp_path}/{pattern}"], filters=[{"name": "size", "min": 80, "missing": "error"}])
        found = [item["sample"] for item in source.pipeline(stream=0, passes=1)]
        assert source.order == "stream" and len(found) == 10
        assert {s.prompt for s in found} == {f"caption {s:05d}{n:04d}" for s in range(2) for n in range(5)}
        assert all(s.record["status"] == "success" and s.image.shape == (3, 8, 8) for s in found)
