"""Two steps of SUN and of a LoRA on a tiny base of each family, from pictures; types of the weights; checkpointing."""

import pytest
import torch
from lightning.pytorch import Trainer

from sunlab.adapters.lora import LoRA
from sunlab.adapters.sun import SUN
from sunlab.backbones.pretrained import load_base
from sunlab.losses.distances import PseudoHuber
from sunlab.losses.lcm import LCM
from sunlab.losses.msc import MSC
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.optimization import Optimization
from sunlab.modules.student import StudentModule
from sunlab.pipelines.draw import Request, draw


def module(kind, base):
    options = {"optimization": Optimization(lr=1e-2), "guidance": (2.0, 5.0)}
    if kind == "sun":
        return AdapterModule(base, SUN(), MSC(states="data", substeps=2), **options)
    return StudentModule(base, LCM(), lora=LoRA(rank=2), distance=PseudoHuber(), **options)


def train(student, data, folder, **options):
    trainer = Trainer(
        accelerator="cpu", max_steps=2, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(student, datamodule=data)
    return student


@pytest.mark.parametrize(("family", "kind"), [("sd15", "lora"), ("sd21", "sun"), ("sdxl", "sun"), ("sdxl", "lora")])
def test_two_steps(family, kind, folders, tiny_data, tmp_path):
    student = module(kind, load_base(folders[family]))
    before = {k: v.detach().clone() for k, v in student.named_parameters()}
    train(student, tiny_data(batch_size=4), tmp_path)
    learnt = student.trainable()
    frozen = [k for k, v in student.named_parameters() if k not in learnt and not torch.equal(v, before[k])]
    assert not frozen and any(not torch.equal(p, before[k]) for k, p in learnt.items())
    assert all(bool(p.isfinite().all()) for p in learnt.values())
    drawn = draw(student.base, student.student, student.bind_student(), Request(["a pizza"], ["red"], [1]), w=3.0)
    assert bool(drawn.images.isfinite().all())
    (file,) = student.export(tmp_path / "export")
    assert file.is_file()


@pytest.mark.parametrize(("family", "dtype", "kind"), [("sd15", torch.bfloat16, "lora"), ("sdxl", torch.float16, "sun")])
def test_a_frozen_base_in_half_precision_and_an_adapter_in_single(family, dtype, kind, folders, tiny_data, tmp_path):
    student = module(kind, load_base(folders[family], dtype=dtype))
    train(student, tiny_data(batch_size=4), tmp_path)
    assert {p.dtype for p in student.trainable().values()} == {torch.float32}
    assert student.base.backbone.unet.dtype == dtype
    assert all(bool(p.isfinite().all()) for p in student.trainable().values())


def test_mixed_precision(folders, tiny_data, tmp_path):
    student = train(module("sun", load_base(folders["sdxl"])), tiny_data(batch_size=4), tmp_path, precision="bf16-mixed")
    assert all(bool(p.isfinite().all()) for p in student.trainable().values())


@pytest.mark.parametrize("kind", ["sun", "lora"])
def test_checkpointing_changes_no_gradient(kind, folders, tiny_data):
    gradients = []
    before = torch.random.get_rng_state()
    for on in (False, True):
        component = {"name": "sdxl", "gradient_checkpointing": on}
        torch.manual_seed(0)
        student = module(kind, load_base(folders["sdxl"], backbone=component))
        with torch.no_grad():
            for p in student.trainable().values():
                p.add_(0.01)
        samples = next(iter(tiny_data(batch_size=4).loader()))
        student.log = lambda *args, **kwargs: None
        student.training_step(samples, 0)["loss"].backward()
        gradients.append([p.grad for p in student.trainable().values()])
    torch.random.set_rng_state(before)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True) if a is not None)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
def test_compiled_it_draws_and_learns_the_same(folders, tiny_data, tmp_path):
    results = []
    for mode in ("none", "default"):
        component = {"name": "sdxl", "compile": mode, "channels_last": mode != "none"}
        student = train(
            module("sun", load_base(folders["sdxl"], backbone=component)), tiny_data(batch_size=4), tmp_path / mode
        )
        results.append(student.trainable())
    assert results[0].keys() == results[1].keys()
    assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(*(r.values() for r in results), strict=True))
