"""Every registered component keeps its kind's contract. A new component is tested here without a line."""

import pytest

pytest.register_assert_rewrite("sunlab.testing")

from sunlab.registries import KINDS, registry_of  # noqa: E402
from sunlab.testing import CONTRACTS  # noqa: E402


def _classes() -> dict[str, type]:
    classes: dict[str, type] = {}
    for kind, contract in CONTRACTS.items():
        try:
            names = registry_of(kind).names()
        except ImportError:
            continue  # reported by the test below, without hiding the other kinds
        for name in names:
            label = f"Test_{kind}_{name}"
            classes[label] = type(label, (contract,), {"component": name, "__module__": __name__})
    return classes


globals().update(_classes())


AWAITED = {"alignments", "backbones", "callbacks", "extractors", "filters", "sources"}  # no contract yet


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - AWAITED))
def test_every_kind_has_a_contract_and_components(kind: str) -> None:
    assert kind in CONTRACTS, f"write a contract of {kind} in sunlab.testing: plug-ins inherit it"
    assert registry_of(kind).names()


def test_a_contract_belongs_to_a_kind() -> None:
    assert CONTRACTS.keys() <= KINDS.keys()
    assert KINDS.keys() >= AWAITED
