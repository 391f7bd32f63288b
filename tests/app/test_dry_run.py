"""`sunlab fit --dry-run`: what a run needs, told from shapes alone."""

from pathlib import Path

import pytest

from sunlab.app.dry_run import SAMPLES, count_nfe, plan
from sunlab.backbones.pretrained import load_base
from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.errors import ConfigError
from sunlab.precision import SWITCH

CONFIGS = Path(__file__).parents[2] / "configs"


def test_sun_for_stable_diffusion_without_weights_or_data(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(SWITCH, "1")  # the configuration states bf16-mixed, of which a CPU without it warns
    assert main(["fit", "--config", str(CONFIGS / "sd15" / "sun_msc.yaml"), "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "backbone 859,520,964" in told and "trained      38,388,480\n" in told
    assert "20,000 of 64 samples, on 8 ranks" in told and "at 8 samples a time" in told
    assert "a sample: 0 of the teacher, 1 of the student, 1 of them backward" in told and "the run: 3,840,000" in told
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_lcm_lora(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = plan(load_config([CONFIGS / "sd15" / "lcm_lora.yaml"]))
    assert asked.trained == 67_252_224
    assert (asked.nfe.teacher, asked.nfe.student, asked.nfe.backward) == (2 * SAMPLES, 2 * SAMPLES, SAMPLES)
    assert asked.memory.frozen == pytest.approx(2 * (859_520_964 + 123_060_480), rel=1e-4)  # latents are made before
    assert asked.memory.trained == 4 * asked.trained == asked.memory.optimizer // 2


@pytest.mark.parametrize(
    "words",
    [
        ["loss.substeps=3"],
        ["loss.offset=0.2"],
        ["loss=cfg"],
        ["loss=lcm"],
        ["loss=msc_segment"],
        ["loss=cfg", "teacher.guidance=[1.0]"],
    ],
    ids=" ".join,
)
def test_nfe_are_those_of_training(words, tiny_config, tiny_data):
    from sunlab.app.compose import build_base, build_module

    config = load_config([tiny_config], words)
    module = build_module(config.config, build_base(config.config))
    module.log = lambda *args, **kwargs: None
    module.training_step(next(iter(tiny_data().loader())), 0)
    estimated = count_nfe(config.config, module)
    assert {k: v / SAMPLES for k, v in vars(estimated).items()} == {k: v / 8 for k, v in vars(module.nfe).items()}


@pytest.mark.parametrize("stored", ["missing", "without", "with"])
def test_the_offset_costs_teacher_passes_where_no_predictions_are_stored(stored, tiny_config, tmp_path):
    from sunlab.app.compose import build_base, build_module
    from sunlab.app.trajectories import make_trajectories

    if stored != "missing":
        make_trajectories(load_config([tiny_config]), out=tmp_path / "stored", count=2, predictions=stored == "with")
    words = [
        f"data.source={{name: trajectories, path: {tmp_path}/stored}}",
        "loss={name: msc, states: teacher, offset: 0.2}",
    ]
    config = load_config([tiny_config], words).config
    estimated = count_nfe(config, build_module(config, build_base(config)))
    wanted = (2 * SAMPLES if stored == "without" else 0, SAMPLES, SAMPLES)
    assert (estimated.teacher, estimated.student, estimated.backward) == wanted


def test_a_loss_with_networks(tiny_config, tiny_data):
    """Passes are those of training, over a whole cycle; the optimizer has moments of the critic's weights too."""
    from sunlab.app.compose import build_base, build_module

    more = "negatives: true, gan: 0.1, width: 8"
    config = load_config([tiny_config], [f"loss={{name: dmd, critic_steps: 3, fake: {{name: lora, rank: 2}}, {more}}}"])
    module = build_module(config.config, build_base(config.config))
    module.log = lambda *args, **kwargs: None
    samples = next(iter(tiny_data().loader()))
    batch = module.encode(samples)
    for _ in range(3):
        module.critic_step(samples, batch)
    module.student_step(samples, batch)
    estimated = plan(config)
    assert vars(estimated.nfe) == {k: v / 4 / 8 * SAMPLES for k, v in vars(module.nfe).items()}
    assert estimated.nfe.critic > 0 and "of the loss's networks" in "".join(estimated.lines())
    student = sum(p.numel() for p in module.trainable().values())
    critics = sum(p.numel() for p in module.turns.parameters())
    assert estimated.trained == student
    assert estimated.memory.trained == 4 * (student + critics) == estimated.memory.optimizer // 2
    assert estimated.memory.step > 4 * max(student, critics)


@pytest.mark.slow
def test_dmd2(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    estimated = plan(load_config([CONFIGS / "sd15" / "dmd2_lora.yaml"]))
    assert estimated.memory.trained == 2 * 4 * estimated.trained == 2 * 4 * 67_252_224
    assert estimated.memory.frozen == pytest.approx(2 * (859_520_964 + 123_060_480), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "trained"), [("sana", 401_766_400), ("sd3", 226_787_328)])
def test_sun_for_transformers(name, trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert plan(load_config([CONFIGS / name / "sun_msc.yaml"], ["trainer.devices=1"])).trained == trained


def test_a_base_that_is_not_there_needs_its_family(tiny_config):
    for base in ("no/folder", "/nowhere/model.safetensors"):
        with pytest.raises(ConfigError, match=r"model\.(family|base)"):
            plan(load_config([tiny_config], [f"model.base={base}"]))


def test_pickled_weights_are_refused_before_they_are_fetched_to_the_cluster(tiny_config):
    with pytest.raises(ConfigError, match=r"(?s)only safetensors are read.*sunlab convert /nowhere/v1-5\.ckpt"):
        plan(load_config([tiny_config], ["model.base=/nowhere/v1-5.ckpt", "model.family=sd15"]))


def test_several_bases(tiny_config, tiny_base_folder):
    """A fine-tune counts with all its weights, a perturbation with one copy of the linear and convolution weights."""
    from torch import nn

    base = load_base(tiny_base_folder)
    network, text = (sum(p.numel() for p in part.parameters()) for part in (base.backbone, base.text))
    layers = [m for m in base.backbone.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    one = plan(load_config([tiny_config]))
    fine_tune = plan(load_config([tiny_config], [f"model.bases=[{{}}, {{base: {tiny_base_folder}}}]"]))
    perturbed = plan(load_config([tiny_config], ["model.bases=[{}, {strength: 0.1}, {strength: 0.2}]"]))
    buffers = sum(b.nbytes for part in (base.backbone, base.text) for b in part.buffers())
    assert fine_tune.memory.frozen - one.memory.frozen == 4 * (network + text) + buffers
    assert fine_tune.parameters["other bases"] == network + text and "other bases" in "".join(fine_tune.lines())
    assert perturbed.memory.frozen - one.memory.frozen == 4 * sum(layer.weight.numel() for layer in layers)
    assert fine_tune.trained == perturbed.trained == one.trained and fine_tune.nfe == one.nfe
