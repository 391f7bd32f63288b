"""A jump of the teacher that made the trajectory misses nothing; the others miss what the formula says."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch

from sunlab.adapters.sun import SUN
from sunlab.app.trajectories import make_trajectories
from sunlab.config.load import load_config
from sunlab.data.trajectories import Trajectories
from sunlab.export import save_adapter
from sunlab.export.shapes import describe_base

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("measure_jumps", ROOT / "tools" / "measure_jumps.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trajectories(tiny_config, tmp_path_factory):
    """Of a teacher that jumps from segment end to segment end."""
    folder = tmp_path_factory.mktemp("trajectories")
    teacher = ["teacher.solver=ddim", "teacher.steps=2", "teacher.guidance=[4.0]", "student.steps=2"]
    make_trajectories(load_config([tiny_config], teacher), out=folder, count=12)
    return folder


def run(tool, monkeypatch, capsys, *words):
    """The rows of the printed table: name -> numbers, the passes first."""
    monkeypatch.setattr(sys, "argv", ["measure_jumps.py", *map(str, words)])
    tool.main()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[4:]]
    return {name: [[float(n) for n in re.findall(r"[\d.]+", cell)] for cell in cells] for name, *cells in rows}


def test_table(tool, trajectories, tiny_base, tiny_base_folder, tmp_path, monkeypatch, capsys):
    files = []
    for init in ("identity", "copy"):
        adapter = SUN(init=init)
        adapter.attach(tiny_base.backbone)
        header = {"base": describe_base(tiny_base.backbone)}
        files.append(f"--adapter={init}={save_adapter(tmp_path / f'{init}.safetensors', adapter, header)}")
        adapter.detach()
    rows = run(
        tool, monkeypatch, capsys, tiny_base_folder, "--trajectories", trajectories, "--steps", 2, "--batch", 5, *files
    )
    assert list(rows) == [tool.PLAIN, "identity", "copy", "guided teacher"]
    assert [row[0] for row in rows.values()] == [[1], [1], [1], [2]]

    values = by_hand(tiny_base, Trajectories(path=str(trajectories)))
    plain = rows[tool.PLAIN]
    assert plain[1] == pytest.approx([float(values.mean()), float(values.std()) / 12**0.5], abs=6e-5)
    assert plain[1][0] > 0.001
    for cell, same, other, teacher in zip(*(row[1:] for row in rows.values()), strict=True):
        assert same == [*cell, 1.0, 0.0]
        assert other[2] == pytest.approx(other[0] / cell[0], abs=0.1) and other[2] != 1
        assert teacher[0] < 0.02 * cell[0]  # the dataset is stored in half precision


def by_hand(base, trajectories):
    """Root mean square errors (12,) of the first DDIM step from 999 to 499 on the positive prompt alone, which is v."""
    bar, unet, errors = base.backbone.path.alphas_cumprod.float(), base.backbone.unet, []
    for sample in (trajectories[i] for i in range(len(trajectories))):
        x_t, x_s = sample.trajectory.states[0, :2]
        with torch.no_grad():
            v = unet(x_t[None], torch.tensor([999]), base.encode([sample.prompt]).tokens).sample[0]
        x_0 = bar[999].sqrt() * x_t - (1 - bar[999]).sqrt() * v
        e = (1 - bar[999]).sqrt() * x_t + bar[999].sqrt() * v
        errors.append((bar[499].sqrt() * x_0 + (1 - bar[499]).sqrt() * e - x_s).square().mean().sqrt())
    return torch.stack(errors)


def test_the_error_of_a_share_is_that_of_leaving_one_out(tool):
    torch.manual_seed(0)
    others = 1 + torch.rand(400, dtype=torch.float64)
    values = 0.5 * others + 0.1 * torch.rand(400, dtype=torch.float64)
    ratio, error = tool.ratio_of(values, others)
    left = torch.stack([(values.sum() - v) / (others.sum() - o) for v, o in zip(values, others, strict=True)])
    jackknife = float((399 / 400 * (left - left.mean()).square().sum()).sqrt())
    assert ratio == pytest.approx(float(values.sum() / others.sum())) and error == pytest.approx(jackknife, rel=0.01)


def test_trajectories_without_the_times_of_the_grid_are_refused(tool, trajectories, tiny_base_folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["measure_jumps.py", str(tiny_base_folder), "--trajectories", str(trajectories)])
    with pytest.raises(SystemExit, match=r"not \[0\.75, 0\.25\]; make it with student.steps=4"):
        tool.main()
