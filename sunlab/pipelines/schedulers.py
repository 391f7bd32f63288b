"""diffusers' schedulers that draw what our solvers draw."""

from collections.abc import Mapping
from typing import Any

from sunlab.errors import ConfigError, DataError
from sunlab.export.schedulers import DDIM, SETTINGS, settings_of


def scheduler_for(header: Mapping[str, Any], current: Any, where: str) -> Any:
    """The scheduler that an adapter is drawn with: the base's noise schedule, the adapter's solver and spacing.

    Args:
        header: of the adapter file.
        current: the pipeline's scheduler, of any class; left as it is.

    Raises:
        DataError: the adapter's solver or grid has no scheduler in diffusers, or it was trained on another prediction type.
    """
    import diffusers

    solver, spacing = header.get("solver"), header.get("spacing", "trailing")
    if solver is None:
        raise DataError(f"{where}: its header does not say which solver draws with it; export it again with sunlab")
    if solver not in SETTINGS or spacing != "trailing":
        raise DataError(
            f"{where}: no scheduler of diffusers' draws as {solver!r} with {spacing} spacing does; known: "
            f"{', '.join(SETTINGS)}, trailing; draw with `sunlab sample` instead"
        )
    stated, found = header.get("prediction_type"), current.config.get("prediction_type", "epsilon")
    if stated is not None and stated != found:
        raise DataError(
            f"{where}: trained on a base of {stated}, this pipeline's scheduler says {found}; load a base of that kind "
            "(where only the scheduler is wrong: "
            f"pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, prediction_type={stated!r}))"
        )
    name, settings = settings_of(solver, current.config.get("num_train_timesteps", 1000))
    return getattr(diffusers, name).from_config(current.config, **settings)


def check_scheduler(scheduler: Any, header: Mapping[str, Any]) -> None:
    """Raise `ConfigError`, with the remedy, for a scheduler that was set later and does not draw few trailing steps. DDIM
    and DPM-Solver++ stand in for each other."""
    name, config = type(scheduler).__name__, scheduler.config
    allowed = {SETTINGS[solver][0] for solver in (("lcm",) if header.get("solver") == "lcm" else ("ddim", "dpmpp_2m"))}
    settings = next((wanted for known, wanted in SETTINGS.values() if known == name), DDIM)
    wanted: dict[str, Any] = {key: settings[key] for key in ("timestep_spacing", "algorithm_type") if key in settings}
    if "prediction_type" in header:
        wanted["prediction_type"] = header["prediction_type"]
    wrong = {key: config.get(key) for key, value in wanted.items() if config.get(key) != value}
    if name in allowed and not wrong:
        return
    cls = name if name in allowed else sorted(allowed)[0]
    settings = next(wanted for known, wanted in SETTINGS.values() if known == cls)
    right = {key: settings[key] for key in ("timestep_spacing", "algorithm_type") if key in settings}
    right |= {key: wanted[key] for key in ("prediction_type",) if key in wanted}
    told = ", ".join(f"{key}={value!r}" for key, value in right.items())
    raise ConfigError(
        f"the scheduler set since plugging, {name}"
        + (f" with {', '.join(f'{k}={v!r}' for k, v in wrong.items())}" if name in allowed else "")
        + f", does not draw few steps as the adapter learned them; set pipe.scheduler = diffusers.{cls}.from_config("
        f"pipe.scheduler.config, {told}), or unplug and plug again"
    )
