import math

import pytest
import torch

from registry import RegistryError
from sunlab.losses.distances import DISTANCES

A = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
B = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.5, 0.0], [0.0, -0.5]]])
DIFFERENCES = [[0.0, 2.0, 3.0, 4.0], [0.5, 0.0, 0.0, 0.5]]


@pytest.mark.parametrize(
    ("request_", "element"),
    [
        ("l2", lambda d: d * d),
        ("l1", abs),
        ("huber", lambda d: math.sqrt(d * d + 0.01) - 0.1),
        ({"name": "huber", "c": 1e-3}, lambda d: math.sqrt(d * d + 1e-6) - 1e-3),
    ],
)
def test_golden_values(request_, element):
    values = DISTANCES.build(request_)(A, B).tolist()
    assert values == pytest.approx([sum(map(element, row)) / 4 for row in DIFFERENCES], rel=1e-5)


def test_plain_numbers():
    assert DISTANCES.build("l2")(A, B).tolist() == [7.25, 0.125]
    assert DISTANCES.build("l1")(A, B).tolist() == [2.25, 0.25]


def test_huber_is_between_l1_and_half_l2():
    """Far from zero |d| - c, near zero d^2 / 2c."""
    a, b = torch.tensor([[100.0], [1e-3]], dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    far, near = DISTANCES.build({"name": "huber", "c": 0.5})(a, b).tolist()
    assert far == pytest.approx(99.5, abs=2e-3)
    assert near == pytest.approx(1e-6, rel=1e-4)


@pytest.mark.parametrize("c", [0.0, -1.0])
def test_huber_refuses_a_scale_that_is_not_positive(c):
    with pytest.raises(ValueError, match="positive"):
        DISTANCES.build({"name": "huber", "c": c})


def test_an_unknown_distance_is_explained():
    with pytest.raises(RegistryError, match="did you mean 'huber'"):
        DISTANCES.build("hubr")
