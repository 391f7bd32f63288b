"""`sum` against its losses, computed one by one."""

import pytest
import torch
from torch import nn

from sunlab.errors import ConfigError
from sunlab.losses import Loss, LossOutput
from sunlab.losses.msc import MSC
from sunlab.losses.msc_segment import MSCSegment
from sunlab.losses.sum import Sum
from sunlab.losses.weighting import XZero
from sunlab.registries import registry_of

SEEDS = tuple(range(12))
TIMES = [999, 749, 499, 249, -1]
TWO = [{"name": "msc", "substeps": 2}, {"name": "msc_segment", "skip": 40}]


def compute(hand, loss):
    student, teacher = hand.Toy(0.8, torch.linspace(-1, 1, len(SEEDS)).numpy()), hand.Toy(0.3, [0.5] * len(SEEDS))
    flows = hand.flow(student, "ddim", TIMES), hand.flow(teacher, "ddim", TIMES)
    return loss(hand.batch(SEEDS), *flows, hand.squared)


def test_values_and_weightings_add_up(hand):
    """Each loss is weighted at its own times."""
    both = compute(hand, Sum(losses=TWO, weights=[1.0, 0.25]))
    first, second = compute(hand, MSC(substeps=2)), compute(hand, MSCSegment(skip=40))
    torch.testing.assert_close(both.values, first.values + 0.25 * second.values)
    assert not torch.equal(first.t, second.t)

    def weigh(output):
        return output.values * XZero(floor=0.0)(hand.PATH, output.t, output.s)

    weighted = both.weighted(lambda t, s: XZero(floor=0.0)(hand.PATH, t, s))
    torch.testing.assert_close(weighted, weigh(first) + 0.25 * weigh(second))
    assert {"loss msc", "loss msc_segment"} <= both.logs.keys()
    assert float(both.logs["loss msc"]) == pytest.approx(float(first.values.detach().mean()))


def test_losses_of_one_name_are_logged_apart(hand):
    output = compute(hand, Sum(losses=["msc", "msc"]))
    assert {"loss msc 1", "loss msc 2"} <= output.logs.keys()


@pytest.mark.parametrize(
    ("losses", "weights"), [([], None), (["msc"], [1.0, 2.0]), (["msc", "lcm"], [])], ids=["none", "more", "fewer"]
)
def test_weights_belong_to_losses(losses, weights):
    with pytest.raises(ConfigError, match=r"loss\.weights"):
        Sum(losses=losses, weights=weights)


def test_a_wrong_loss_is_named():
    with pytest.raises(ValueError, match=r"loss\.losses\.1"):
        registry_of("losses").build({"name": "sum", "losses": ["msc", "mcs"]})


def test_networks_of_all_losses_are_trained(hand):
    """Each with its own optimizer; the critics' values add up."""
    loss = Sum(losses=["msc"])
    owners = [Owner(2.0), Owner(3.0)]
    loss.losses = [*loss.losses, *owners]
    loss.prepare(None)
    assert list(loss.networks()) == [owner.net for owner in owners]
    assert loss.critic_step(hand.batch(SEEDS[:2]), None, None).tolist() == [5.0, 5.0]
    joint = loss.critic_optimizer([p for network in loss.networks() for p in network.parameters()])
    assert [group["lr"] for group in joint.param_groups] == [2.0, 3.0]
    before = [owner.net.weight.detach().clone() for owner in owners]
    owners[1].net(torch.ones(1, 1)).sum().backward()
    joint.step()
    assert torch.equal(owners[0].net.weight, before[0]) and not torch.equal(owners[1].net.weight, before[1])


class Owner(Loss, nn.Module):
    """A loss with one weight, its learning rate the value."""

    def __init__(self, value):
        super().__init__()
        self.value, self.net = value, nn.Linear(1, 1, bias=False)

    def __call__(self, batch, student, teacher, distance):
        return LossOutput(torch.zeros(len(batch)), torch.ones(len(batch)), torch.zeros(len(batch)))

    def networks(self):
        return [self.net]

    def critic_step(self, batch, student, teacher):
        return torch.full((len(batch),), self.value)

    def critic_optimizer(self, parameters):
        return torch.optim.SGD(parameters, lr=self.value)
