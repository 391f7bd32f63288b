"""diffusers' classes of our solvers, by name, and the required values of their configuration."""

from collections.abc import Mapping
from typing import Any

DDIM = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False, "thresholding": False}
DPMPP = {
    "timestep_spacing": "trailing", "algorithm_type": "dpmsolver++", "solver_order": 2, "solver_type": "midpoint",
    "final_sigmas_type": "zero", "lower_order_final": True, "euler_at_final": False, "thresholding": False,
    "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False, "use_lu_lambdas": False,
    "use_flow_sigmas": False, "variance_type": None,
}  # fmt: skip
LCM = {"timestep_spacing": "trailing", "timestep_scaling": 10.0, "clip_sample": False, "thresholding": False}
SETTINGS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "ddim": ("DDIMScheduler", DDIM),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", DPMPP),
    "lcm": ("LCMScheduler", LCM),
}
"""Our solver -> diffusers' class of it, and its settings."""
EULER = {
    "use_dynamic_shifting": False, "use_karras_sigmas": False, "use_exponential_sigmas": False, "use_beta_sigmas": False,
    "invert_sigmas": False, "shift_terminal": None, "stochastic_sampling": False,
}  # fmt: skip
FLOW: Mapping[str, tuple[str, Mapping[str, Any]]] = {"ddim": ("FlowMatchEulerDiscreteScheduler", EULER)}
"""The same on rectified flow with a shift, where DDIM is Euler's method. It takes the grid's times as `sigmas`."""


def settings_of(solver: str, train_steps: int = 1000, *, flow: bool = False) -> tuple[str, dict[str, Any]]:
    """The class and the settings with which it draws what our solver draws. Raises `KeyError` for one that has none."""
    name, settings = (FLOW if flow else SETTINGS)[solver]
    if name == "LCMScheduler":  # it draws few times out of so many; out of all of them they are ours: 999, 749, 499, 249
        return name, {**settings, "original_inference_steps": train_steps}
    return name, dict(settings)
