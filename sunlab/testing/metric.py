"""The contract of a metric."""

import math
from typing import ClassVar

import pytest
import torch
from torch import Tensor

from sunlab.evaluation.base import Metric
from sunlab.testing.component import ComponentContract

PAIRS = 12


class MetricContract(ComponentContract):
    """A metric's values depend on the pairs alone: not on the batches they come in, nor on their order."""

    kind: ClassVar[str] = "metrics"

    def pairs(self) -> tuple[Tensor, Tensor]:
        """Pictures before and after, or features, as passed to the metric."""
        shape = (2, PAIRS, 3, 4, 4) if self.build().sees == "pictures" else (2, PAIRS, 5)
        before, after = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
        return before, (before + 0.3 * after) / 1.3

    def over(self, before: Tensor, after: Tensor, *, batch: int = PAIRS) -> Metric:
        """One comparison."""
        metric = self.build()
        for a, b in zip(before.split(batch), after.split(batch), strict=True):
            metric.update(a, b)
        return metric

    def test_it_names_finite_values(self) -> None:
        values = self.over(*self.pairs()).compute()
        assert values and all(isinstance(v, float) and math.isfinite(v) for v in values.values())

    @pytest.mark.parametrize("batch", [1, 5])
    def test_batches_do_not_show(self, batch: int) -> None:
        before, after = self.pairs()
        assert self.over(before, after, batch=batch).compute() == pytest.approx(self.over(before, after).compute(), rel=1e-9)

    def test_the_order_of_pairs_does_not_show(self) -> None:
        before, after = self.pairs()
        turned = self.over(before.flip(0), after.flip(0)).compute()
        assert turned == pytest.approx(self.over(before, after).compute(), rel=1e-6, abs=1e-9)

    def test_nothing_cannot_be_measured(self) -> None:
        with pytest.raises(ValueError, match=r"."):
            self.build().compute()

    def test_unequal_sets_are_refused(self) -> None:
        before, after = self.pairs()
        with pytest.raises(ValueError, match=r"."):
            self.build().update(before, after[1:])

    def test_a_paired_value_is_the_mean_of_each(self) -> None:
        metric = self.over(*self.pairs())
        if metric.paired:
            (value,) = metric.compute().values()
            assert len(metric.each()) == PAIRS and float(metric.each().mean()) == pytest.approx(value)
            assert bool((metric.each() >= 0).all())
            before, _ = self.pairs()
            assert float(self.over(before, before).each().abs().max()) == 0

    def test_readers_are_warned_in_words(self) -> None:
        assert all(isinstance(line, str) and line for line in self.over(*self.pairs()).warnings(PAIRS))
