"""A scheduler set after `plug`: every setting that changes sampling times or the update rule is refused, by name."""

import inspect
from copy import deepcopy

import diffusers
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler, LCMScheduler

from sunlab.errors import ConfigError
from sunlab.pipelines.schedulers import WITHOUT_EFFECT, check_scheduler, scheduler_for

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, "steps_offset": 1,
        "set_alpha_to_one": False}  # fmt: skip
OTHER = {
    "num_train_timesteps": 500, "beta_start": 0.001, "beta_end": 0.02, "beta_schedule": "linear",
    "trained_betas": [0.1] * 1000,
    "clip_sample": True, "set_alpha_to_one": False, "prediction_type": "v_prediction", "thresholding": True,
    "timestep_spacing": "leading", "rescale_betas_zero_snr": True, "solver_order": 3, "algorithm_type": "sde-dpmsolver++",
    "solver_type": "heun", "lower_order_final": False, "euler_at_final": True, "use_karras_sigmas": True,
    "use_exponential_sigmas": True, "use_beta_sigmas": True, "use_lu_lambdas": True, "use_flow_sigmas": True,
    "final_sigmas_type": "sigma_min", "lambda_min_clipped": -5.1, "variance_type": "learned", "use_dynamic_shifting": True,
    "time_shift_type": "linear", "original_inference_steps": 50, "timestep_scaling": 1.0, "steps_offset": 7,
    "clip_sample_range": 2.0, "dynamic_thresholding_ratio": 0.5, "sample_max_value": 3.0, "flow_shift": 2.0,
}  # fmt: skip
"""A value of each setting that is not the one that `plug` sets."""
CLASSES = {"ddim": DDIMScheduler, "dpmpp_2m": DPMSolverMultistepScheduler, "lcm": LCMScheduler}
SETTINGS = [
    (solver, key)
    for solver, cls in CLASSES.items()
    for key in inspect.signature(cls.__init__).parameters
    if key != "self" and (solver, key) != ("lcm", "set_alpha_to_one")
]


def header(solver):
    return {"solver": solver, "spacing": "trailing", "prediction_type": "epsilon"}


@pytest.fixture
def base():
    return DDIMScheduler(**SD15)


def times_and_step(scheduler):
    """Sampler times and two steps from fixed inputs: what a setting may change."""
    scheduler.set_timesteps(4)
    g = torch.Generator().manual_seed(0)
    x, output = torch.randn(2, 1, 4, 8, 8, generator=g)
    for t in scheduler.timesteps:
        more = {} if "ddim" in type(scheduler).__name__.lower() else {"generator": torch.Generator().manual_seed(1)}
        x = scheduler.step(0.3 * output, t, x, **more).prev_sample
    return torch.cat([scheduler.timesteps.double(), x.double().flatten()])


@pytest.mark.parametrize(("solver", "key"), SETTINGS)
def test_each_setting(solver, key, base):
    right = scheduler_for(header(solver), base, "x")
    check_scheduler(right, header(solver), base)
    changed = deepcopy(right)
    changed.register_to_config(**{key: OTHER[key]})
    assert changed.config[key] != right.config[key]
    if key in WITHOUT_EFFECT:
        check_scheduler(changed, header(solver), base)
        assert torch.equal(times_and_step(type(right).from_config(changed.config)), times_and_step(right))
        return
    with pytest.raises(ConfigError, match=rf"{type(right).__name__} with .*{key}=.*from_config\(.*{key}="):
        check_scheduler(changed, header(solver), base)


@pytest.mark.parametrize("solver", list(CLASSES))
def test_the_remedy_of_the_message_is_accepted(solver, base):
    found = DPMSolverSinglestepScheduler.from_config(base.config, use_karras_sigmas=True, beta_schedule="linear")
    with pytest.raises(ConfigError, match="DPMSolverSinglestepScheduler") as error:
        check_scheduler(found, header(solver), base)
    said = str(error.value).split("pipe.scheduler = diffusers.")[1].split(", or unplug")[0]
    name, _, arguments = said.partition(".from_config(pipe.scheduler.config")
    again = eval(f"cls.from_config(config{arguments}", {"cls": getattr(diffusers, name), "config": found.config})
    assert type(again) is CLASSES[solver]
    check_scheduler(again, header(solver), base)


def test_ddim_and_dpm_solver_replace_each_other_and_nothing_else_does(base):
    ours = {solver: scheduler_for(header(solver), base, "x") for solver in CLASSES}
    check_scheduler(ours["ddim"], header("dpmpp_2m"), base)
    check_scheduler(ours["dpmpp_2m"], header("ddim"), base)
    for trained, found in (("ddim", "lcm"), ("lcm", "ddim"), ("lcm", "dpmpp_2m")):
        with pytest.raises(ConfigError, match=type(ours[found]).__name__):
            check_scheduler(ours[found], header(trained), base)

    class Own(DDIMScheduler):
        pass

    with pytest.raises(ConfigError, match="Own"):
        check_scheduler(Own.from_config(ours["ddim"].config), header("ddim"), base)


def test_a_noise_schedule_changed_in_place(base):
    scheduler = scheduler_for(header("ddim"), base, "x")
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**2
    with pytest.raises(ConfigError, match="alphas_cumprod"):
        check_scheduler(scheduler, header("ddim"), base)
