"""Files that others can read, and folders kept for one process."""

import os
import stat
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from sunlab.errors import ConfigError
from sunlab.files import hold, open_to_readers


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
