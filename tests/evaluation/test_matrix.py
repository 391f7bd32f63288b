"""`sunlab evaluate --matrix` on a tiny base and a fine-tune of it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from sunlab.app.evaluate import build_judges, evaluate
from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.errors import BelowBar, ConfigError, DataError
from sunlab.evaluation.base import EXTRACTORS, Extractor
from sunlab.evaluation.comparison import Value
from sunlab.evaluation.matrix import Bar, Crossed, broken_bars, strength
from sunlab.evaluation.measures import foreseen
from sunlab.evaluation.rows import Result, Row

WEIGHTS = "diffusion_pytorch_model.safetensors"


@EXTRACTORS.register("corners_of_the_test")
class Corners(Extractor):
    """Means of a picture's quarters."""

    label, width = "Corners", 12

    def __call__(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture(scope="module")
def bases(tiny_base_folder, tmp_path_factory):
    """The tiny base, and a fine-tune whose U-Net is scaled: |delta theta| / |theta| is known."""
    tuned = tmp_path_factory.mktemp("bases") / "far"
    shutil.copytree(tiny_base_folder, tuned)
    file = tuned / "unet" / WEIGHTS
    save_file({key: value * 1.1 for key, value in load_file(file).items()}, file)
    return [str(tiny_base_folder), str(tuned)]


@pytest.fixture(scope="module")
def words(bases, tiny_shards, tmp_path_factory):
    variants = ["{name: euler a, solver: euler, method: euler}"]
    variants += ["{name: euler b, solver: euler, guidance: 2, method: euler}"]
    settings = {
        "bases": f"[{','.join(bases)}]", "count": 16, "control": "null", "timed": 1, "shown": 2, "reference_steps": 5,
        "before.steps": 4, "subsets": 2, "prompts": f"{{name: shards, urls: [{tiny_shards}]}}",
        "extractor": "corners_of_the_test",
        "metrics": "[paired_features, paired_l2]", "alignment": "lab", "variants": f"[{','.join(variants)}]",
    }  # fmt: skip
    overrides = [f"evaluate.{key}={value}" for key, value in settings.items()]
    folder = tmp_path_factory.mktemp("matrix")
    return [f"model.base={bases[0]}", f"run.dir={folder}", "matrix.steps=[1,4]", *overrides]


@pytest.fixture(scope="module")
def report(words):
    folder = evaluate(load_config([], words), matrix=True)
    return json.loads((folder / "report.json").read_text()), (folder / "report.md").read_text(), folder


def test_it_crosses_methods_steps_and_bases(report, bases):
    cells = report[0]["matrix"]["cells"]
    found = {(cell["method"], cell["steps"], cell["base"]) for cell in cells}
    lines = [("euler a", 1), ("euler a", 4), ("euler b", 1), ("euler b", 4)]
    lines += [("dpmpp_2m", 1), ("dpmpp_2m", 2), ("dpmpp_2m", 4)]  # as many steps, and as many passes
    assert found == {(*line, base) for line in lines for base in bases} and len(cells) == len(found)
    same = [cell for cell in cells if (cell["method"], cell["steps"]) == ("dpmpp_2m", 4)]
    assert all(cell["paired_l2"] == 0 and cell["pairs"] == 16 for cell in same)  # the teacher itself


def test_the_strength_of_each_fine_tune(report, bases):
    strengths = report[0]["matrix"]["strengths"]
    assert [strengths[base] for base in bases] == pytest.approx([0, 0.1], abs=1e-6)
    assert r"| strength, \|Δθ\| / \|θ\| |" in report[1] and "0.1000" in report[1]


def test_trainings_of_one_method_are_averaged(report, bases):
    means = report[0]["training_seeds"]
    assert [(m["base"], m["method"], m["trainings"]) for m in means[:2]] == [
        (bases[0], "euler, 1 step", 2), (bases[0], "euler, 4 steps", 2)
    ]  # fmt: skip
    rows = {row["name"]: row for row in report[0]["bases"][0]["rows"]}
    own = [rows[f"euler {which}, 4 steps"]["values"]["paired_l2"]["value"] for which in "ab"]
    assert means[1]["means"]["paired_l2"] == pytest.approx(sum(own) / 2)
    assert means[1]["errors"]["paired_l2"] == pytest.approx(12.706 * abs(own[0] - own[1]) / 2)  # t, one degree of freedom


def test_the_page_has_the_matrix_and_its_curve(report):
    page = (report[2] / "report.html").read_text()
    assert "Universality: " in page and page.count("<img") == 1 + 2 * 3  # the curve; of each base a grid and two curves


def test_a_cell_below_its_bar_ends_the_command_with_one(words, report, tmp_path, capsys):
    bars = "[{method: euler*, steps: 1, measure: paired_l2, at_most: 0}, {measure: paired_l2.share, at_most: 100}]"
    (tmp_path / "run.yaml").write_text("{}")  # everything was drawn before
    config = ["--config", str(tmp_path / "run.yaml"), "run.name=run", f"matrix.bars={bars}"]
    assert main(["evaluate", "--matrix", *config, *words]) == BelowBar.exit_code == 1
    told = capsys.readouterr().err
    assert "4 cells miss their bar" in told and "euler a, 1 step on" in told and "the bar is at most 0" in told


def test_bars_of_one_base(report):
    lines = [Crossed("a, 1 step", "a", 1), Crossed("a, 4 steps", "a", 4)]
    value = Value(0.5, 0.1, paired=True, pairs=4, share=0.25)
    rows = [
        Row(line.row, False, False, 4, 0.1, 2.0, 3.0, 1, {"l2": value}, {}, {}, {}, {"size": 0.9 / line.steps})
        for line in lines
    ]
    result = Result("base", rows, [], [], 0)

    def broken(**given):
        return broken_bars(
            [Bar(**{"method": "*", "base": "*", "steps": None, "at_most": None, "at_least": None} | given)], lines, [result]
        )

    assert broken(measure="l2.share", at_most=0.25) == [] and len(broken(measure="l2.share", at_most=0.2)) == 2
    assert broken(measure="control.size", at_least=0.8) == [
        "a, 4 steps on base: control.size is 0.225, the bar is at least 0.8"
    ]
    assert broken(measure="control.size", at_least=0.8, steps=1) == []
    assert broken(measure="l2", at_least=9, base="other") == []
    with pytest.raises(ConfigError, match=r"matrix.bars.0.measure: 'l3' was not measured; there are: l2, l2.share"):
        broken(measure="l3", at_most=1)


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("matrix.bars=[{method: sun, at_most: 1}]", r"matrix.bars.0: no cell has method 'sun'.*methods: euler a"),
        ("matrix.bars=[{method: sun}]", r"matrix.bars.0: give at_most, at_least"),
        ("matrix.steps=[4,4]", "matrix.steps: expected different numbers"),
        ("evaluate.bases=[nowhere]", "'nowhere' is neither"),
        ("matrix.measure=kid_x1000", "matrix.measure: 'kid_x1000' is no paired distance"),
        ("matrix.bars=[{at_most: 1, measure: paired_l3}]", "paired_l3' will not be measured; did you mean 'paired_l2'"),
        ("matrix.bars=[{at_most: 1, measure: control.size}]", "'control.size' will not be measured"),
    ],
)
def test_errors_are_told_before_anything_is_drawn(words, override, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        evaluate(load_config([], [*words, f"run.dir={tmp_path}", override]), matrix=True)
    assert not list(tmp_path.iterdir())


def test_what_is_foreseen_is_what_is_measured(report):
    config = load_config([], ["evaluate.alignment=lab", "evaluate.metrics=[paired_features,paired_l2,kid,frechet]"]).config
    known = foreseen(*build_judges(config))
    own = [cell for cell in report[0]["matrix"]["cells"] if cell["method"] == "euler a"]
    measured = {name for cell in own for name in cell} - {"base", "method", "steps", "pairs"}
    further = {"fd", "fd_pc", "kid_x1000", "paired_l2.nearer", "paired_features.nearer"}  # guided rows have no rival
    assert measured | further | {"size"} == known.all  # no caption names a size
    assert known.knows("fd_64pc") and not known.knows("fd_64") and known.paired == {"paired_features", "paired_l2"}


def test_strength_against_its_formula():
    torch.manual_seed(0)
    origin = {"a": torch.randn(3, 4), "b": torch.randn(5)}
    tuned = {"a": origin["a"] + 0.1 * torch.randn(3, 4), "b": origin["b"]}
    change, whole = (tuned["a"] - origin["a"]).flatten(), torch.cat([v.flatten() for v in origin.values()])
    assert strength(origin, tuned) == pytest.approx(float(change.norm() / whole.norm()), rel=1e-6)
    with pytest.raises(DataError, match="architecture"):
        strength(origin, {"a": torch.randn(3, 4)})


def test_a_number_that_is_not_known_misses_every_bar():
    bar = Bar("*", "*", None, "x", None, 0.5)
    assert bar.broken(float("nan")) and bar.broken(0.4) and not bar.broken(0.5)
