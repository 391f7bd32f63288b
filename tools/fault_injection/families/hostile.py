"""Shards and lists of shards that mean harm: commands, escapes, pickles, bombs."""

import gzip
import io
import os
import pickle
import struct
import tarfile
import zlib
from pathlib import Path

import numpy as np

from fault_injection.apart import apart
from fault_injection.families.untrusted import Touch
from fault_injection.samples import picture_sample, write_shard
from fault_injection.trial import Seen, trial
from fault_injection.world import World
from sunlab.data.sample import Sample
from sunlab.data.shards import Shards
from sunlab.errors import SunlabError

GROWTH = 150.0  # MiB of memory that reading a bomb may take


@trial(
    "faults",
    "7 pipe:touch PWNED, file:/etc/passwd, ../x, a link member",
    "refused with 65, nothing run, nothing outside read",
)
def addresses(world: World, seen: Seen) -> None:
    folder = world.place("addresses")
    good = write_shard(folder / "good.tar", [picture_sample(number) for number in range(8)])
    (folder / "list").mkdir()
    (folder / "list" / "shards.txt").write_text("../good.tar\n")
    (folder / "list" / "pipes.txt").write_text("pipe:touch PWNED\n")
    urls = ["pipe:touch PWNED", f"pipe:cat {good}", "file:/etc/passwd", "file:///etc/passwd", "/etc/passwd",
            str(folder / "list" / "shards.txt"), str(folder / "list" / "pipes.txt")]  # fmt: skip
    for url in urls:
        _refused(seen, url, f"{url!r}")
    for name, kind, target in (
        ("../escape.txt", tarfile.REGTYPE, ""),
        ("/absolute.txt", tarfile.REGTYPE, ""),
        ("000000001.txt", tarfile.SYMTYPE, "/etc/passwd"),
        ("000000001.txt", tarfile.LNKTYPE, "/etc/passwd"),
        ("000000001.txt", tarfile.CHRTYPE, ""),
    ):
        path = folder / "evil.tar"
        with tarfile.open(path, "w") as tar:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info, io.BytesIO())
            for suffix, data in picture_sample(2).items():
                if suffix != "__key__":
                    info = tarfile.TarInfo(f"000000002.{suffix}")
                    info.size = len(data)
                    tar.addfile(info, io.BytesIO(data))
        _refused(seen, str(path), f"member {name} {kind!r}")
    marks = [Path("PWNED"), folder / "PWNED", folder / "list" / "PWNED", folder.parent / "escape.txt"]
    seen.check(not any(mark.exists() for mark in marks), "something was run or written")


def _refused(seen: Seen, url: str, what: str) -> None:
    try:
        source = Shards(urls=[url])
        read = list(source.read(seed=0, epoch=0, start=0, stop=len(source)))
        seen.check(False, f"{what}: {len(read)} samples were read")
    except SunlabError as error:
        seen.check(error.exit_code in (65, 78), f"{what}: {error.exit_code}: {error}")


@trial("faults", "8 members .pkl, .pth, object .npy", "never decoded: nothing is run, and the samples train without them")
def pickles(world: World, seen: Seen) -> None:
    folder = world.place("pickles")
    mark = folder / "PWNED"
    data = io.BytesIO()
    np.save(data, np.array([Touch(mark)], dtype=object), allow_pickle=True)
    samples = []
    for number in range(24):
        evil = pickle.dumps(Touch(mark))
        samples.append(
            {**picture_sample(number), "pkl": evil, "pickle": evil, "pth": evil, "pyd": evil, "npy": data.getvalue()}
        )
    path = write_shard(folder / "0.tar", samples)
    source = Shards(urls=[str(path)], shuffle=0)
    read = list(source.read(seed=0, epoch=0, start=0, stop=24))
    seen.check(len(read) == 24 and {sample.prompt for sample in read} == {f"picture number {n}" for n in range(24)}, "lost")
    outcome = world.fit(world.config("pickles", [path]))
    seen.check(outcome.codes == [0], f"{outcome.codes}: {outcome.log[-300:]}")
    seen.check(not mark.exists(), "it was run")


@trial(
    "faults",
    "9 a 204 KB gzip bomb, a 12 KB PNG of 10000 x 10000",
    f"65 or a named bad sample; at most {GROWTH:.0f} MiB of memory",
)
def bombs(world: World, seen: Seen) -> None:
    folder = world.place("bombs")
    zeros = {**picture_sample(0), "png": bytes(210 * 2**20)}
    plain = write_shard(folder / "zeros.tar", [zeros])
    bomb = folder / "bomb.tar.gz"
    with plain.open("rb") as source, gzip.open(bomb, "wb", compresslevel=9) as target:
        while chunk := source.read(1 << 20):
            target.write(chunk)
    plain.unlink()
    picture = write_shard(folder / "picture.tar", [{**picture_sample(0), "png": _large_png()}])
    for path in (bomb, picture):
        answer = apart(lambda path=path: _reads(path))  # type: ignore[misc]
        value = answer.get("value") or {}
        seen.check(value.get("code") == 65, f"{path.name}: {answer}")
        seen.check(answer.get("grown", 1e9) <= GROWTH, f"{path.name}: {answer.get('grown'):.0f} MiB")
        seen.count(
            **{f"{path.name.partition('.')[0]}_MiB": round(answer.get("grown", -1), 1), path.name: path.stat().st_size}
        )


def _reads(path: Path) -> dict[str, object]:
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        source = Shards(urls=[str(path)], shuffle=0)
        read = [item for item in source.read(seed=0, epoch=0, start=0, stop=len(source)) if isinstance(item, Sample)]
        return {"code": 0, "read": len(read)}
    except SunlabError as error:
        return {"code": error.exit_code, "told": str(error)}


def _large_png(side: int = 10_000) -> bytes:
    """A black picture with one bit a pixel: some KB that unpack to 300 MB."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((side // 8 + 1) * side), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
