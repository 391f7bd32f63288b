"""The memory of a step that `--dry-run` estimates, against what torch's allocator hands out in a real one."""

import gc
from dataclasses import replace

import pytest
import torch
from tiny_bases import tiny_base
from tiny_pixart import tiny_pixart
from torch.profiler import ProfilerActivity, profile

from sunlab.app.compose import build_base, build_module
from sunlab.app.dry_run import blank_batch, plan
from sunlab.backbones.sd3.tiny import write_tiny
from sunlab.config.load import load_config
from sunlab.modules.allocated import Allocated, OnAccelerator
from sunlab.types import Conditioning, Samples, Trajectory

FULL = ["trainer.precision=32-true", "trainer.devices=1", "data.streams=1"]
LORA = ["task=student", "loss=lcm", "adapter={name: lora, rank: 4}"]


def measured(config, micro):
    """The most bytes that torch's CPU allocator had handed out at any time of a training step, by its own profiler."""
    base = build_base(config)
    module = build_module(config, base).train()
    module.note = lambda *_, **__: None
    shapes = blank_batch(module, base.backbone, micro)  # of the same batch, without values
    fill = lambda t: torch.ones(t.shape, dtype=t.dtype)  # noqa: E731
    states = torch.randn(micro, len(module.student.grid), *base.backbone.sample_shape)
    given: Conditioning = shapes.positive.map(fill)
    batch = replace(
        shapes,
        positive=given,
        negative=given,
        guidance=torch.full((micro,), 3.0),
        draws=replace(shapes.draws, device="cpu"),
        latents=states[:, 0].clone(),
        trajectory=Trajectory(states, module.student.times, module.student.grid),
    )
    samples = Samples(*[("",) * micro] * 3, (0,) * micro)

    def step():
        module.student_step(samples, batch)["loss"].backward()
        module.zero_grad()

    step()  # buffers that are made once
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        most = max(most, now)
    return most


def close(config, words, micro):
    loaded = load_config([config], [*words, *FULL, f"data.batch_size={micro}"])
    estimated, got = plan(loaded).memory.step, measured(loaded.config, micro)
    assert estimated == pytest.approx(got, rel=0.15), f"{estimated / got:.3f} of {got} bytes"


@pytest.mark.parametrize(
    "words",
    [
        ["model.base=emoji-sd"],
        ["model.base=emoji-sd", "model.backbone={name: sd, gradient_checkpointing: true}"],
        pytest.param(["model.base=emoji-sd", *LORA], marks=pytest.mark.slow),
        pytest.param(["model.base=emoji-sd", "task=student", "adapter=null"], marks=pytest.mark.slow),
    ],
    ids=["SUN", "checkpointed", "LoRA + lcm", "a full copy"],
)
def test_the_step_of_emoji_sd(words, tiny_config):
    close(tiny_config, words, 2)


FAMILIES = {
    "sdxl": lambda folder: tiny_base("sdxl", folder),
    "pixart": tiny_pixart,
    "sd3": write_tiny,
}


@pytest.mark.parametrize("family", [pytest.param("sdxl", marks=pytest.mark.slow), "pixart", "sd3"])
def test_the_step_of_every_family(family, tiny_config, tmp_path):
    FAMILIES[family](tmp_path / family)
    close(tiny_config, [f"model.base={tmp_path / family}"], 8)


@pytest.fixture(scope="module")
def sd15(tmp_path_factory):
    """Of its full size, with random weights."""
    import make_random_base

    folder = tmp_path_factory.mktemp("base") / "sd15"
    make_random_base.make("sd15", folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], LORA], ids=["SUN", "LoRA + lcm"])
def test_the_step_at_stable_diffusions_size(words, tiny_config, sd15, monkeypatch):
    """At 256 pixels: with fewer, what the CPU's convolutions use inside, up to 118 MB, is a large part."""
    from sunlab.backbones.sd.unet import DiffusersUNet

    made = DiffusersUNet.__init__

    def smaller(self, *args, **options):
        made(self, *args, **options)
        self.sample_shape = (4, 32, 32)

    monkeypatch.setattr(DiffusersUNet, "__init__", smaller)
    close(tiny_config, [f"model.base={sd15}", *words], 1)


def test_memory_that_is_freed_counts_once():
    with torch.device("meta"), Allocated() as allocated:
        for _ in range(3):
            a = torch.empty(1000)
            b = a.view(10, 100).mT + 1
            del a, b
    assert (allocated.alive, allocated.peak) == (0, 8000)


def test_what_is_known_is_not_counted():
    known = torch.empty(1000, device="meta")
    with Allocated([known]) as allocated:
        known.add_(1)
        kept = known.view(10, 100)[0]
    assert (allocated.alive, allocated.peak, kept.shape) == (0, 0, (100,))


def test_autocast_has_the_types_of_cuda():
    """As PyTorch's table of CUDA's operations has them."""
    half, x = torch.bfloat16, torch.empty(2, 8, 4, device="meta", dtype=torch.bfloat16)
    weight, query = torch.empty(3, 4, device="meta"), torch.empty(2, 2, 8, 4, device="meta")
    attention = torch.nn.functional.scaled_dot_product_attention
    with OnAccelerator(half):
        assert torch.nn.functional.linear(x, weight).dtype == half
        assert (x.float() @ weight.mT).dtype == half
        assert torch.nn.functional.layer_norm(x, (4,)).dtype == torch.float32
        assert x.softmax(-1).dtype == torch.float32
        assert attention(query, query, query).dtype == half
        assert (x + 1).dtype == half and torch.nn.functional.silu(x).dtype == half
    with OnAccelerator():
        assert torch.nn.functional.layer_norm(x, (4,)).dtype == half
