"""How OpenMP's threads wait, set before torch is imported."""

import os
import subprocess
import sys

import pytest

from sunlab.threads import POLICY, WAITING, share_processors, waiting


def test_it_is_set_where_nobody_has_set_it():
    environ = {"PATH": "x"}
    share_processors(environ)
    assert environ == {"PATH": "x", **WAITING}


@pytest.mark.parametrize("name", [*WAITING, POLICY])
def test_the_users_own_setting_stays(name):
    assert waiting({name: "own"}) == {}


@pytest.mark.parametrize("command", ["sunlab.__main__", "sunlab.cli.main"])
def test_a_command_sets_it_before_torch_is_imported(command):
    """Both entry points; and a process that they start inherits it."""
    script = """
import os, runpy, sys
class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            sys.exit("torch" + repr({k: os.environ.get(k) for k in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")}))
sys.meta_path.insert(0, Watch())
sys.argv = ["sunlab", "sample", "--base", "x", "--prompt", "x"]
if MODULE == "sunlab.cli.main":
    from sunlab.cli.main import main
    main()
else:
    runpy.run_module(MODULE, run_name="__main__")
""".replace("MODULE", repr(command))
    environ = {key: value for key, value in os.environ.items() if key not in (*WAITING, POLICY)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environ)
    assert f"torch{WAITING}" in done.stderr, done.stderr
