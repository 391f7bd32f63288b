"""A scheduler's configuration -> the probability path that the network was trained on."""

from collections.abc import Mapping
from typing import Any

from sunlab.diffusion.path import DiscreteVP
from sunlab.diffusion.prediction import check_parametrisation
from sunlab.types import PredictionType


def read_path(config: Mapping[str, Any]) -> tuple[DiscreteVP, PredictionType]:
    """The path and prediction type of a scheduler's configuration.

    Raises:
        ConfigError: a prediction that the path cannot be sampled with.
    """
    path = DiscreteVP.from_betas(
        kind=config.get("beta_schedule", "scaled_linear"),
        start=config.get("beta_start", 0.00085),
        end=config.get("beta_end", 0.012),
        steps=config.get("num_train_timesteps", 1000),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )
    kind = config.get("prediction_type", "epsilon")
    check_parametrisation(kind, path)
    return path, kind
