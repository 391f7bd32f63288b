"""The contract of a distance."""

from typing import ClassVar

import torch
from torch import Tensor

from sunlab.testing.component import ComponentContract
from sunlab.testing.toy import SHAPE


class DistanceContract(ComponentContract):
    """A distance is zero at equality, never negative, and one value a sample."""

    kind: ClassVar[str] = "distances"

    def pair(self) -> tuple[Tensor, Tensor]:
        a, b = torch.randn(2, 4, *SHAPE, generator=torch.Generator().manual_seed(0))
        return a, b

    def test_one_value_a_sample(self) -> None:
        a, b = self.pair()
        values = self.build()(a, b)
        assert values.shape == (4,) and bool(values.isfinite().all()) and bool((values > 0).all())

    def test_zero_at_equality(self) -> None:
        a, _ = self.pair()
        torch.testing.assert_close(self.build()(a, a), torch.zeros(4), atol=1e-7, rtol=0)

    def test_it_grows_with_the_difference(self) -> None:
        a, b = self.pair()
        near, far = self.build()(a, a + 0.1 * (b - a)), self.build()(a, b)
        assert bool((near < far).all())

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        a, b = self.pair()
        together = self.build()(a, b)
        alone = torch.cat([self.build()(a[i : i + 1], b[i : i + 1]) for i in range(4)])
        torch.testing.assert_close(together, alone, atol=1e-6, rtol=1e-6)

    def test_gradients_are_finite_even_at_equality(self) -> None:
        a, b = self.pair()
        for other in (a.clone(), b):
            leaf = a.clone().requires_grad_()
            self.build()(leaf, other).sum().backward()
            assert leaf.grad is not None and bool(leaf.grad.isfinite().all())
