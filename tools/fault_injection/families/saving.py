"""Checkpoints whose writing is interrupted or impossible: the one before is intact."""

import builtins
import ctypes
import os
import resource
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from fault_injection.apart import apart
from fault_injection.trial import Seen, trial
from fault_injection.world import World
from sunlab.checkpoint import AtomicCheckpointIO, previous_of, resume_path, verify
from sunlab.errors import SunlabError

NUMBERS = 1_000_000  # in the state that is saved: 4 MB
CLONE_NEWNS = 0x00020000


def _state(step: int, numbers: int = NUMBERS) -> dict[str, Any]:
    return {"state_dict": {"weights": torch.full((numbers,), float(step))}, "global_step": step}


@trial("faults", "13 SIGKILL while saving", "the newest or the one before is whole, with the temporary folder elsewhere too")
def killed(world: World, seen: Seen) -> None:
    random, elsewhere = world.random("saving"), Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp")
    times = world.choose(12, 100)
    for number in range(times):
        folder = world.place(f"saving/{number}")
        path = folder / "checkpoints" / "last.ckpt"
        AtomicCheckpointIO().save_checkpoint(_state(0), path)

        def save_for_ever(path: Path = path, other: bool = number % 2 == 1) -> None:
            if other:
                os.environ["TMPDIR"] = tempfile.tempdir = str(elsewhere)
            io, step = AtomicCheckpointIO(), 0
            while True:
                step += 1
                io.save_checkpoint(_state(step), path)

        apart(save_for_ever, kill_after=random.uniform(0.005, 0.15))
        seen.check(path.is_file(), f"kill {number}: the newest is gone")
        try:
            found = resume_path("last", folder)
            loaded = AtomicCheckpointIO().load_checkpoint(found)
            step = loaded["global_step"]
            seen.check(bool((loaded["state_dict"]["weights"] == step).all()), f"kill {number}: a mixed state")
            seen.check(found == path, f"kill {number}: the newest is damaged")
        except SunlabError as error:
            seen.check(False, f"kill {number}: {error}")
        AtomicCheckpointIO().save_checkpoint(_state(1), path)
        left = sorted(p.name for p in path.parent.iterdir())
        seen.check(left == ["last.ckpt", "last.previous.ckpt"], f"kill {number}: left {left}")
    seen.count(kills=times)


@trial(
    "faults", "14 saving under a file-size limit, to a full device, to a read-only folder", "told as 74; the old one intact"
)
def impossible(world: World, seen: Seen) -> None:
    for how in (_limited, _full, _read_only):
        folder = world.place(f"impossible/{how.__name__}")
        answer = apart(lambda how=how, folder=folder: how(folder))  # type: ignore[misc]
        name = how.__doc__
        value = answer.get("value") or {}
        seen.check("error" not in answer and bool(value), f"{name}: {answer}")
        seen.check("cannot write the checkpoint" in value.get("told", ""), f"{name}: told {value.get('told')!r}")
        seen.check(value.get("code") == 74, f"{name}: code {value.get('code')}")
        seen.check(value.get("intact") is True, f"{name}: the old one is not intact")
        seen.count(**{how.__name__.strip("_"): str(value.get("told", "")).partition(": ")[2].partition(";")[0]})


def _attempt(folder: Path, *, numbers: int = NUMBERS) -> dict[str, Any]:
    """Save over an old checkpoint; the reported error, and the file that exists."""
    path = folder / "last.ckpt"
    before = path.read_bytes()
    try:
        AtomicCheckpointIO().save_checkpoint(_state(2, numbers), path)
        told, code = "nothing", 0
    except SunlabError as error:
        told, code = str(error), error.exit_code
    verify(path)
    intact = path.read_bytes() == before and [p.name for p in folder.iterdir()] == ["last.ckpt"]
    return {"told": told, "code": code, "intact": intact and not previous_of(path).exists()}


def _limited(folder: Path) -> dict[str, Any]:
    """file-size limit"""
    AtomicCheckpointIO().save_checkpoint(_state(1, 100), folder / "last.ckpt")
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    return _attempt(folder)


def _full(folder: Path) -> dict[str, Any]:
    """full device"""
    libc = ctypes.CDLL(None, use_errno=True)
    mounted = not libc.unshare(CLONE_NEWNS) and not libc.mount(b"none", b"/", None, 0x44000, None)
    mounted = mounted and not libc.mount(b"tmpfs", str(folder).encode(), b"tmpfs", 0, b"size=1m")
    AtomicCheckpointIO().save_checkpoint(_state(1, 100), folder / "last.ckpt")
    if mounted:
        return _attempt(folder)
    opened = builtins.open  # without the right to mount: the kernel's own full device in the temporary file's place

    def to_full(name: Any, mode: str = "r", *rest: Any) -> Any:
        return opened("/dev/full", "r+b") if mode == "x+b" else opened(name, mode, *rest)

    with patch("builtins.open", to_full):
        return _attempt(folder)


def _read_only(folder: Path) -> dict[str, Any]:
    """read-only folder"""
    AtomicCheckpointIO().save_checkpoint(_state(1, 100), folder / "last.ckpt")
    (folder / "last.ckpt").chmod(0o444)
    folder.chmod(0o555)
    if os.geteuid() == 0:  # the administrator may write everywhere
        for above in (folder, *folder.parents):
            if above.stat().st_uid == 0 and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
        os.setuid(65534)
    return _attempt(folder)
