"""A flow-matching scheduler's configuration -> the rectified flow that the network was trained on."""

from collections.abc import Mapping
from typing import Any

from sunlab.diffusion.path import RectifiedFlow
from sunlab.errors import ConfigError


def read_flow(config: Mapping[str, Any]) -> RectifiedFlow:
    """The path of a FlowMatchEulerDiscreteScheduler's configuration.

    Raises:
        ConfigError: a shift that depends on the resolution, or what is stated over the configuration does not apply.
    """
    if config.get("use_dynamic_shifting"):
        raise ConfigError(
            "the scheduler shifts its times by the resolution (use_dynamic_shifting); set it to false in "
            "scheduler/scheduler_config.json and give the shift of the resolution to train at as `shift`"
        )
    if config.get("prediction_type", "flow") not in ("flow", "flow_prediction"):
        raise ConfigError(f"model.prediction_type={config['prediction_type']}: this family predicts the flow; omit it")
    if config.get("rescale_betas_zero_snr"):
        raise ConfigError("model.zero_terminal_snr: rectified flow ends in pure noise by itself; omit it")
    return RectifiedFlow(shift=config.get("shift", 1.0), steps=config.get("num_train_timesteps", 1000))
