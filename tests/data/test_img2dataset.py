"""Shards that img2dataset itself wrote, from pictures that a server on loopback gave it.

img2dataset's pins differ from ours, so it runs in an environment of its own: IMG2DATASET names its program, else it is
looked for on the path.
"""

import json
import os
import shutil
import subprocess
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from sunlab.cli.main import main
from sunlab.data.datamodule import DataModule
from sunlab.data.ledger import steps_of
from sunlab.data.negatives import Empty
from sunlab.data.shards import Shards

PROGRAM = os.environ.get("IMG2DATASET") or shutil.which("img2dataset")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(PROGRAM is None, reason="img2dataset is not installed; set IMG2DATASET")]
COUNT, SHARD = 60, 25
NAMES = {  # LAION's columns, and Re-LAION's
    "laion": ("URL", "TEXT", "AESTHETIC_SCORE", "WIDTH", "HEIGHT"),
    "re-laion": ("url", "caption", "aesthetic", "width", "height"),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("www")
    draw = np.random.default_rng(0)
    for number in range(COUNT):
        data = BytesIO()
        size = [(96, 64), (64, 96), (80, 80)][number % 3]
        Image.fromarray(draw.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).save(data, "JPEG")
        (folder / f"{number}.jpg").write_bytes(data.getvalue())
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def steps(urls, order):
    """Whether the batches of a training over two epochs hold what was written."""
    module = DataModule(Shards(urls=[urls], order=order, size=48), Empty(), batch_size=8, streams=4)
    batches = list(islice(module.loader(), 15))
    prompts = {prompt for batch in batches for prompt in batch.prompts}
    return {batch.images.shape for batch in batches} == {(8, 3, 48, 48)} and 40 < len(prompts) <= COUNT


def written(server, folder, names="laion", kind="jpg"):
    """The folder of shards that img2dataset makes of the pictures of the server."""
    url, caption, *more = NAMES[names]
    rows = [
        {url: f"{server}/{n}.jpg", caption: f"caption {n}", more[0]: n / 10, more[1]: 80, more[2]: 80} for n in range(COUNT)
    ]
    gone = {url: f"{server}/none.jpg", caption: "not there", more[0]: 9.0, more[1]: 1, more[2]: 1}
    rows = [gone] * SHARD + rows + [gone]  # the first shard has no sample at all
    (folder / "urls.json").write_text(json.dumps(rows))
    out = folder / "out"
    kept = json.dumps([name for name in more if name not in ("width", "height")])
    command = [PROGRAM, "--url_list", folder / "urls.json", "--input_format", "json"]
    command += ["--url_col", url, "--caption_col", caption]
    command += ["--output_folder", out, "--output_format", "webdataset", "--image_size", "64", "--encode_format", kind]
    command += [
        "--number_sample_per_shard",
        str(SHARD),
        "--processes_count",
        "1",
        "--thread_count",
        "4",
        "--enable_wandb",
        "False",
    ]
    command += ["--save_additional_columns", kept, *(["--encode_quality", "9"] if kind == "png" else [])]
    own = {**os.environ, "PYTHONPATH": ""}
    done = subprocess.run([*map(str, command)], text=True, capture_output=True, timeout=500, env=own, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.mark.parametrize("order", ["stream", "exact"])
def test_a_whole_training(server, tmp_path, tiny_config, order):
    """Two steps of `sunlab fit`, with a filter of LAION's and the export."""
    out = written(server, tmp_path)
    if order == "exact":
        assert main(["data", "index", f"{out}/*.tar"]) == 0
    filters = "[{name: aesthetic, min: 1, missing: error}]"
    source = f"{{name: shards, urls: ['{out}/*.tar'], size: 32, filters: {filters}}}"
    words = [f"data.source={source}", "trainer.max_steps=2", f"run.dir={tmp_path / 'runs'}"]
    assert main(["fit", "--config", str(tiny_config), *words]) == 0
    run = tmp_path / "runs" / "tiny"
    assert (run / "export" / "adapter.safetensors").is_file()
    report = json.loads((run / "filters.json").read_text())
    assert report["kept"] > 0 and report["seen"] - report["kept"] == report["filters"]["aesthetic"]["dropped"] > 0
    assert len({key for step in steps_of(run / "ledger.jsonl").values() for key in step}) == 2 * 8


@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
@pytest.mark.parametrize("names", NAMES)
def test_read_verified_and_filtered(server, tmp_path, monkeypatch, names, kind):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    out = written(server, tmp_path, names, kind)
    assert sorted(path.suffix for path in out.iterdir() if path.stem == "00000") == [".parquet", ".tar"]
    assert steps(f"{out}/*.tar", "stream") and main(["data", "index", f"{out}/*.tar"]) == 0
    assert steps(f"{out}/*.tar", "stream") and steps(f"{out}/*.tar", "exact")
    shards = Shards(urls=[f"{out}/{{00000..00003}}.tar"], size=48)
    samples = list(shards.read(seed=0, epoch=0, start=0, stop=len(shards)))
    assert len(samples) == COUNT and shards.notice() is None
    assert {sample.prompt for sample in samples} == {f"caption {n}" for n in range(COUNT)}
    assert all(sample.image.shape == (3, 48, 48) and sample.record["status"] == "success" for sample in samples)
    filtered = Shards(urls=[f"{out}/*.tar"], filters=[{"name": "aesthetic", "min": 4, "missing": "error"}])
    read = filtered.read(seed=0, epoch=0, start=0, stop=len(filtered))
    assert {sample.prompt for sample in read} == {f"caption {n}" for n in range(40, 60)}
    assert len(Shards(urls=[f"{out}/*.tar"], filters=[{"name": "size", "min": 80, "missing": "error"}])) in (20, 40, 60)
