"""`make emoji-dit`, the recipe of emoji-dit in one command: what it runs, what it skips, and all of it for a few steps."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sunlab.cli.main import parse
from sunlab.config.load import load_config

ROOT = Path(__file__).parents[1]
STAGES = [
    "dit_start/done", "teacher_dit/done", "teacher_dit_sharp/done", "teacher_dit_sharp/measures.txt",
    "emoji_dit_trajectories/done", "sun_dit/done", "evaluate_dit/done",
]  # fmt: skip
"""What each step leaves in the folder of runs, after the shards."""
SHORT = [
    "trainer.max_steps=2", "data.batch_size=8", "callbacks=[]", "evaluate.count=4", "evaluate.control=null",
    "evaluate.timed=1", "evaluate.reference_steps=3", "evaluate.before.steps=2", "evaluate.shown=1",
]  # fmt: skip
SLOWEST = 500  # seconds: it hangs


@pytest.fixture
def make(tmp_path):
    """Run the target in `runs` with shards in `lab`, in an environment that is installed already."""
    scripts, lab = tmp_path / "venv" / "bin", tmp_path / "lab"
    scripts.mkdir(parents=True)
    for name, command in (("python", sys.executable), ("sunlab", f"{sys.executable} -m sunlab")):
        (scripts / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (scripts / name).chmod(0o755)
    (tmp_path / "venv" / "installed-for-lab").touch()
    given = [f"VENV={tmp_path / 'venv'}", f"RUNS={tmp_path / 'runs'}", f"LAB={lab}"]

    def run(*words):
        command = ["make", *words, "emoji-dit", *given]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=SLOWEST)

    return run


def commands(printed: str) -> list[list[str]]:
    """The sunlab commands among what make prints."""
    lines = [shlex.split(line) for line in printed.replace("\\\n", " ").splitlines()]
    return [line[1:] for line in lines if line and line[0].endswith("/sunlab")]


def test_its_commands_are_valid_and_in_order(make, monkeypatch):
    monkeypatch.chdir(ROOT)
    printed = make("-n")
    assert printed.returncode == 0, printed.stderr
    found = commands(printed.stdout)
    configs = [parse(words).config[0] for words in found]
    names = ("teacher_dit.yaml", "teacher_dit_sharp.yaml", "trajectories.yaml", "quickstart_dit.yaml", "evaluate_dit.yaml")
    assert [Path(config).name for config in configs] == list(names)
    for words in found:
        arguments = parse(words)
        load_config(arguments.config, arguments.overrides)


def test_what_is_finished_is_skipped(make, tmp_path):
    """With the shards and the first steps done the rest is left; with all done nothing is."""
    left = [5, 5, 4, 3, 3, 2, 1, 0]
    for file, count in zip(["../lab/manifest.json", *STAGES], left, strict=True):
        (tmp_path / "runs" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "runs" / file).touch()
        printed = make("-n").stdout
        assert len(commands(printed)) == count, file
        assert "make_emoji_shards" not in printed
    assert "Nothing to be done" in printed


@pytest.mark.slow
def test_the_whole_recipe_for_two_steps(make, tmp_path):
    shutil.copytree(ROOT / "sunlab" / "lab" / "assets" / "emoji" / "noto", tmp_path / "lab")
    short = [f"OPTIONS={' '.join(SHORT)}", "COUNT=8", "MEASURE=--w 3 --count 8 --steps 2"]
    done = make(*short)
    assert done.returncode == 0, done.stderr[-3000:]
    runs = tmp_path / "runs"
    assert [stage for stage in STAGES if not (runs / stage).is_file()] == []
    assert "w 3: background" in (runs / "teacher_dit_sharp" / "measures.txt").read_text()
    assert (runs / "sun_dit" / "export" / "adapter.safetensors").is_file()
    index = json.loads((runs / "teacher_dit_sharp" / "export" / "model_index.json").read_text())
    assert index["_class_name"] == "PixArtSigmaPipeline"
    report = (runs / "evaluate_dit" / "report.html").read_text()
    assert "SUN + msc, 4 steps" in report
    assert "Nothing to be done" in make(*short).stdout
    (runs / "sun_dit" / "done").unlink()
    (runs / "evaluate_dit" / "done").unlink()
    again = make(*short)
    assert again.returncode == 0, again.stderr[-3000:]
    assert [words[words.index("--config") + 1] for words in commands(again.stdout)] == [
        "configs/quickstart_dit.yaml",
        "configs/emoji/evaluate_dit.yaml",
    ]
