"""`--help` is instant, because nothing heavy is imported for it."""

import subprocess
import sys

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
for command in {COMMANDS!r}:
    try:
        main([*command, "--help"])
    except SystemExit as stop:
        assert stop.code == 0, (command, stop.code)
    heavy = [m for m in {HEAVY!r} if m in sys.modules]
    assert not heavy, (command, heavy)
"""


def test_help_imports_nothing_heavy():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage: sunlab") == len(COMMANDS)


def test_python_m_sunlab():
    done = subprocess.run([sys.executable, "-m", "sunlab", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("sunlab ")
