"""Every adapter, solver and loss computes on the GPU, in three types, what it computes on the CPU in float32."""

from dataclasses import replace

import pytest
import torch

from sunlab.adapters import ADAPTERS
from sunlab.diffusion.grid import grid
from sunlab.draws import Draws
from sunlab.losses import LOSSES
from sunlab.modules.bases import perturbed
from sunlab.solvers import SOLVERS
from sunlab.testing import AdapterContract, LossContract
from sunlab.testing.loss import squared
from sunlab.testing.toy import KINDS, PATHS, SHAPE, ToyDenoiser
from sunlab.types import Trajectory

pytestmark = pytest.mark.gpu
ERROR = {torch.float32: 2e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Type -> the most that |out - wanted| / |wanted| may be; float32 leaves room for TF32."""
in_every_type = pytest.mark.parametrize("dtype", ERROR, ids=str)
NEEDED = {"agd": {"name": "agd", "hidden": 8}, "sum": {"name": "sum", "losses": ["msc", "cfg"], "weights": [1.0, 0.5]}}


def close(out, wanted, dtype):
    error = (out.double().cpu() - wanted.double()).norm() / wanted.double().norm()
    assert out.isfinite().all() and error <= ERROR[dtype], f"{error:.1e}"


def contract(base, name, **attributes):
    made = type("Made", (base,), {"component": NEEDED.get(name, name)})()
    vars(made).update(attributes)
    return made


def moved(conditioning, device, dtype):
    return conditioning.map(lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device))


@in_every_type
@pytest.mark.parametrize("network", ["unet", "toy"])
@pytest.mark.parametrize("name", ADAPTERS.names())
def test_an_adapter(name, network, dtype, device):
    outputs = []
    for where, kind in (("cpu", torch.float32), (device, dtype)):
        made = contract(AdapterContract, name, network=network)
        backbone, adapter = made.attached()
        backbone.to(where, kind)
        adapter.to(where, kind)  # what a pipeline does, buffers included
        x = torch.randn(3, *backbone.sample_shape, generator=torch.Generator().manual_seed(3)).to(where, kind)
        t = torch.tensor([1.0, 0.5, 0.25], dtype=torch.float64, device=where)
        positive, negative = (moved(made.prompts(seed), where, kind) for seed in (1, 2))
        w = torch.tensor([2.0, 4.0, 8.0], device=where)
        with torch.no_grad():
            outputs.append(backbone.predict(x, t, positive, adapter.state(positive, negative, w)))
    assert outputs[1].dtype == dtype and outputs[1].device.type == device
    close(outputs[1], outputs[0], dtype)


@in_every_type
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", SOLVERS.names())
def test_a_solver(name, path, dtype, device):
    on, outputs = PATHS[path], []
    for where, kind in (("cpu", torch.float32), (device, dtype)):
        bias = torch.tensor([-0.5, 0.0, 0.5], device=where)
        denoise = ToyDenoiser(on, kind=KINDS[path], bias=bias).to(where)
        start = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0)).to(
            dtype
        )  # new noise is keyed by its values
        x = start.to(where, kind)
        with torch.no_grad():
            outputs.append(SOLVERS.build(name, on).solve(denoise, x, grid(4, path=on).to(where)))
    assert outputs[1].dtype == dtype and outputs[1].device.type == device
    error = {torch.float32: 1e-4, torch.bfloat16: 0.3, torch.float16: 0.05}[dtype]  # four steps add their roundings up
    assert (outputs[1].cpu().double() - outputs[0].double()).norm() <= error * outputs[0].double().norm()


@pytest.mark.parametrize("half", [None, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("path", ["vp", "shifted_flow"])
@pytest.mark.parametrize("name", LOSSES.names())
def test_a_loss(name, path, half, device):
    """Values and the student's gradient; in half precision under autocast, as they are trained."""
    found = []
    for where in ("cpu", device):
        made = contract(LossContract, name)
        batch = made.batch(made.seeds, PATHS[path])
        stored = batch.trajectory
        batch = replace(
            batch,
            positive=moved(batch.positive, where, torch.float32),
            negative=moved(batch.negative, where, torch.float32),
            guidance=batch.guidance.to(where),
            draws=Draws(made.seeds, device=where),
            latents=batch.latents.to(where),
            trajectory=Trajectory(stored.states.to(where), stored.times, stored.grid),
        )
        student, teacher = (
            replace(sampler, denoise=sampler.denoise.to(where), times=sampler.times.to(where))
            for sampler in made.samplers(batch, path)
        )
        teacher.network.backbone.to(where)
        loss = made.loss(teacher)
        for network in loss.networks():
            network.to(where)
        with torch.autocast(where, half or torch.bfloat16, enabled=where == device and half is not None):
            values = loss(batch, student, teacher, squared).values
        values.mean().backward()
        found.append((values.detach(), student.denoise.weight.grad))
    dtype = half or torch.float32
    for ours, wanted in zip(found[1], found[0], strict=True):
        close(ours, wanted, dtype)


def test_a_perturbed_weight_is_that_of_the_cpu(device):
    weight = torch.randn(40, 24, generator=torch.Generator().manual_seed(0))
    here, there = (perturbed(weight.to(where), 0.1, 8, Draws((7,), device=where), "w") for where in ("cpu", device))
    torch.testing.assert_close(there.cpu(), here, atol=1e-5, rtol=1e-4)
