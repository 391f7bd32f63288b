"""Samples a second of sunlab's loader and of plain webdataset, over the same shards.

    python tools/bench_data.py                          # makes shards like img2dataset's, and measures them
    python tools/bench_data.py '/data/{00000..00031}.tar' --size 256

    python tools/bench_data.py --size 512 --side 1024 --pil   # beside webdataset's own decode("pil") and resize

Both decode with Pillow, resize and crop to --size, and stack batches of the same size in as many worker processes. Both
let libjpeg-turbo unpack a JPEG at half its size or less where that covers --size, which webdataset's decode("pil") does
not: --pil measures that. Every batch is copied once, as to a device. sunlab also verifies every sample against its
digest (unless --unverified), parses its json, draws its prompts and keeps its exact order. Both hold --shuffle samples in
memory. Rounds alternate, so that both run under the same load on a shared machine; CPU time of all processes, dataloader
workers included, from the start to the end, is given beside the wall's, because it depends less on the load. MiB are the
peaks of the rank's own process and of its workers, added up. The last columns are ratios to webdataset.
"""

import argparse
import gc
import json
import multiprocessing
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import webdataset
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from webdataset.writer import TarWriter

from sunlab.data.datamodule import DataModule
from sunlab.data.framing import Framing
from sunlab.data.indexing import index_all
from sunlab.data.negatives import Empty
from sunlab.data.shards import Shards
from sunlab.data.urls import expand

CAPTION = "a photograph of something that is long enough to be a usual caption of the web"


def make(folder: Path, shards: int, samples: int, side: int) -> list[Path]:
    """Shards of JPEGs with the spectrum of photographs, captions and LAION's json."""
    draw, paths = np.random.default_rng(0), []
    for shard in range(shards):
        paths.append(folder / f"{shard:05d}.tar")
        with paths[-1].open("wb") as file, TarWriter(file, encoder=False) as tar:
            for number in range(samples):
                small = Image.fromarray(draw.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
                pixels = np.asarray(small.resize((side, side), Image.Resampling.BICUBIC), np.int16)
                pixels = pixels + draw.integers(-12, 13, pixels.shape)
                data, key = BytesIO(), f"{shard:05d}{number:04d}"
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=95)
                record = {
                    "caption": CAPTION,
                    "url": f"http://x/{key}",
                    "key": key,
                    "status": "success",
                    "width": side,
                    "height": side,
                }
                tar.write(
                    {"__key__": key, "jpg": data.getvalue(), "txt": CAPTION.encode(), "json": json.dumps(record).encode()}
                )
    return paths


def ours(paths: list[Path], args: argparse.Namespace, workers: int) -> Iterator[torch.Tensor]:
    streams = max(4, workers)
    shuffle = args.shuffle if args.order == "exact" else 2 * args.shuffle // streams  # a stream holds half of it
    source = Shards(urls=[str(path) for path in paths], size=args.size, shuffle=shuffle, order=args.order)
    module = DataModule(source, Empty(), batch_size=args.batch // streams * streams, streams=streams, workers=workers)
    return (batch.images for batch in module.loader() if batch.images is not None)


def theirs(paths: list[Path], args: argparse.Namespace, workers: int) -> Iterator[torch.Tensor]:
    framing = Framing(args.size, args.size)

    def frame(sample: dict[str, Any]) -> tuple[torch.Tensor, str]:
        with Image.open(BytesIO(sample["jpg"])) as image:
            size = image.size
            image.draft(None, framing.scaled(*size))
            image.load()
            return framing(image, size, None)[0], sample["txt"].decode()  # type: ignore[arg-type]

    def resized(sample: dict[str, Any]) -> tuple[torch.Tensor, str]:
        picture = ImageOps.fit(sample["jpg"], (args.size, args.size), Image.Resampling.LANCZOS)
        return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous(), sample["txt"]

    def stack(samples: list[tuple[torch.Tensor, str]]) -> torch.Tensor:
        return torch.stack([image for image, _ in samples])

    data = webdataset.WebDataset([str(path) for path in paths], shardshuffle=len(paths), empty_check=False)
    data = data.repeat().shuffle(args.shuffle)
    data = data.decode("pil").map(resized) if args.pil else data.map(frame)
    data = data.batched(args.batch, collation_fn=stack, partial=False)
    return iter(DataLoader(data, batch_size=None, num_workers=workers, multiprocessing_context="fork" if workers else None))


def measure(loader: Callable[..., Iterator[torch.Tensor]], *given: Any, batches: int, results: Any) -> None:
    """Samples a second after a first batch of each worker, CPU milliseconds a sample from the start to the end, and the
    largest resident memory in MiB, its workers' added. In a process of its own."""
    torch.set_num_threads(1)
    cpu, workers = _cpu(), given[-1]
    found, first = loader(*given), max(1, workers)
    for _ in range(first):
        device = next(found).clone()
    began = time.perf_counter()
    samples = sum(len(device.copy_(batch)) for batch in islice(found, batches))
    wall = time.perf_counter() - began
    del found  # ends the workers
    gc.collect()
    own, worker = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    peak = (own + workers * worker) / 1024
    results.put((samples / wall, 1000 * (_cpu() - cpu) / (samples + first * len(device)), peak))


def _cpu() -> float:
    """Seconds of this process and of its children that have ended."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def together(
    loader: Callable[..., Iterator[torch.Tensor]], paths: list[Path], args: argparse.Namespace, workers: int
) -> Any:
    """`args.ranks` processes at once: the sum of their samples a second, the mean of CPU time, the largest memory in MiB."""
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    given = {"batches": args.batches, "results": results}
    processes = [
        context.Process(target=measure, args=(loader, paths, args, workers), kwargs=given) for _ in range(args.ranks)
    ]
    for process in processes:
        process.start()
    rows = [results.get() for _ in processes]
    for process in processes:
        process.join()
    rates, cpus, peaks = zip(*rows, strict=True)
    return sum(rates), statistics.mean(cpus), max(peaks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shards", nargs="*", help="tar files or patterns; none: shards are made")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side of what comes out")
    parser.add_argument("--side", type=int, default=320, help="of the pictures that are made")
    parser.add_argument(
        "--made", type=int, nargs=2, default=(8, 250), metavar=("SHARDS", "SAMPLES"), help="how many are made"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--batches", type=int, default=20, help="measured in each round")
    parser.add_argument("--rounds", type=int, default=3, help="of each loader; medians are shown")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--ranks", type=int, default=1, help="processes at once, each with so many workers")
    parser.add_argument("--shuffle", type=int, default=500)
    parser.add_argument("--order", choices=("stream", "exact"), default="stream", help="of sunlab")
    parser.add_argument("--pil", action="store_true", help='webdataset decodes by decode("pil"), at full size')
    parser.add_argument("--unverified", action="store_true", help="without indexes")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = [path for pattern in args.shards for path in expand(pattern)]
        paths = paths or make(Path(folder), *args.made, args.side)
        if not args.unverified and not args.shards:
            index_all(paths)
        size = sum(path.stat().st_size for path in paths) / 2**20
        print(f"{len(paths)} shards, {size:.0f} MiB, ranks {args.ranks}, {args.size} px")
        print(f"{'workers':>7} {'':>11} {'samples/s':>10} {'CPU ms':>7} {'MiB':>6} {'ratio':>6} {'CPU ratio':>9}")
        for workers in args.workers:
            rounds = [[together(loader, paths, args, workers) for loader in (theirs, ours)] for _ in range(args.rounds)]
            columns = [
                [statistics.median(column) for column in zip(*rows, strict=True)] for rows in zip(*rounds, strict=True)
            ]
            for name, (rate, cpu, peak) in zip(("webdataset", "sunlab"), columns, strict=True):
                ratio = f"{rate / columns[0][0]:6.2f} {columns[0][1] / cpu:9.2f}" if name == "sunlab" else ""
                print(f"{workers:>7} {name:>11} {rate:>10.0f} {cpu:>7.2f} {peak:>6.0f} {ratio}", flush=True)


if __name__ == "__main__":
    main()
