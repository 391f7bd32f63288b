"""A training step of every loss and a sampling step of every solver never read a tensor of the device on the host.

The device is `meta`, whose tensors have no values: reading one raises, as does an operation between it and the host.
"""

import pytest
import torch
from tiny_bases import tiny_base

from sunlab.adapters.state import Kept
from sunlab.adapters.sun import SUN
from sunlab.backbones.pretrained import load_base
from sunlab.diffusion.grid import grid
from sunlab.diffusion.guidance import NetworkEvaluations, guided
from sunlab.draws import Draws
from sunlab.losses import LOSSES
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.bases import Bases, Member
from sunlab.modules.optimization import Optimization
from sunlab.modules.teacher import TeacherModule
from sunlab.pipelines.draw import with_adapter
from sunlab.registries import registry_of
from sunlab.solvers import Sampler
from sunlab.testing.toy_backbone import toy_base
from sunlab.types import Samples, Trajectory

B = 2
NAMED = {
    "sum": {"name": "sum", "losses": ["msc", "lcm"]},
    "dmd": {"name": "dmd", "critic_steps": 1, "fake": {"name": "lora", "rank": 2}},
}
READS = {
    "item": lambda x: x.sum().item(),
    "bool": lambda x: bool((x > 0).all()),
    "float": lambda x: float(x.sum()),
    "index": lambda x: [0, 1][x.sum().long()],
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0],
    "mix": lambda x: x + torch.ones(3),
}


@pytest.mark.parametrize("read", READS)
def test_the_check_finds(read):
    with pytest.raises((RuntimeError, NotImplementedError, TypeError)):
        READS[read](torch.ones(3, device="meta"))


def samples(shape, **fields):
    times = grid(4)
    states = Trajectory(torch.zeros(B, len(times), *shape), times)
    given = {"latents": torch.zeros(B, *shape), "trajectory": states, "guidance": torch.full((B,), 3.0), **fields}
    return Samples(("a", "b"), ("a cat", "a dog"), ("red", "red"), (1, 2), **given).to("meta")


def step(module, batch, monkeypatch, number):
    """Forward, backward, clipping and optimizer, as Lightning calls them."""
    monkeypatch.setattr(type(module), "global_step", property(lambda _: number))
    optimizer = module.configure_optimizers()["optimizer"]
    module.training_step(batch, 0)["loss"].backward()
    learnt = [p for group in optimizer.param_groups for p in group["params"]]
    assert any(p.grad is not None for p in learnt)
    torch.nn.utils.clip_grad_norm_(learnt, 1.0)
    optimizer.step()


def prepared(module):
    module.log = lambda *_, **__: None
    module.total_steps = lambda: 10
    return module.to("meta").train()


@pytest.mark.parametrize("name", LOSSES.names())
def test_a_training_step(name, monkeypatch):
    base = toy_base()
    loss = LOSSES.build(NAMED.get(name, name))
    teacher = Sampler(registry_of("solvers").build("ddim", base.backbone.path), grid(8, path=base.backbone.path))
    student = Sampler(teacher.solver, grid(4))
    module = prepared(AdapterModule(base, SUN(), loss, guidance=(2.0, 4.0), teacher=teacher, student=student))
    for number in range(module.turns.cycle):
        step(module, samples(base.backbone.sample_shape), monkeypatch, number)


def test_a_training_step_on_a_perturbed_base(monkeypatch):
    base = toy_base()
    bases = Bases(base, [Member("0", strength=0.1)])
    module = prepared(AdapterModule(base, SUN(), LOSSES.build({"name": "msc", "states": "data"}), bases=bases))
    step(module, samples(base.backbone.sample_shape), monkeypatch, 0)


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory):
    return load_base(tiny_base("sdxl", tmp_path_factory.mktemp("base") / "sdxl"))


def test_from_pictures_with_crops_through_encoders_of_diffusers(sdxl, monkeypatch):
    images = torch.zeros(B, 3, 32, 32, dtype=torch.uint8)
    crops = torch.tensor([[32, 32, 0, 0, 32, 32]] * B)
    batch = samples(sdxl.backbone.sample_shape, images=images, crops=crops, latents=None, trajectory=None)
    module = prepared(AdapterModule(sdxl, SUN(), LOSSES.build("cfg")))
    step(module, batch, monkeypatch, 0)
    step(prepared(TeacherModule(sdxl, optimization=Optimization())), batch, monkeypatch, 0)


@pytest.mark.parametrize("bind", ["guided", "adapter"])
@pytest.mark.parametrize("name", registry_of("solvers").names())
def test_a_sampling_step(name, bind, monkeypatch):
    """The lengths of the prompts are read once, before the first step, where an adapter leaves their padding out."""
    monkeypatch.setattr(Kept, "of", staticmethod(lambda mask: Kept(mask.long().argsort(1), mask)))
    base, adapter = toy_base(), SUN()
    adapter.attach(base.backbone)
    base.to("meta"), adapter.to("meta")
    solver = registry_of("solvers").build(name, base.backbone.path)
    words = base.encode(["a", "b"]), base.encode(["c", ""], negative=True)
    w, x = torch.full((B,), 3.0, device="meta"), Draws((1, 2), device="meta").normal("x", base.backbone.sample_shape)
    nfe = NetworkEvaluations()
    inner = guided(base.backbone, *words, w) if bind == "guided" else with_adapter(base, adapter)(*words, w, nfe)
    assert solver.solve(inner, x, grid(3, path=base.backbone.path)).shape == x.shape
