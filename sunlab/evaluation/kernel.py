"""Kernel distance between the two sets of pictures, unbiased although they are drawn in pairs."""

from torch import Tensor
from torchmetrics.image.kid import poly_kernel

from sunlab.evaluation.base import METRICS
from sunlab.evaluation.sets import SetMetric


def unbiased_mmd2(before: Tensor, after: Tensor) -> Tensor:
    """The U-statistic of the squared maximum mean discrepancy of paired sets, with KID's kernel (x·y / D + 1)^3.

    1 / (n (n - 1)) sum over i != j of k(x_i, x_j) + k(y_i, y_j) - k(x_i, y_j) - k(x_j, y_i): the one-sample U-statistic of
    Gretton et al., A kernel two-sample test, JMLR 13 (2012), after Lemma 6 (eq. 4); the kernel is of Binkowski et al.,
    Demystifying MMD GANs, ICLR 2018, section 4. The terms k(x_i, y_i), which Lemma 6 itself and torchmetrics' `poly_mmd`
    take in, are left out: here x_i and y_i are pictures from the same seed, which resemble each other and would push the
    value below zero. It may be negative near zero, as an unbiased estimate must.

    Args:
        before, after: features (N, D), N >= 2, row i of both from the same prompts and seed.
    """
    x, y = before.double(), after.double()
    n = len(x)
    terms = poly_kernel(x, x) + poly_kernel(y, y) - poly_kernel(x, y) - poly_kernel(y, x)
    return (terms.sum() - terms.diagonal().sum()) / (n * (n - 1))


@METRICS.register("kid")
class KID(SetMetric):
    """Unbiased kernel distance (KID) between the features of the pictures before and after, times 1000."""

    def of(self, before: Tensor, after: Tensor) -> dict[str, float]:
        return {"kid_x1000": 1000 * float(unbiased_mmd2(before, after))}
