"""diffusers' schedulers that draw what our solvers draw."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sunlab.backbones.schedule import read_path
from sunlab.diffusion.grid import grid_times
from sunlab.diffusion.path import RectifiedFlow
from sunlab.errors import ConfigError, DataError
from sunlab.export.schedulers import SETTINGS, settings_of

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
    known = _solvers(current)
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
    path = ((header.get("base") or {}).get("path") or {}).get("name")
    if path is not None and (path == RectifiedFlow.__name__) != flow_matching(current):
        raise DataError(
            f"{where}: trained on the path {path}, this pipeline's scheduler {type(current).__name__} is of another; load a "
            "base of that path"
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
    return _shifts(scheduler) or bool(scheduler.config.get("use_flow_sigmas"))


def _prediction(scheduler: Any) -> str:
    if not flow_matching(scheduler):
        return str(scheduler.config.get("prediction_type", "epsilon"))
    return read_path({**scheduler.config, "_class_name": type(scheduler).__name__})[1]


def _shifts(scheduler: Any) -> bool:
    """Whether it is diffusers' FlowMatchEulerDiscreteScheduler, another of its kind, or our `FlowScheduler`."""
    return any(cls.__name__.startswith("FlowMatch") for cls in type(scheduler).__mro__)


def _shift(scheduler: Any) -> float:
    """In effect: a FlowMatch scheduler's can be changed apart from its configuration."""
    if _shifts(scheduler):
        return float(scheduler.shift)
    return float(scheduler.config.get("flow_shift", 1.0))


def _solvers(scheduler: Any) -> tuple[str, ...]:
    """Names of the solvers that draw on the path of this scheduler."""
    if not flow_matching(scheduler):
        return tuple(SETTINGS)
    from sunlab.pipelines.flow_scheduler import FLOW_SOLVERS

    return FLOW_SOLVERS


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
    DDIM and DPM-Solver++ may replace each other; on rectified flow diffusers' own of Euler's method may too.

    Args:
        scheduler: the pipeline's scheduler now.
        header: of the adapter file.
        base: the pipeline's scheduler before `plug`.

    Raises:
        ConfigError: it differs; the message names each entry and the call that sets it right.
    """
    trained, flow = str(header.get("solver")), flow_matching(base)
    solvers = (trained,) if trained in ("lcm", "tcd") else ("ddim", "dpmpp_2m")
    rights: list[Any] = [_build(solver, header, base) for solver in solvers]
    if flow and "ddim" in solvers:
        from diffusers import FlowMatchEulerDiscreteScheduler

        steps = base.config.get("num_train_timesteps", 1000)
        rights.append(FlowMatchEulerDiscreteScheduler(num_train_timesteps=steps, shift=_shift(base)))
    name, candidates = type(scheduler).__name__, [each for each in rights if type(each) is type(scheduler)]
    right = candidates[0] if candidates else _build(trained, header, base)
    found = scheduler if candidates or flow else type(right).from_config(scheduler.config)
    wrong = min((_differing(each, found) for each in candidates or [right]), key=len)
    if candidates and not wrong:
        return
    differs = ", ".join(f"{key}={_short(found.config.get(key, 'changed'))}" for key in wrong)
    values = "".join(f", {key}={_short(right.config[key])}" for key in wrong if key in right.config)
    cls = type(right).__name__
    call = "" if flow else f"set pipe.scheduler = diffusers.{cls}.from_config(pipe.scheduler.config{values}), or "
    raise ConfigError(
        f"the scheduler was replaced since plugging: {name}{f' with {differs}' if differs else ''} does not sample as the "
        f"adapter was trained; {call}unplug and plug again"
    )


def _differing(right: Any, found: Any) -> list[str]:
    """Entries in which a scheduler differs from the right one of its class."""
    wrong = [key for key, value in right.config.items() if not _equal(key, value, found.config.get(key))]
    if wrong:
        return wrong
    if flow_matching(right):
        return [] if found.shift == right.shift else ["shift"]  # which set_shift changes
    return [] if torch.equal(found.alphas_cumprod.cpu(), right.alphas_cumprod) else ["alphas_cumprod"]


def _build(solver: str, header: Mapping[str, Any], base: Any) -> Any:
    import diffusers

    steps = base.config.get("num_train_timesteps", 1000)
    if flow_matching(base):
        from sunlab.pipelines.flow_scheduler import FlowScheduler

        return FlowScheduler(num_train_timesteps=steps, shift=_shift(base), solver=solver)
    name, settings = settings_of(solver, steps)
    if header.get("final_alpha") == "base":
        settings.pop("set_alpha_to_one", None)
    return getattr(diffusers, name).from_config(base.config, **settings)


def _equal(key: str, right: Any, found: Any) -> bool:
    if key.startswith("_") or key in WITHOUT_EFFECT:
        return True
    return bool(np.array_equal(right, found)) if key == "trained_betas" else bool(right == found)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else f"{text[:57]}..."
