"""Files that others can read, whole or not at all, and folders kept for one process."""

import errno
import os
import socket
import stat
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from sunlab.errors import ConfigError, StorageError
from sunlab.files import hold, lock, locked, open_to_readers, remove_leftovers, replacing, write_text


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_a_file_of_tensors_has_the_permissions_that_the_user_gives_new_files(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        save_file({"a": torch.zeros(1)}, tmp_path / "a.safetensors")
        open_to_readers(tmp_path / "a.safetensors")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == mode


def test_a_folder_is_let_go_at_the_end(tmp_path):
    with hold(tmp_path / "run"), pytest.raises(ConfigError, match="another process is at work here"), hold(tmp_path / "run"):
        pytest.fail("held twice")
    with hold(tmp_path / "run"):
        pass


HOLD = """
import sys, time
from pathlib import Path
from sunlab.files import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(0.5)
"""


def test_it_waits_for_one_that_is_about_to_end(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ConfigError), hold(tmp_path, patience=0):
            pytest.fail("held twice")
        with hold(tmp_path, patience=30):
            pass


def broken_off(file, error):
    with replacing(file) as temporary:
        temporary.write_text("second")
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: no space")])
def test_what_cannot_be_written_leaves_what_was_there(tmp_path, error):
    """And is told with the file's name, whichever library finds the disk full."""
    file = tmp_path / "new" / "a.bin"
    with replacing(file) as temporary:
        temporary.write_text("first")
    with pytest.raises(StorageError, match=r"new/a\.bin: cannot be written: .*[Nn]o space"):
        broken_off(file, error)
    with pytest.raises(KeyboardInterrupt):
        broken_off(file, KeyboardInterrupt())
    assert file.read_text() == "first" and [path.name for path in file.parent.iterdir()] == ["a.bin"]


def test_leftovers_of_killed_processes_are_deleted_and_nothing_else(tmp_path):
    for name in (".a[1].bin.4711.host", ".a[1].bin.12", ".a[1].bin.lock", ".a1.bin.4711.host", "a[1].bin"):
        (tmp_path / name).touch()
    remove_leftovers(tmp_path / "a[1].bin")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".a1.bin.4711.host", ".a[1].bin.lock", "a[1].bin"]


def test_a_link_at_the_temporary_name_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("as it was")
    (tmp_path / f".a.txt.{os.getpid()}.{socket.gethostname()}").symlink_to(tmp_path / "precious")
    write_text(tmp_path / "a.txt", "ä")
    assert (tmp_path / "precious").read_text() == "as it was" and (tmp_path / "a.txt").read_bytes() == "ä".encode()


def test_shared_locks_exclude_an_exclusive_one_only(tmp_path):
    file = tmp_path / "lock"
    with locked(file) as first, file.open("rb") as second, file.open("rb") as third:
        assert lock(second, shared=True, patience=0) is False
        assert lock(first, shared=True) and lock(second, shared=True, patience=0)
        assert lock(third, patience=0) is False
        with pytest.raises(BlockingIOError), locked(file, patience=0):
            pytest.fail("locked twice")
