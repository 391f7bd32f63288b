"""diffusers' schedulers that draw what our solvers draw."""

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sunlab.backbones.schedule import read_path
from sunlab.diffusion.grid import grid_times
from sunlab.diffusion.path import RectifiedFlow
from sunlab.errors import ConfigError, DataError
from sunlab.export.schedulers import FLOW, SETTINGS, settings_of

WITHOUT_EFFECT = {"steps_offset", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "flow_shift"}
"""Entries that the settings of `SETTINGS` leave without effect: an offset under trailing spacing, the ranges of clipping and
thresholding that are off, the shift of flow sigmas that are not used."""


def scheduler_for(header: Mapping[str, Any], current: Any, where: str) -> Any:
    """The scheduler that an adapter is drawn with: the base's noise schedule, the adapter's solver and spacing.

    Args:
        header: of the adapter file.
        current: the pipeline's scheduler, of any class; left as it is.

    Raises:
        DataError: the adapter's solver or grid has no scheduler in diffusers, or it was trained on another prediction type.
    """
    solver, spacing = header.get("solver"), header.get("spacing", "trailing")
    if solver is None:
        raise DataError(f"{where}: its header does not say which solver draws with it; export it again with sunlab")
    known = _known(current)
    if solver not in known or spacing != "trailing":
        raise DataError(
            f"{where}: no scheduler of diffusers' draws as {solver!r} with {spacing} spacing does; known: "
            f"{', '.join(known)}, trailing; draw with `sunlab sample` instead"
        )
    stated, found = header.get("prediction_type"), _prediction(current)
    if stated is not None and stated != found:
        raise DataError(
            f"{where}: trained on a base of {stated}, this pipeline's scheduler says {found}; load a base of that kind "
            "(where only the scheduler is wrong: "
            f"pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type={stated!r}))"
        )
    if flow_matching(current):
        if found != "flow":
            raise DataError(
                f"{where}: no scheduler of diffusers' draws a {found} prediction on rectified flow; draw with "
                "`sunlab sample` instead"
            )
        _check_shift(header, current, where)
    return _build(solver, header, current)


def flow_matching(scheduler: Any) -> bool:
    """Whether it is a scheduler of rectified flow, whose times are shifted: by its class, or set to flow sigmas."""
    return type(scheduler).__name__.startswith("FlowMatch") or bool(scheduler.config.get("use_flow_sigmas"))


def _prediction(scheduler: Any) -> str:
    if not flow_matching(scheduler):
        return str(scheduler.config.get("prediction_type", "epsilon"))
    return read_path({**scheduler.config, "_class_name": type(scheduler).__name__})[1]


def _shift(scheduler: Any) -> float:
    """In effect: a FlowMatch scheduler's can be changed apart from its configuration."""
    if type(scheduler).__name__.startswith("FlowMatch"):
        return float(scheduler.shift)
    return float(scheduler.config.get("flow_shift", 1.0))


def _known(scheduler: Any) -> Mapping[str, tuple[str, Mapping[str, Any]]]:
    return FLOW if flow_matching(scheduler) else SETTINGS


def _check_shift(header: Mapping[str, Any], current: Any, where: str) -> None:
    """Raise `DataError` if the adapter's times are not those of a grid with the scheduler's shift."""
    times, shift = header.get("times"), _shift(current)
    if times is None:
        return
    grid = grid_times(len(times) - 1, path=RectifiedFlow(shift=shift))
    if not np.allclose(grid, times, atol=1e-6):
        raise DataError(
            f"{where}: trained at the times {times}, this pipeline's shift of {shift:g} gives {list(grid)}; set the "
            "scheduler's `shift` to that of the adapter's base"
        )


def check_scheduler(scheduler: Any, header: Mapping[str, Any], base: Any) -> None:
    """Check that a scheduler set after plugging samples as the adapter was trained.

    Every entry of its configuration is compared with the scheduler that `plug` would build, except `WITHOUT_EFFECT`.
    DDIM and DPM-Solver++ may replace each other.

    Args:
        scheduler: the pipeline's scheduler now.
        header: of the adapter file.
        base: the pipeline's scheduler before `plug`.

    Raises:
        ConfigError: it differs; the message names each entry and the call that sets it right.
    """
    solvers = ("lcm",) if header.get("solver") == "lcm" else ("ddim", "dpmpp_2m")
    known = _known(base)
    choices = {known[solver][0]: _build(solver, header, base) for solver in solvers if solver in known}
    name = type(scheduler).__name__
    cls = name if name in choices else known[str(header.get("solver"))][0]
    right = choices[cls]
    found = scheduler if name in choices else type(right).from_config(scheduler.config)
    wrong = [key for key, value in right.config.items() if not _equal(key, value, found.config.get(key))]
    if name in choices and type(scheduler) is type(right) and not wrong:
        if flow_matching(right):
            wrong = [] if scheduler.shift == right.shift else ["shift"]  # which set_shift changes
        elif not torch.equal(scheduler.alphas_cumprod.cpu(), right.alphas_cumprod):
            wrong = ["alphas_cumprod"]
        if not wrong:
            return
    differs = ", ".join(f"{key}={_short(found.config.get(key, 'changed'))}" for key in wrong)
    values = "".join(f", {key}={_short(right.config[key])}" for key in wrong if key in right.config)
    raise ConfigError(
        f"the scheduler was replaced since plugging: {name}{f' with {differs}' if differs else ''} does not sample as the "
        f"adapter was trained; set pipe.scheduler = diffusers.{cls}.from_config(pipe.scheduler.config{values}), or unplug "
        "and plug again"
    )


def _build(solver: str, header: Mapping[str, Any], base: Any) -> Any:
    import diffusers

    flow = flow_matching(base)
    name, settings = settings_of(solver, base.config.get("num_train_timesteps", 1000), flow=flow)
    cls = getattr(diffusers, name)
    if flow:
        known = inspect.signature(cls).parameters
        return cls.from_config({k: v for k, v in base.config.items() if k in known}, **settings, shift=_shift(base))
    if header.get("final_alpha") == "base":
        settings.pop("set_alpha_to_one", None)
    return cls.from_config(base.config, **settings)


def _equal(key: str, right: Any, found: Any) -> bool:
    if key.startswith("_") or key in WITHOUT_EFFECT:
        return True
    return bool(np.array_equal(right, found)) if key == "trained_betas" else bool(right == found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
