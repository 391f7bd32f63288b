"""Checkpoints are whole or not there, and never executed."""

import pickle
from pathlib import Path

import pytest
import torch

from sunlab.checkpoint import AtomicCheckpointIO, resume_path
from sunlab.errors import ConfigError, StorageError

IO = AtomicCheckpointIO()
MARK: list[str] = []


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self):
        return (MARK.append, ("executed",))


class Interrupted(Exception):
    pass


@pytest.fixture
def path(tmp_path: Path) -> Path:
    IO.save_checkpoint({"state_dict": {"a": torch.arange(5)}, "global_step": 1}, tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path / "checkpoints" / "last.ckpt"


def test_round_trip(path):
    loaded = IO.load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["a"], torch.arange(5)) and loaded["global_step"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Interrupted("killed"), KeyboardInterrupt()])
def test_what_goes_wrong_midway_leaves_the_former_one(path, monkeypatch, error):
    before = path.read_bytes()

    def half(checkpoint, file):
        file.write(b"half a checkpoint")
        raise error

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(StorageError if isinstance(error, OSError) else type(error)):
        IO.save_checkpoint({"global_step": 2}, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_an_error_for_the_user(path, monkeypatch):
    """torch.save reports what its file said as a RuntimeError of its own."""
    before, opened = path.read_bytes(), open

    class Full:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            raise OSError(28, "No space left on device")

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    monkeypatch.setattr("builtins.open", lambda *a, **k: Full(opened(*a, **k)) if a[1:] == ("wb",) else opened(*a, **k))
    with pytest.raises(StorageError, match="the previous one is intact"):
        IO.save_checkpoint({"state_dict": {"a": torch.zeros(10_000)}}, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("how", ["torch", "pickle"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, how):
    path = tmp_path / "evil.ckpt"
    if how == "torch":
        torch.save({"state_dict": {}, "more": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps({"more": Bomb()}))
    with pytest.raises(StorageError, match=r"evil\.ckpt is not a readable checkpoint"):
        IO.load_checkpoint(path)
    with pytest.raises(StorageError):
        IO.load_checkpoint(path, weights_only=False)
    assert MARK == []


def test_a_damaged_one(path):
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(StorageError, match="not a readable checkpoint"):
        IO.load_checkpoint(path)


def test_none(tmp_path):
    with pytest.raises(StorageError, match="no checkpoint"):
        IO.load_checkpoint(tmp_path / "x.ckpt")


def test_resume_path(path):
    folder = path.parents[1]
    assert resume_path(None, folder) is None
    assert resume_path("last", folder) == path == resume_path(str(path), folder)
    with pytest.raises(ConfigError, match="start the run without --resume"):
        resume_path("last", folder / "other")
