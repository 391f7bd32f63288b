"""`--help` is instant, because nothing heavy is imported for it."""

import subprocess
import sys
import time

import pytest

COMMANDS = [
    [],
    ["fit"],
    ["sample"],
    ["evaluate"],
    ["export"],
    ["convert"],
    ["inspect"],
    ["list"],
    ["config"],
    ["doctor"],
    ["doctor", "data"],
    ["data"],
    ["data", "trajectories"],
    ["comfyui", "install"],
]
HEAVY = ("torch", "lightning", "omegaconf", "diffusers", "transformers", "rich", "numpy", "registry")
CODE = f"""
import sys
from sunlab.cli.main import main
try:
    main(sys.argv[1:] + ["--help"])
except SystemExit as stop:
    assert stop.code == 0, stop.code
print("HEAVY", [m for m in {HEAVY!r} if m in sys.modules])
"""


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_imports_nothing_heavy(command):
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", CODE, *command], capture_output=True, text=True, check=True)
    print(f"sunlab {' '.join(command)} --help: {time.perf_counter() - start:.3f} s")
    assert "usage: sunlab" in done.stdout and done.stdout.endswith("HEAVY []\n")


def test_python_m_sunlab():
    done = subprocess.run([sys.executable, "-m", "sunlab", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sunlab ")
