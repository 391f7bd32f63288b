"""How soon training starts on remote shards: requests and seconds before the first batch, beside plain webdataset.

    python tools/bench_stream.py                       # makes 300 shards of 100 samples, and serves them on loopback
    python tools/bench_stream.py --shards 20 --urls 10 1000 100000   # so many names for the 20
    python tools/bench_stream.py --shards 20 --urls 10 1000 100000 --local   # the same from the disk
    python tools/bench_stream.py --fit                 # and a whole `sunlab fit` of two steps of emoji-sd over them

Each reader runs in a process of its own that has imported both libraries, and the server in another; readers take turns. A
batch has 8 samples of 8 streams; MiB are those that the process grew by.
"""

import argparse
import multiprocessing
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import webdataset
from PIL import Image
from webdataset.writer import TarWriter

from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Empty
from sunlab.data.shards import Shards

SIDE = 32


def make(folder: Path, shards: int, samples: int) -> None:
    """Shards of small random JPEGs with captions."""
    draw = np.random.default_rng(0)
    for shard in range(shards):
        with (folder / f"{shard:06d}.tar").open("wb") as file, TarWriter(file, encoder=False) as tar:
            for number in range(samples):
                data = BytesIO()
                Image.fromarray(draw.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)).save(data, "JPEG", quality=95)
                tar.write({"__key__": f"{shard:06d}{number:04d}", "jpg": data.getvalue(), "txt": b"a caption of the web"})


class Handler(SimpleHTTPRequestHandler):
    """Serves files and counts requests. `Connection: close` after each, as object stores behind a proxy do."""

    counts: dict[str, int]

    first_step: tuple[float, str] | None = None  # when a training began its first step, and the requests until then

    def do_GET(self) -> None:
        if self.path == "/first-step":
            Handler.first_step = (time.perf_counter(), told())
            self.send_error(404)
            return
        kind = "shards" if self.path.endswith(".tar") else "manifests"
        self.counts[kind] = self.counts.get(kind, 0) + 1
        super().do_GET()

    def do_HEAD(self) -> None:
        self.counts["HEAD"] = self.counts.get("HEAD", 0) + 1
        super().do_HEAD()

    def log_message(self, *args: object) -> None:
        pass


def told() -> str:
    return ", ".join(f"{number} {kind}" for kind, number in sorted(Handler.counts.items()))


PLUGIN = """
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import urlopen
from lightning.pytorch.callbacks import Callback
from sunlab.callbacks.base import CALLBACKS

@CALLBACKS.register("first_step")
class FirstStep(Callback):
    def __init__(self, *, url: str):
        self.url = url
    def on_train_batch_start(self, trainer, module, batch, number):
        if number == 0:
            with suppress(HTTPError):
                urlopen(self.url)
"""


def fit(folder: Path, server: str, urls: str) -> None:
    """Train emoji-sd for two steps by the command, and print when the first one began."""
    (folder / "first_step.py").write_text(PLUGIN)
    source = f"{{name: shards, urls: ['{urls}'], size: 64}}"
    words = [f"data.source={source}", "data.batch_size=8", "data.streams=8", "loss.states=data", "trainer.max_steps=2"]
    words += [f"callbacks=[{{name: first_step, url: {server}/first-step}}]", f"run.dir={folder / 'runs'}"]
    command = [sys.executable, "-m", "sunlab", "fit", "--config", "configs/quickstart.yaml"]
    Handler.counts.clear()
    began = time.perf_counter()
    subprocess.run([*command, "--plugin", str(folder / "first_step.py"), *words], check=True, stdout=subprocess.DEVNULL)
    assert Handler.first_step is not None
    moment, requests = Handler.first_step
    print(f"{'sunlab fit':>11}: first step after {moment - began:.1f} s and {requests}")
    print(f"{'':>11}  ended after {time.perf_counter() - began:.1f} s")


def ours(urls: str) -> Any:
    source = Shards(urls=[urls], shuffle=1000)
    module = DataModule(source, Empty(), batch_size=8, streams=8)
    return iter(module.loader())


def theirs(urls: str) -> Any:
    data = webdataset.WebDataset(urls, shardshuffle=100, empty_check=False)
    return iter(data.shuffle(1000).decode("pil").to_tuple("jpg", "txt").batched(8, collation_fn=None))


READERS: dict[str, Callable[[str], Any]] = {"webdataset": theirs, "sunlab": ours}


def first(reader: Callable[[str], Any], urls: str, results: Any, batches: int) -> None:
    """Seconds to the first batch and to the last, and the largest resident memory."""
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    found = reader(urls)
    next(found)
    soon = time.perf_counter() - began
    for _ in range(batches - 1):
        next(found)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    results.put((soon, time.perf_counter() - began, more))


def measured(reader: Callable[[str], Any], urls: str, batches: int) -> tuple[float, ...]:
    """What `first` measures, in a process of its own."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=first, args=(reader, urls, results, batches))
    process.start()
    found: tuple[float, ...] = results.get(timeout=600)
    process.terminate()
    process.join()
    return found


def compare(place: str, count: int, args: argparse.Namespace) -> None:
    """Prints a row for each reader of `count` shards: medians of rounds in which they take turns."""
    urls, rows, requests = f"{place}/{{000000..{count - 1:06d}}}.tar", dict[str, list[tuple[float, ...]]](), {}
    for _ in range(args.rounds):
        for label, reader in READERS.items():
            Handler.counts.clear()
            rows.setdefault(label, []).append(measured(reader, urls, args.batches))
            requests[label] = told()
    medians = {label: [statistics.median(column) for column in zip(*found, strict=True)] for label, found in rows.items()}
    for label, (soon, all_, more) in medians.items():
        ratio = soon / medians["webdataset"][0]
        print(
            f"{label:>11} {count:>8,} {requests[label]:>28} {soon:>10.3f} s {ratio:>6.2f} {all_:>10.2f} s {more:>6.0f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=300, help="that are made")
    parser.add_argument("--samples", type=int, default=100, help="in each")
    parser.add_argument("--urls", type=int, nargs="*", help="how many shards are named (default: those that are made)")
    parser.add_argument("--batches", type=int, default=2, help="that are read")
    parser.add_argument("--fit", action="store_true", help="train two steps too (configs/quickstart.yaml over the shards)")
    parser.add_argument("--rounds", type=int, default=3, help="of each reader; medians are shown")
    parser.add_argument("--local", action="store_true", help="from the disk, without a server")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.shards, args.samples)
        for number in range(args.shards, max(args.urls or [0])):  # the same files again, under further names
            (folder / f"{number:06d}.tar").symlink_to(folder / f"{number % args.shards:06d}.tar")
        Handler.counts = {}
        columns = f"{'requests':>28} {'first batch':>12} {'ratio':>6} {f'{args.batches} batches':>12} {'MiB':>6}"
        print(f"{'':>11} {'URLs':>8} {columns}")
        with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=name)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            for count in args.urls or [args.shards]:
                compare(name if args.local else f"http://127.0.0.1:{server.server_port}", count, args)
            if args.fit:
                place = f"http://127.0.0.1:{server.server_port}"
                fit(folder, place, f"{place}/{{000000..{(args.urls or [args.shards])[-1] - 1:06d}}}.tar")
            server.shutdown()


if __name__ == "__main__":
    main()
