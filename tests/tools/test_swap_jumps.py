"""Pictures in which the guided base makes some of an adapter's steps, beside a loop by hand."""

import sys

import pytest
import torch

import swap_jumps
from sunlab.adapters.sun import SUN
from sunlab.backbones.pretrained import load_base
from sunlab.diffusion.guidance import NetworkEvaluations, guided
from sunlab.draws import starting_noise
from sunlab.errors import ConfigError
from sunlab.evaluation.base import EXTRACTORS, Extractor
from sunlab.export import load_adapter, save_adapter
from sunlab.export.shapes import describe_base
from sunlab.pipelines.draw import Request, draw

PROMPTS, NEGATIVES, SEEDS = ["a pizza", "a tiger"], ["", "blue"], [3, 4]


@EXTRACTORS.register("corner_of_the_test")
class Corner(Extractor):
    """Of each picture, its first pixel."""

    label, width = "Corner", 3

    def __call__(self, images):
        return images[:, :, 0, 0]


@pytest.fixture(scope="module")
def file(tiny_base_folder, tmp_path_factory):
    backbone = load_base(tiny_base_folder).freeze().backbone
    adapter = SUN(init="copy")
    adapter.attach(backbone)
    header = {"base": describe_base(backbone), "solver": "ddim", "spacing": "trailing", "steps": 4}
    return save_adapter(tmp_path_factory.mktemp("swap") / "sun.safetensors", adapter, header)


def test_the_patterns_hand_over_once():
    assert swap_jumps.handing_over(3) == ["aaa", "gaa", "gga", "aag", "agg", "ggg"]


@pytest.mark.parametrize("pattern", ["aga", "gga", "aaa", "ggg"])
def test_each_step_is_made_by_whom_the_pattern_names(pattern, file, tiny_base_folder):
    """DDIM in float64 from its formula: x_s = alpha_s x0 + sigma_s eps."""
    base = load_base(tiny_base_folder).freeze()
    (method,) = swap_jumps.swapped("x", str(file), [pattern], 3, 4.0, base)
    with method.bound(base) as bind:
        found = draw(base, method.sampling, bind, Request(PROMPTS, NEGATIVES, SEEDS), w=4.0)
    adapter, _ = load_adapter(file, base.backbone)
    positive, negative, w = base.encode(PROMPTS), base.encode(NEGATIVES, negative=True), torch.full((2,), 4.0)
    state, teacher = (
        adapter.state(positive, negative, w),
        guided(base.backbone, positive, negative, w, one_pass=False, nfe=NetworkEvaluations()),
    )
    x = starting_noise(SEEDS, base.backbone.sample_shape)
    path = base.backbone.path
    for letter, t, s in zip(pattern, (1.0, 0.667, 0.333), (0.667, 0.333, 0.0), strict=True):
        times, ends = (torch.full((2,), each, dtype=torch.float64) for each in (t, s))
        with torch.no_grad():
            made = teacher(x, times) if letter == "g" else base.backbone(x, times, positive, state)
        alpha, sigma = path.at(ends, x)
        x = (alpha * made.x_0 + sigma * made.epsilon).float()
    torch.testing.assert_close(found.latents, x, atol=1e-4, rtol=1e-4)
    assert found.nfe == sum(2 if letter == "g" else 1 for letter in pattern)


def test_the_table(file, tiny_base_folder, tiny_shards, tmp_path, monkeypatch, capsys):
    settings = [
        f"model.base={tiny_base_folder}", f"run.dir={tmp_path}", "evaluate.count=16",
        "evaluate.extractor=corner_of_the_test",
        f"evaluate.prompts={{name: shards, urls: [{tiny_shards}]}}", "evaluate.before.steps=2", "evaluate.reference_steps=3",
        "evaluate.subsets=2", "evaluate.metrics=[paired_l2]",
    ]  # fmt: skip
    given = ["--adapter", f"SUN={file}", "--steps", "2", "--config", "@quickstart", *settings]
    monkeypatch.setattr(sys, "argv", ["swap_jumps.py", *given])
    swap_jumps.main()
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    passes = {row[0].strip("| "): row[1] for row in rows[-4:]}
    assert passes == {"SUN aa": "2", "SUN ga": "3", "SUN ag": "3", "SUN gg": "4"}
    assert any(row[0] == "| no adapter, no guidance, ddim 2 steps" and row[1] == "2" for row in rows)


@pytest.mark.parametrize("pattern", ["aa", "aab", ""])
def test_other_patterns_are_refused(pattern, file, tiny_base):
    with pytest.raises(ConfigError, match=r"--patterns: .* must have 3 letters, each a or g"):
        swap_jumps.swapped("x", str(file), [pattern], 3, 4.0, tiny_base)
