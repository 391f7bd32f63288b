"""Every configuration that the project ships runs: on a tiny base, for two steps."""

from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from tiny_bases import tiny_base
from tiny_pixart import tiny_pixart
from tiny_sweeps import MEANS

from sunlab.app.fit import fit
from sunlab.app.trajectories import make_trajectories
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.sd3.tiny import write_tiny as tiny_sd3
from sunlab.config.load import load_config
from sunlab.precision import native

ROOT = Path(__file__).parents[2]
SWEEPS = ROOT / "configs" / "ablation"  # tests/sweep/test_ablation.py runs those
CONFIGS = sorted(path for path in (ROOT / "configs").rglob("*.yaml") if path.parent != SWEEPS)
SLOW = {ROOT / "configs" / family / "lcm_lora.yaml" for family in ("sana", "sd3", "wan")}
SLOW |= {ROOT / "configs" / family / "trajectories.yaml" for family in ("sdxl", "pixart", "sana", "sd3", "wan")}
"""The second are run for the training on what they make."""
STEPS = 2
SMALLER = {"wan": ["model.backbone={name: wan, frames: 5, height: 32, width: 16, gradient_checkpointing: true}"]}
"""Overrides of families whose latents have no size in their files."""


FAMILIES = {
    "sdxl": partial(tiny_base, "sdxl"),
    "pixart": partial(tiny_pixart, kind="flow"),
    "sana": BACKBONES.get("sana").factory.write_tiny,
    "sd3": partial(tiny_sd3, t5=False),
    "wan": BACKBONES.get("wan").factory.write_tiny,
}
"""Folder of configurations of a family that is not Stable Diffusion 1.5's -> what writes its tiny base."""


def shrunk(path: Path, base: Path, shards: str, trajectories: Path, folder: Path) -> list[str]:
    """Overrides that leave the configuration as it is but for what makes it large."""
    config = load_config([path]).config
    words = [f"model.base={base}", f"run.dir={folder}", "data.batch_size=4", "data.streams=4"]
    words += [f"trainer.max_steps={STEPS}", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    words += ["trainer.devices=1", "trainer.num_nodes=1", "data.workers=0", "trainer.precision=auto"]
    if config.model.dtype == "bfloat16":
        words.append("model.dtype=auto")  # slow on some machines
    name = config.data.source["name"]
    if name == "prompts":
        (folder / "prompts.txt").write_text("".join(f"a pizza, number {number}\n" for number in range(64)))
        words.append(f"data.source.urls=[{folder / 'prompts.txt'}]")
    else:
        stored = [f"data.source.path={trajectories}", "student.steps=4"]  # the times of the tiny trajectories
        words += stored if name == "trajectories" else [f"data.source.urls=[{shards}]"]
    words += [f"model.bases.{n}.base={base}" for n, drawn in enumerate(config.model.bases) if drawn.base is not None]
    if config.data.cache is not None:
        words.append(f"data.cache={folder / 'cache'}")
    smaller = {"every": 1, "measured": 2, "steps": 2, "longer": "null", "measured_urls": "null"}
    for index, callback in enumerate(config.callbacks):
        words += [f"callbacks.{index}.{k}={v}" for k, v in smaller.items() if k in callback]
    return words


def small_evaluation(base: Path, shards: str, folder: Path) -> list[str]:
    """Overrides for a configuration of `sunlab evaluate`; what it has to be given from outside is left out."""
    words = [f"model.base={base}", f"run.dir={folder}", "model.dtype=float32"]
    words += ["bases=[]", "count=3", "control=null", "timed=1", "shown=2", "reference_steps=3", "before.steps=2"]
    words += ["prompt_file=null", "negative_file=null", f"prompts={{name: shards, urls: [{shards}]}}"]
    words += ["extractor=means_of_the_tests"]
    words += ["metrics=[paired_features,kid,frechet]", "variants=[{name: two steps, steps: 2}]", "alignment=null"]
    words = [word if word.startswith(("model", "run")) else f"evaluate.{word}" for word in words]
    return [*words, f"plugins=[{MEANS}]", "matrix.bars=[]", "matrix.steps=[2]"]


def test_they_are_found():
    assert ROOT / "configs" / "quickstart.yaml" in CONFIGS and len(CONFIGS) >= 4


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """Family -> the folder of its tiny base, made once."""
    return cache(lambda family: FAMILIES[family](tmp_path_factory.mktemp("bases") / family))


@pytest.fixture(scope="module")
def trajectories_of(base_of, tiny_shards, tmp_path_factory):
    """Family -> a folder of four trajectories of its tiny base, made once."""

    @cache
    def make(family):
        words = ["task=adapter", f"model.base={base_of(family)}", f"data.source={{name: shards, urls: [{tiny_shards}]}}"]
        words += ["model.dtype=auto", *SMALLER.get(family, [])]
        folder = tmp_path_factory.mktemp("trajectories") / family
        make_trajectories(load_config([ROOT / "configs" / family / "trajectories.yaml"], words), out=folder, count=4)
        return folder

    return make


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=pytest.mark.slow) if path in SLOW else path for path in CONFIGS],
    ids=lambda path: path.relative_to(ROOT / "configs").as_posix(),
)
def test_it_runs(path, tiny_base_folder, tiny_shards, tiny_trajectories, base_of, trajectories_of, tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    family = "pixart" if "_dit" in path.stem else path.parent.name
    if family in FAMILIES:
        tiny_base_folder = base_of(family)
        if "path:" in path.read_text():  # of stored trajectories
            tiny_trajectories = trajectories_of(family)
    if path.stem.startswith(("evaluate", "matrix")):
        from sunlab.app.evaluate import evaluate

        loaded = load_config([path], small_evaluation(tiny_base_folder, tiny_shards, tmp_path))
        report = evaluate(loaded, matrix=path.stem == "matrix")
        assert (report / "report.html").is_file()
        assert load_config([report / "config.yaml"]).config == loaded.config
        return
    small = shrunk(path, tiny_base_folder, tiny_shards, tiny_trajectories, tmp_path)
    if "start:" in path.read_text():  # a second stage
        (adapter,) = fit(load_config([path], [*small, "task.start=null", "run.name=first"]))["files"]
        small = [*small, f"task.start={adapter}"]
    loaded = load_config([path], [*small, *SMALLER.get(family, [])])
    if path.stem == "trajectories":
        (file,) = make_trajectories(loaded, out=tmp_path / "made", count=2)
        assert file.is_file()
        return
    done = fit(loaded)
    assert done["trainer"].global_step == STEPS
    assert done["files"] and all(Path(file).exists() for file in done["files"])
    assert all(bool(torch.isfinite(p).all()) for p in done["module"].trainable().values())
    if any(callback["name"] == "before_after" for callback in loaded.config.callbacks):
        assert {"before_after.png", "before_after.md", "before_after.json"} <= {p.name for p in done["folder"].iterdir()}
    again = load_config([done["folder"] / "config.yaml"])  # what is saved with the run reruns it
    model, trainer = loaded.config.model, {**loaded.config.trainer, "precision": native("cpu").precision}
    dtype = native("cpu").dtype if model.dtype == "auto" else model.dtype
    assert again.config == replace(loaded.config, model=replace(model, dtype=dtype), trainer=trainer)
