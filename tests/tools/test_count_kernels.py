"""What SUN costs where the host is the limit: the kernels that it adds to a layer."""

import pytest
import torch

from count_kernels import Kernels, kernels_of


def test_what_counts_as_a_kernel():
    x = torch.ones(2, 3)
    with Kernels() as kernels:
        y = x.view(3, 2).t()[0].unsqueeze(0)
        assert kernels.count == 0
        y = y + 1
        y.mul_(2)
        torch.cat([y, y]).sum()
    assert kernels.count == 4


@pytest.mark.parametrize(("family", "most"), [("sd15", (4, -1)), ("sana_1600m", (4, -1)), ("sd35_medium", (11, 5))])
@pytest.mark.parametrize("normalise", [True, False])
def test_one_call_for_all_prompts_starts_few(family, most, normalise):
    plain, adapted, layers = kernels_of(family, normalise=normalise, one_call=True)
    assert adapted - plain <= layers * most[not normalise]


def test_a_call_for_each_prompt_starts_more():
    plain, adapted, layers = kernels_of("sd15", normalise=True, one_call=False)
    assert adapted - plain > 20 * layers
