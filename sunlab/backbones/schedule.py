"""A scheduler's configuration -> the probability path that the network was trained on."""

from collections.abc import Mapping
from typing import Any

from sunlab.diffusion.path import DiscreteVP, ProbabilityPath, RectifiedFlow
from sunlab.diffusion.prediction import check_parametrisation
from sunlab.types import PredictionType

FLOW = ("flow_prediction", "flow")
"""diffusers' name of a flow prediction, and ours."""


def read_path(config: Mapping[str, Any]) -> tuple[ProbabilityPath, PredictionType]:
    """The path and prediction type of a scheduler's configuration.

    Rectified flow is recognised by a scheduler of flow matching (`FlowMatch...`), `use_flow_sigmas` or a flow prediction;
    its shift is the scheduler's `shift` or `flow_shift`.

    Raises:
        ConfigError: a prediction that the path cannot be sampled with.
    """
    kind: Any = config.get("prediction_type", "epsilon")
    matching = str(config.get("_class_name", "")).startswith("FlowMatch")
    if matching or config.get("use_flow_sigmas") or kind in FLOW:
        flow = RectifiedFlow(
            shift=config.get("shift", config.get("flow_shift", 1.0)), steps=config.get("num_train_timesteps", 1000)
        )
        kind = "flow" if matching or kind in FLOW else kind
        check_parametrisation(kind, flow)
        return flow, kind
    path = DiscreteVP.from_betas(
        kind=config.get("beta_schedule", "scaled_linear"),
        start=config.get("beta_start", 0.00085),
        end=config.get("beta_end", 0.012),
        steps=config.get("num_train_timesteps", 1000),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )
    check_parametrisation(kind, path)
    return path, kind
