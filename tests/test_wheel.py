"""The wheel by itself: installed into an empty environment beside the dependencies, it trains the quickstart offline."""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHORT = [
    "trainer.max_steps=2", "data.batch_size=8", "callbacks.3.measured=2", "callbacks.3.control=null", "callbacks.3.steps=3",
]  # fmt: skip
MIB = 2**20


def run(*words: object, cwd: Path, **environment: str) -> str:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "HF_"))}
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env=kept | environment, text=True, capture_output=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone."""
    pytest.importorskip("build", reason="needs pip install build")
    folder = tmp_path_factory.mktemp("wheel")
    (source := folder / "source").mkdir()
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith("docs/"):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source, cwd=folder)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def environment(wheel: Path) -> Path:
    """The commands of an environment that holds the wheel, and finds the dependencies in the one that runs the tests."""
    place = wheel.parent / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", place, cwd=wheel.parent)
    run(sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--no-deps", wheel, cwd=wheel.parent)
    (packages,) = place.glob("lib/*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")  # a line of it runs no other .pth
    return place / "bin"


@pytest.mark.slow
def test_wheel_and_sdist_are_small_and_hold_the_configurations(wheel):
    assert max(path.stat().st_size for path in wheel.parent.glob("sunlab-*")) < 60 * MIB
    assert len(list(wheel.parent.glob("*.tar.gz"))) == 1
    packed = set(zipfile.ZipFile(wheel).namelist())
    assert {f"sunlab/configs/{path.relative_to(ROOT / 'configs')}" for path in (ROOT / "configs").rglob("*.yaml")} <= packed
    assert not [name for name in packed if name.startswith(("tests", "tools", "docs"))]


@pytest.mark.slow
def test_the_quickstart_runs_from_the_wheel_offline(environment, tmp_path):
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    where = run(environment / "python", "-c", "import sunlab; print(sunlab.__file__)", cwd=tmp_path)
    assert where.startswith(str(environment.parent))
    assert "@quickstart" in run(environment / "sunlab", "config", "--list", cwd=tmp_path)
    out = run(environment / "sunlab", "fit", "--config", "@quickstart", *SHORT, cwd=tmp_path, **nowhere)
    adapter = tmp_path / "runs" / "quickstart" / "export" / "adapter.safetensors"
    assert adapter.is_file() and "sunlab sample" in out
    words = ["--base", "emoji-sd", "--prompt", "a pizza", "--count", "1", "--adapter", adapter]
    run(environment / "sunlab", "sample", *words, cwd=tmp_path, **nowhere)
    assert (tmp_path / "grid.png").is_file()
