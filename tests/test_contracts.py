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


@pytest.mark.parametrize("kind", CONTRACTS)
def test_every_kind_with_a_contract_has_components(kind: str) -> None:
    assert kind in KINDS
    assert registry_of(kind).names()
