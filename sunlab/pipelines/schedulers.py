"""diffusers' schedulers that draw what our solvers draw."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from sunlab.backbones.schedule import read_path
from sunlab.diffusion.grid import grid_times
from sunlab.diffusion.path import DiscreteVP, RectifiedFlow
from sunlab.errors import ConfigError, DataError
from sunlab.export.schedulers import SETTINGS, settings_of

WITHOUT_EFFECT = {"steps_offset", "clip_sample_range", "dynamic_thresholding_ratio", "sample_max_value", "flow_shift"}
"""Entries that the settings of `SETTINGS` leave without effect: an offset under trailing spacing, the ranges of clipping and
thresholding that are off, the shift of flow sigmas that are not used."""


def scheduler_for(header: Mapping[str, Any], current: Any, where: str) -> Any:
    """The scheduler that an adapter is drawn with: the base's noise schedule, the adapter's solver and spacing. Each call
    receives shifted times, see `timesteps_of`.

    Args:
        header: of the adapter file.
        current: the pipeline's scheduler, of any class; left as it is.

    Raises:
        DataError: the adapter's solver or grid has no scheduler in diffusers, or it was trained on another prediction type,
            path, number of training steps or shift than the pipeline's scheduler states.

    Warns where the noise schedule is another one than that of the adapter's base, as in some fine-tunes.
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
    stated, found, flow = header.get("prediction_type"), _prediction(current), flow_matching(current)
    if stated is not None and stated != found:
        right = f"prediction_type={stated!r}"
        if stated == "flow":
            right = "use_flow_sigmas=True, prediction_type='flow_prediction'"
        raise DataError(
            f"{where}: trained on a base of {stated}, this pipeline's scheduler says {found}; load a base of that kind, or, "
            f"where only the scheduler is wrong, {_remedy(right)}"
        )
    if flow and found != "flow":
        raise DataError(
            f"{where}: no scheduler of diffusers' draws a {found} prediction on rectified flow; draw with `sunlab sample` "
            "instead"
        )
    _check_path(header, current, where)
    built = _build(solver, header, current)
    if not flow:
        _compare_noise(header, built, where)
    return built


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


def _path_of(header: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the header states of the path of the adapter's base; empty in files of before 0.2."""
    return (header.get("base") or {}).get("path") or {}


def _check_path(header: Mapping[str, Any], current: Any, where: str) -> None:
    """Raise `DataError` if the scheduler is of another path, number of training steps or shift than the adapter's base."""
    stated, steps, flow = _path_of(header), _train_steps(current), flow_matching(current)
    if stated and (stated["name"] == RectifiedFlow.__name__) != flow:
        raise DataError(
            f"{where}: trained on the path {stated['name']}, this pipeline's scheduler {type(current).__name__} is of "
            "another; load a base of that path"
        )
    if (trained := stated.get("steps", steps)) != steps:
        raise DataError(
            f"{where}: trained on {trained} training steps, this pipeline's scheduler has {steps}; "
            f"{_remedy(f'num_train_timesteps={trained}')}"
        )
    times, shift = header.get("times"), _shift(current)
    if not flow or times is None:
        return
    grid = grid_times(len(times) - 1, shift=header.get("shift", 1.0), path=RectifiedFlow(shift=shift))
    if not np.allclose(grid, times, atol=1e-6):
        key, value = "shift" if _shifts(current) else "flow_shift", stated.get("shift", "...")
        raise DataError(
            f"{where}: trained at the times {times}, this pipeline's {key} of {shift:g} gives {list(grid)}; set the shift "
            f"of the adapter's base: {_remedy(f'{key}={value}')}"
        )


def _compare_noise(header: Mapping[str, Any], built: Any, where: str) -> None:
    """Warn if the scheduler's alphas are not those of the adapter's base."""
    stated, found = _path_of(header).get("alpha"), DiscreteVP(built.alphas_cumprod).describe()["alpha"]
    if stated is not None and not np.allclose(stated, found, atol=1e-3):
        warnings.warn(
            f"{where}: trained on a noise schedule with alpha = {stated} at t = 0.5 and 1, this pipeline's scheduler has "
            f"{found}; right only if its base is a fine-tune with a schedule of its own, else set the scheduler that the "
            "pipeline was loaded with",
            stacklevel=4,
        )


def timesteps_of(header: Mapping[str, Any], scheduler: Any, steps: int) -> list[int]:
    """The network's times of the adapter's grid with so many steps, on a variance-preserving scheduler: its whole training
    steps, from noise on."""
    path = DiscreteVP(scheduler.alphas_cumprod)
    times = torch.tensor(grid_times(steps, shift=header.get("shift", 1.0), path=path)[:-1], dtype=torch.float64)
    found: list[int] = path.step(times).long().tolist()
    return found


def _remedy(settings: str) -> str:
    return f"pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, {settings})"


def _train_steps(scheduler: Any) -> int:
    return int(scheduler.config.get("num_train_timesteps", 1000))


def check_scheduler(scheduler: Any, header: Mapping[str, Any], base: Any) -> None:
    """Check that a scheduler set after plugging samples as the adapter was trained.

    Every entry of its configuration is compared with the scheduler that `plug` would build, except `WITHOUT_EFFECT`.
    DDIM and DPM-Solver++ may replace each other. On rectified flow only a `FlowScheduler` draws at the adapter's times in
    every pipeline.

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
    name, candidates = type(scheduler).__name__, [each for each in rights if type(each) is type(scheduler)]
    right = candidates[0] if candidates else _build(trained, header, base)
    wrong: list[str] = []
    if candidates or not flow:
        found = scheduler if candidates else type(right).from_config(scheduler.config)
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

    steps = _train_steps(base)
    if flow_matching(base):
        from sunlab.pipelines.flow_scheduler import FlowScheduler

        return FlowScheduler(num_train_timesteps=steps, shift=_shift(base), solver=solver)
    if header.get("shift", 1.0) != 1 and solver == "ddim":  # diffusers' own takes no times: the first order of DPM-Solver++
        name, settings = settings_of("dpmpp_2m", steps)
        settings["solver_order"] = 1
    else:
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
