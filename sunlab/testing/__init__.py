"""Contract tests of every kind of plug, for plugs inside and outside the tree.

    from sunlab.testing import LossContract

    class TestMine(LossContract):
        plug = {"name": "mine", "delta": 0.1}

`plug` is what a configuration would say: a name, or a mapping with `name` and parameters. The module that registers it
must have been imported. With `pytest.register_assert_rewrite("sunlab.testing")` in a conftest.py failures say more.
"""

from sunlab.testing.adapter import AdapterContract
from sunlab.testing.distance import DistanceContract
from sunlab.testing.launcher import LauncherContract
from sunlab.testing.loss import LossContract
from sunlab.testing.metric import MetricContract
from sunlab.testing.negatives import NegativeSamplerContract
from sunlab.testing.plug import PlugContract
from sunlab.testing.solver import SolverContract
from sunlab.testing.toy import ToyDenoiser
from sunlab.testing.weighting import WeightingContract

CONTRACTS: dict[str, type[PlugContract]] = {
    contract.kind: contract
    for contract in (
        AdapterContract,
        DistanceContract,
        LauncherContract,
        LossContract,
        MetricContract,
        NegativeSamplerContract,
        SolverContract,
        WeightingContract,
    )
}
"""Kind of plug, as in `sunlab.registries.KINDS` -> its contract."""

__all__ = [
    "CONTRACTS",
    "AdapterContract",
    "DistanceContract",
    "LauncherContract",
    "LossContract",
    "MetricContract",
    "NegativeSamplerContract",
    "PlugContract",
    "SolverContract",
    "ToyDenoiser",
    "WeightingContract",
]
