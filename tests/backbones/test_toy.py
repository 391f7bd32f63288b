"""A backbone of another kind (rectified flow, masked text, no U-Net) goes through losses, solvers, modules and sampling."""

import pytest
import torch
from lightning.pytorch import Trainer

from sunlab.backbones.pretrained import load_base
from sunlab.diffusion.grid import grid
from sunlab.lab.text_encoder import TextEncoderModule
from sunlab.modules.optimization import Optimization
from sunlab.modules.student import StudentModule
from sunlab.modules.teacher import TeacherModule
from sunlab.pipelines.draw import Request, draw, with_backbone, with_guidance
from sunlab.registries import registry_of
from sunlab.solvers import Sampler
from sunlab.testing.toy_backbone import toy_base

PROMPTS = ["a pizza on a red background", ""]


def train(module, data, folder, steps=4, critic_steps=0):
    losses = []
    note = module.note

    def noted(samples, **values):
        losses.extend(float(value.detach()) for name, value in values.items() if name == "loss")
        note(samples, **values)

    module.note = noted
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder,
    )  # fmt: skip
    before = {name: p.detach().clone() for name, p in module.trainable().items()}
    trainer.fit(module, datamodule=data)
    assert len(losses) == steps // (1 + critic_steps) and all(loss == loss for loss in losses)
    assert any(not torch.equal(p, before[name]) for name, p in module.trainable().items())
    return losses


@pytest.mark.parametrize("loss", [name for name in registry_of("losses").names() if name != "trajectory"])
def test_every_loss_trains_a_student(loss, tiny_data, tmp_path):
    base = toy_base()
    before = base.backbone.identity()
    chosen = {"sum": {"name": "sum", "losses": ["cfg", "msc"]}, "dmd": {"name": "dmd", "critic_steps": 1}}.get(loss, loss)
    built = registry_of("losses").build(chosen)
    student = StudentModule(base, built, optimization=Optimization(lr=1e-3), guidance=(2.0, 4.0))
    train(student, tiny_data(), tmp_path, critic_steps=int(loss == "dmd"))
    assert base.backbone.identity() == before, "the teacher"
    (folder,) = student.export(tmp_path / "export")
    drawn = draw(load_base(folder), student.student, with_backbone(student.copy), Request(PROMPTS, ["", ""], [1, 2]), w=1.0)
    assert drawn.images.shape == (2, 3, 32, 32) and bool(drawn.images.isfinite().all())


@pytest.mark.parametrize("kind", [TeacherModule, TextEncoderModule])
def test_its_own_parts_learn(kind, tiny_data, tmp_path):
    module = kind(toy_base(), optimization=Optimization(lr=1e-2))
    losses = train(module, tiny_data(), tmp_path, steps=60)
    assert sum(losses[-12:]) < sum(losses[:12])
    module.export(tmp_path / "export")
    assert load_base(tmp_path / "export").backbone.path.shift == 2.0


@pytest.mark.parametrize("solver", registry_of("solvers").names())
def test_every_solver_draws(solver):
    base = toy_base().freeze()
    path = base.backbone.path
    sampler = Sampler(registry_of("solvers").build(solver, path), grid(4, path=path))
    request = Request(PROMPTS, ["a dog", ""], [3, 4])
    together = draw(base, sampler, with_guidance(base), request, w=3.0)
    alone = draw(base, sampler, with_guidance(base), request, w=3.0, batch=1)
    assert bool(together.images.isfinite().all())
    torch.testing.assert_close(together.latents, alone.latents, atol=1e-4, rtol=1e-4)
