"""Contract tests of every kind of component, for components inside and outside the tree. Open `component.py` first, the
tests of all kinds.

    from sunlab.testing import LossContract

    class TestMine(LossContract):
        component = {"name": "mine", "delta": 0.1}

`component` is as in a configuration: a name, or a mapping with `name` and parameters. The module that registers it
must have been imported. With `pytest.register_assert_rewrite("sunlab.testing")` in a conftest.py failures show more detail.
"""

from sunlab.renamed import refuse_former
from sunlab.testing.adapter import AdapterContract
from sunlab.testing.backbone import BackboneContract
from sunlab.testing.callback import CallbackContract
from sunlab.testing.component import ComponentContract, RegisteredContract
from sunlab.testing.data import FilterContract, SourceContract, StageContract
from sunlab.testing.distance import DistanceContract
from sunlab.testing.judges import AlignmentContract, ExtractorContract, NegativeControlContract
from sunlab.testing.launcher import LauncherContract
from sunlab.testing.logger import LoggerContract
from sunlab.testing.loss import LossContract
from sunlab.testing.metric import MetricContract
from sunlab.testing.negatives import NegativeSamplerContract
from sunlab.testing.solver import SolverContract
from sunlab.testing.task import TaskContract
from sunlab.testing.toy import ToyDenoiser
from sunlab.testing.weighting import WeightingContract

CONTRACTS: dict[str, type[RegisteredContract]] = {
    contract.kind: contract
    for contract in (
        AdapterContract,
        AlignmentContract,
        BackboneContract,
        CallbackContract,
        DistanceContract,
        ExtractorContract,
        FilterContract,
        LauncherContract,
        LoggerContract,
        LossContract,
        MetricContract,
        NegativeControlContract,
        NegativeSamplerContract,
        SolverContract,
        SourceContract,
        StageContract,
        TaskContract,
        WeightingContract,
    )
}
"""Kind of component, as in `sunlab.registries.KINDS` -> its contract."""

__all__ = [
    "CONTRACTS",
    "AdapterContract",
    "AlignmentContract",
    "BackboneContract",
    "CallbackContract",
    "ComponentContract",
    "DistanceContract",
    "ExtractorContract",
    "FilterContract",
    "LauncherContract",
    "LoggerContract",
    "LossContract",
    "MetricContract",
    "NegativeControlContract",
    "NegativeSamplerContract",
    "RegisteredContract",
    "SolverContract",
    "SourceContract",
    "StageContract",
    "TaskContract",
    "ToyDenoiser",
    "WeightingContract",
]

__getattr__ = refuse_former(__name__)
