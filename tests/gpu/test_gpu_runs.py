"""Whole runs on the GPU: every kind of module in every precision, resumed on the other device, averaged, compiled."""

from pathlib import Path

import pytest
import torch

from sunlab.app.fit import fit
from sunlab.callbacks.before_after import BeforeAfter
from sunlab.config.load import load_config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*precision.*:UserWarning"),  # 16-mixed on a CPU, in a rehearsal
]
ROOT = Path(__file__).parents[2]
MODULES = {
    "SUN": [],
    "LoRA + lcm": ["task=student", "loss=lcm", "adapter={name: lora, rank: 2}"],
    "a full copy": ["task=student", "adapter=null"],
    "dmd": ["loss={name: dmd, critic_steps: 1, fake: {name: lora, rank: 2}}"],
    "teacher": ["task=teacher"],
    "autoencoder": ["task=autoencoder"],
}
PRECISIONS = {"32-true": 0.02, "bf16-mixed": 0.5, "16-mixed": 0.5}
"""Precision -> how far the trained tensors may end from the CPU's, relative to the way that these went."""


def trained(config, device, folder, *words, steps=3, **more):
    """The trained tensors before and after a run."""
    given = [f"trainer.accelerator={device}", f"trainer.max_steps={steps}", f"run.dir={folder}", "loggers=[]", *words]
    done = fit(load_config([config], given), **more)
    return {k: v.detach().float().cpu() for k, v in done["module"].trainable().items()}, done


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("name", MODULES)
def test_a_module(name, precision, device, tiny_config, tmp_path):
    words = [*MODULES[name], "optimizer.schedule=constant", "optimizer.warmup_steps=0", "trainer.gradient_clip_val=1.0"]
    start, _ = trained(tiny_config, "cpu", tmp_path / "start", *words, "optimizer.lr=0.0", "trainer.precision=32-true")
    wanted, _ = trained(tiny_config, "cpu", tmp_path / "cpu", *words, "trainer.precision=32-true")
    found, done = trained(tiny_config, device, tmp_path / "gpu", *words, f"trainer.precision={precision}")
    assert done["trainer"].strategy.root_device.type == device and done["files"]
    way, off = (torch.cat([(a[k] - b[k]).flatten() for k in start]).norm() for a, b in ((wanted, start), (found, wanted)))
    assert way > 0 and off <= PRECISIONS[precision] * way, f"{off / way:.2f} of the way"


@pytest.mark.parametrize("order", [("cpu", "gpu"), ("gpu", "cpu")], ids=" to ".join)
def test_a_run_resumes_on_the_other_device(order, device, tiny_config, tmp_path):
    """With its average; the loss goes on as unbroken."""
    first, second = (device if where == "gpu" else "cpu" for where in order)
    words = ["optimizer.schedule=constant", "callbacks=[{name: ema, decay: 0.9}]", "trainer.precision=32-true"]
    wanted, _ = trained(tiny_config, "cpu", tmp_path / "whole", *words, steps=4)
    trained(tiny_config, first, tmp_path / "halves", *words, steps=2)
    found, done = trained(tiny_config, second, tmp_path / "halves", *words, steps=4, resume="last")
    assert done["trainer"].global_step == 4
    for name, tensor in found.items():
        assert (tensor - wanted[name]).norm() <= 0.05 * max(wanted[name].norm(), 1e-3), name


def test_a_compiled_network_trains(device, tiny_config, tmp_path):
    if device == "cpu":
        pytest.skip("needs a C++ compiler on a CPU")
    words = ["model.backbone={name: sd, compile: default}", "trainer.precision=32-true", "optimizer.schedule=constant"]
    eager, _ = trained(tiny_config, device, tmp_path / "eager", *words[1:])
    found, _ = trained(tiny_config, device, tmp_path / "compiled", *words)
    for name, tensor in found.items():
        assert (tensor - eager[name]).norm() <= 0.05 * max(eager[name].norm(), 1e-3), name


def test_the_quickstart(device, tmp_path, monkeypatch):
    """Its pictures are drawn where it was trained."""
    drawn, report = [], BeforeAfter.report

    def noted(callback, module, *given):
        drawn.append(module.base.device.type)
        report(callback, module, *given)

    monkeypatch.setattr(BeforeAfter, "report", noted)
    short = ["data.batch_size=8", "callbacks.3.measured=2", "callbacks.3.control=null", "callbacks.3.steps=3"]
    _, done = trained(ROOT / "configs" / "quickstart.yaml", device, tmp_path, *short)
    assert (done["folder"] / "before_after.png").is_file() and drawn == [device]
