"""The same model through diffusers' scheduler and through ours."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    HeunDiscreteScheduler,
    UniPCMultistepScheduler,
)

from sunlab.diffusion.grid import grid
from sunlab.diffusion.path import DiscreteVP, RectifiedFlow
from sunlab.diffusion.prediction import Prediction
from sunlab.registries import registry_of

SD = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
TOLERANCE = 1e-5

# diffusers hands tensors to numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def output(x, t, scheduler):
    """A smooth model whose v is bounded, as that of a trained one is, so that states keep the size of noise: v itself,
    or the epsilon that goes with it. t (B, 1, 1, 1) or a number."""
    v = torch.tanh(0.8 * x + t / 1000 + 0.3 * x.roll(1, -1))
    if scheduler.config.prediction_type == "v_prediction":
        return v
    squared = scheduler.alphas_cumprod[torch.as_tensor(t).long()].to(x.dtype)
    return (1 - squared).sqrt() * x + squared.sqrt() * v


def noise():
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def ours(request, scheduler, steps, spacing):
    """On diffusers' own table, which is float32: the test is of the solver, not of the table."""
    path = DiscreteVP(scheduler.alphas_cumprod)
    kind = scheduler.config.prediction_type

    def denoise(x, t):
        return Prediction(output(x, path.step(t).reshape(-1, 1, 1, 1).float(), scheduler), kind, x, *path.at(t, x))

    solver = registry_of("solvers").build(request, path)
    return solver.solve(denoise, noise(), grid(steps, spacing=spacing))


def theirs(scheduler, steps, spacing, *, karras):
    """Args: karras, whether the scheduler's states are x / alpha: then the start is divided by alpha, so that both
    start from the same variance-preserving state. (diffusers' pipelines multiply by `init_noise_sigma` instead, which
    for trailing spacing starts at sigma_T times the noise.)"""
    if spacing == "leading" and isinstance(scheduler, DPMSolverMultistepScheduler):
        # its own "leading" divides by steps + 1; the other schedulers divide by steps
        path = DiscreteVP.from_betas()
        scheduler.set_timesteps(timesteps=path.step(grid(steps, spacing="leading")[:-1]).long().tolist())
    else:
        scheduler.set_timesteps(steps)
    x = noise()
    if karras:
        x = x * (scheduler.sigmas[0] ** 2 + 1) ** 0.5
    for t in scheduler.timesteps:
        x = scheduler.step(output(scheduler.scale_model_input(x, t), t, scheduler), t, x).prev_sample
    return x


CASES = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": True}, "ddim", False),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}, "dpmpp_2m", False),
    "dpmpp_2m, not lower_order_final": (DPMSolverMultistepScheduler, {"lower_order_final": False}, "dpmpp_2m", False),
    "dpmpp_2m heun": (
        DPMSolverMultistepScheduler, {"solver_type": "heun"}, {"name": "dpmpp_2m", "variant": "heun"}, False,
    ),
    "euler": (EulerDiscreteScheduler, {}, "euler", True),
    "heun": (HeunDiscreteScheduler, {}, "heun", True),
    "unipc": (UniPCMultistepScheduler, {}, "unipc", False),
}  # fmt: skip


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [4, 25])
@pytest.mark.parametrize("case", CASES)
def test_the_same_picture(case, steps, spacing, kind):
    scheduler_class, options, request, karras = CASES[case]
    if scheduler_class is UniPCMultistepScheduler and spacing == "leading":
        pytest.skip("its leading times are others and cannot be given")
    if scheduler_class is not DPMSolverMultistepScheduler:
        options = {**options, "steps_offset": 1}
    scheduler = scheduler_class(**SD, timestep_spacing=spacing, prediction_type=kind, **options)
    expected = theirs(scheduler, steps, spacing, karras=karras)
    difference = (ours(request, scheduler, steps, spacing) - expected).abs().max()
    assert difference < TOLERANCE


@pytest.mark.parametrize(
    ("scheduler_class", "name", "options", "tolerance"),
    [
        (DDIMScheduler, "ddim", {"clip_sample": False}, TOLERANCE),
        (DPMSolverMultistepScheduler, "dpmpp_2m", {}, TOLERANCE),
        (UniPCMultistepScheduler, "unipc", {}, 1e-3),  # diffusers' first alpha is 0.0002, not 0
    ],
)
def test_a_start_in_pure_noise(scheduler_class, name, options, tolerance):
    scheduler = scheduler_class(
        **SD, timestep_spacing="trailing", prediction_type="v_prediction", rescale_betas_zero_snr=True, **options
    )
    difference = (ours(name, scheduler, 25, "trailing") - theirs(scheduler, 25, "trailing", karras=False)).abs().max()
    assert difference < tolerance


def test_stable_diffusions_own_table_makes_no_visible_difference():
    """Ours is computed in float64."""
    scheduler = DPMSolverMultistepScheduler(**SD, timestep_spacing="trailing")
    expected = theirs(scheduler, 25, "trailing", karras=False)
    scheduler.alphas_cumprod = DiscreteVP.from_betas().alphas_cumprod
    assert (ours("dpmpp_2m", scheduler, 25, "trailing") - expected).abs().max() < TOLERANCE


def velocity(x, t):
    """A smooth flow epsilon - x_0; t a number or (B, 1, 1, 1)."""
    return torch.tanh(0.8 * x + t + 0.3 * x.roll(1, -1))


def along_the_flow(request, times):
    path = RectifiedFlow()

    def denoise(x, t):
        return Prediction(velocity(x, t.reshape(-1, 1, 1, 1).float()), "flow", x, *path.at(t, x))

    return registry_of("solvers").build(request, path).solve(denoise, noise(), times)


def scheduled(scheduler):
    """By a scheduler whose steps are set. Its sigmas are t; a method of two evaluations repeats them."""
    x = noise()
    for t in scheduler.timesteps:
        x = scheduler.step(velocity(x, t / 1000), t, x).prev_sample
    return x, torch.unique(scheduler.sigmas.double()).flip(0)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("name", ["ddim", "euler"])
def test_euler_on_rectified_flow(name, steps, shift):
    """From alpha = 0."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    expected, times = scheduled(scheduler)
    assert times[0] == 1 and len(times) == steps + 1
    assert (along_the_flow(name, times) - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("steps", [2, 4, 25])
def test_heun_on_rectified_flow(steps):
    scheduler = FlowMatchHeunDiscreteScheduler()
    scheduler.set_timesteps(steps)
    expected, times = scheduled(scheduler)
    assert times[0] == 1 and len(times) == steps + 1
    difference = (along_the_flow({"name": "heun", "variable": "flow"}, times) - expected).abs().max()
    assert difference < 10 * TOLERANCE  # diffusers divides by its last sigma, 0.001, in float32


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 25])
@pytest.mark.parametrize("variant", ["midpoint", "heun"])
def test_dpm_solver_on_rectified_flow(variant, steps, shift):
    scheduler = DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=shift, prediction_type="flow_prediction", solver_type=variant
    )
    scheduler.set_timesteps(steps)
    times = torch.cat([scheduler.sigmas[:-1].double(), torch.zeros(1, dtype=torch.float64)])
    x = noise()
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(velocity(x, sigma), t, x).prev_sample
    assert (along_the_flow({"name": "dpmpp_2m", "variant": variant}, times) - x).abs().max() < TOLERANCE
