"""Checkpoints are whole or not there, verified before use, and never executed."""

import os
import pickle
import random
import resource
import socket
import zipfile
from pathlib import Path

import pytest
import torch

from sunlab.checkpoint import AtomicCheckpointIO, previous_of, resume_path, seal, verify
from sunlab.errors import ConfigError, StorageError

IO = AtomicCheckpointIO()
MARK: list[str] = []


class Bomb:
    """Leaves a mark when it is unpickled."""

    def __reduce__(self):
        return (MARK.append, ("executed",))


class Interrupted(Exception):
    pass


def save(step: int, path: Path) -> None:
    IO.save_checkpoint({"state_dict": {"a": torch.arange(5)}, "global_step": step}, path)


def sealed(value, path: Path) -> Path:
    """A file that nothing but its contents tells from a checkpoint."""
    with path.open("x+b") as file:
        torch.save(value, file)
        seal(file)
    return path


def flip(path: Path, place: int = 300) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    save(1, tmp_path / "checkpoints" / "last.ckpt")
    return tmp_path / "checkpoints" / "last.ckpt"


def test_round_trip(path):
    loaded = IO.load_checkpoint(path)
    assert torch.equal(loaded["state_dict"]["a"], torch.arange(5)) and loaded["global_step"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["last.ckpt"]
    assert torch.load(path, weights_only=True)["global_step"] == 1 and zipfile.ZipFile(path).testzip() is None


def test_bits_and_lengths(path):
    """One bit changed in every seventh byte and in each of the seal's, and the file cut there: none is taken."""
    data, rng = path.read_bytes(), random.Random(0)
    for place in [*range(0, len(data), 7), *range(len(data) - 78, len(data))]:
        flip_one = bytearray(data)
        flip_one[place] ^= 1 << rng.randrange(8)
        for changed in (flip_one, data[:place]):
            path.write_bytes(changed)
            with pytest.raises(StorageError):
                verify(path)


def test_the_one_before_is_kept(path):
    for step in (2, 3):
        save(step, path)
    assert IO.load_checkpoint(path)["global_step"] == 3 and IO.load_checkpoint(previous_of(path))["global_step"] == 2
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "last.previous.ckpt"]


def test_a_damaged_one_never_takes_the_place_of_the_one_before(path):
    save(2, path)
    flip(path)
    AtomicCheckpointIO().save_checkpoint({"state_dict": {}, "global_step": 3}, path)
    assert IO.load_checkpoint(previous_of(path))["global_step"] == 1


def test_where_there_are_no_hard_links(path, monkeypatch):
    def none(*_):
        raise PermissionError(1, "no hard links")

    monkeypatch.setattr(os, "link", none)
    save(2, path)
    assert IO.load_checkpoint(path)["global_step"] == 2 and IO.load_checkpoint(previous_of(path))["global_step"] == 1


def test_what_killed_processes_left_is_pruned(path):
    for number in (1, os.getpid()):
        path.with_name(f".last.ckpt.{number}").write_bytes(b"half")
    save(2, path)
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.ckpt", "last.previous.ckpt"]


def test_a_kill_between_the_two_renames_leaves_nothing_behind(path):
    """Both names are then one file, and renaming one name of a file to another does nothing."""
    os.link(path, previous_of(path))
    save(2, path)
    assert sorted(p.name for p in path.parent.iterdir()) == [path.name, previous_of(path).name]
    assert IO.load_checkpoint(previous_of(path))["global_step"] == 1


def test_the_temporary_file_follows_no_link(path, tmp_path):
    (tmp_path / "precious").write_text("precious")
    path.with_name(f".last.ckpt.{os.getpid()}.{socket.gethostname()}").symlink_to(tmp_path / "precious")
    save(2, path)
    assert (tmp_path / "precious").read_text() == "precious" and not path.is_symlink()


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

    monkeypatch.setattr("builtins.open", lambda *a, **k: Full(opened(*a, **k)) if a[1:] == ("x+b",) else opened(*a, **k))
    with pytest.raises(StorageError, match="the previous one is intact"):
        IO.save_checkpoint({"state_dict": {"a": torch.zeros(10_000)}}, path)
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


def test_a_real_limit_on_file_sizes(path):
    before, (soft, hard) = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(StorageError, match="File too large; the previous one is intact"):
            IO.save_checkpoint({"state_dict": {"a": torch.zeros(100_000)}}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before and [p.name for p in path.parent.iterdir()] == ["last.ckpt"]


@pytest.mark.parametrize("how", ["torch", "pickle", "sealed"])
def test_a_pickle_is_refused_and_not_executed(tmp_path, how):
    path = tmp_path / "evil.ckpt"
    if how == "torch":
        torch.save({"state_dict": {}, "more": Bomb()}, path)
    elif how == "pickle":
        path.write_bytes(pickle.dumps({"more": Bomb()}))
    else:
        sealed({"state_dict": {}, "more": Bomb()}, path)
    with pytest.raises(StorageError, match=r"evil\.ckpt is (not a readable|damaged, or not a) checkpoint"):
        IO.load_checkpoint(path)
    with pytest.raises(StorageError):
        IO.load_checkpoint(path, weights_only=False)
    assert MARK == []


@pytest.mark.parametrize("name", ["_instantiator", "_target_"])
def test_one_that_names_code_is_refused(tmp_path, name):
    path = sealed({"state_dict": {}, "hyper_parameters": {"a": [{name: "os.system"}]}}, tmp_path / "evil.ckpt")
    with pytest.raises(StorageError, match="names code to call"):
        IO.load_checkpoint(path)


def test_a_compressed_one_is_refused_before_it_is_unpacked(tmp_path):
    """A gigabyte of zeros in a megabyte."""
    path = tmp_path / "bomb.ckpt"
    with path.open("x+b") as file:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", bytes(1 << 24))
        seal(file)
    with pytest.raises(StorageError, match="compressed"):
        verify(path)


def test_none_and_one_of_something_else(tmp_path):
    with pytest.raises(StorageError, match="no checkpoint"):
        IO.load_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(StorageError, match="holds no state_dict"):
        IO.load_checkpoint(sealed({"a": 1}, tmp_path / "y.ckpt"))


def test_resume_path(path):
    folder = path.parents[1]
    assert resume_path(None, folder) is None
    assert resume_path("last", folder) == path == resume_path(str(path), folder)
    with pytest.raises(ConfigError, match="start the run without --resume"):
        resume_path("last", folder / "other")


def test_a_damaged_newest_one_falls_back_and_says_so(path, capsys):
    folder = path.parents[1]
    save(2, path)
    flip(path)
    assert resume_path("last", folder) == previous_of(path)
    said = capsys.readouterr().err
    assert "last.ckpt is damaged" in said and "going on from the one before" in said and "last.previous.ckpt" in said
    with pytest.raises(StorageError, match=r"damaged.*--resume .*last\.previous\.ckpt"):
        resume_path(str(path), folder)
    flip(previous_of(path))
    with pytest.raises(StorageError, match="start the run without --resume"):
        resume_path("last", folder)


def test_a_missing_newest_one_falls_back(path, capsys):
    save(2, path)
    path.unlink()
    assert resume_path("last", path.parents[1]) == previous_of(path)
    assert "there is no" in capsys.readouterr().err
