"""Training one adapter over several networks: the base, fine-tunes of it, and random perturbations of either."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.backbones.base import BaseModel
from sunlab.backbones.text import TextEncoder
from sunlab.draws import Draws, keyed_seed
from sunlab.errors import ConfigError


@dataclass(frozen=True)
class Member:
    """A network to draw.

    Attributes:
        name: in messages, `model.bases.0`.
        fine_tune: a base of the same family; None: the trained-on base itself.
        strength: |delta W| / |W| of a random low-rank perturbation of each linear and convolution weight, new in every step;
            0: none.
        rank: of the perturbation.
        weight: how often it is drawn, relative to the others.
    """

    name: str
    fine_tune: BaseModel | None = None
    strength: float = 0.0
    rank: int = 8
    weight: float = 1.0


class Bases(nn.Module):
    """Networks of which each optimizer step trains on one.

    The drawn network's weights stand in the base's modules during the step's forward and backward pass, as other Parameter
    objects: the base's own are never written to, so that afterwards, and after an exception, it is what it was to the bit.
    Teacher and student of the step are the same drawn network. Memory: the weights of each fine-tune once, and one copy of
    the perturbed weights during a step.

    Args:
        base: the frozen base that the adapter is attached to.
        members: what is drawn.
        seed: of the draws; a draw is a function of (seed, step), the same on all ranks and for all micro-batches of a step.

    Raises:
        ConfigError: a fine-tune of another shape or prediction type, nothing to draw, or a number out of range.
    """

    def __init__(self, base: BaseModel, members: Sequence[Member], *, seed: int = 0):
        super().__init__()
        if not members or not any(member.weight > 0 for member in members):
            raise ConfigError("model.bases: nothing to draw; give at least one network with a positive weight")
        self.members, self.seed = tuple(members), seed
        self._base, self._last = (base,), (0, 0)  # a tuple: the base is no submodule of this one
        self.weights, self.encoders = nn.ModuleDict(), nn.ModuleDict()
        self._names: dict[int, dict[str, str]] = {}
        self._texts: dict[int, TextEncoder] = {}
        for number, member in enumerate(self.members):
            _check(member)
            if member.fine_tune is not None:
                self._add(number, member, member.fine_tune)

    def draw(self, step: int) -> int:
        """The member of an optimizer step."""
        random = Random(keyed_seed(self.seed, step, "base"))
        return random.choices(range(len(self.members)), [member.weight for member in self.members])[0]

    @contextmanager
    def drawn(self, number: int, step: int) -> Iterator[BaseModel]:
        """A step on one member: the base whose network has its weights and whose text encoder is its own.

        Args:
            number: of the member.
            step: the optimizer step, the key of the perturbation.
        """
        self._last = number, step
        (base,), text = self._base, self._texts.get(number)
        with self.again():
            yield base if text is None else replace(base, text=text)

    @contextmanager
    def again(self) -> Iterator[None]:
        """The network of the last step once more: for the backward pass, in which activations may be recomputed."""
        (base,), (number, step) = self._base, self._last
        slots = _slots(base.backbone)
        own = {name: module._parameters[key] for name, (module, key) in slots.items()}
        try:
            for name, parameter in self._parameters_of(number, step, base, slots).items():
                module, key = slots[name]
                module._parameters[key] = parameter
            yield
        finally:
            for name, (module, key) in slots.items():
                module._parameters[key] = own[name]

    def perturbed_bytes(self) -> int:
        """Of the weights that a perturbed network has beside those of the base, during its step."""
        (base,) = self._base
        weights = (layer.get_parameter("weight") for layer in base.backbone.layers().values())
        return sum(weight.nbytes for weight in weights) if any(member.strength for member in self.members) else 0

    def _parameters_of(self, number: int, step: int, base: BaseModel, slots: "Slots") -> Mapping[str, nn.Parameter]:
        """Those that differ from the base's, by name. Args: slots, where they hang."""
        member, stored = self.members[number], self._names.get(number, {})
        found: dict[str, Any] = {name: self.weights[str(number)].get_parameter(key) for name, key in stored.items()}
        if member.strength:
            names = {id(module): name for name, (module, key) in slots.items() if key == "weight"}
            layers = {names[id(layer)]: layer.get_parameter("weight") for layer in base.backbone.layers().values()}
            draws = Draws((keyed_seed(self.seed, step, "perturbation"),), device=base.device)
            for name, own in layers.items():
                weight = perturbed(found.get(name, own), member.strength, member.rank, draws, name)
                found[name] = nn.Parameter(weight, requires_grad=False)
        return found

    def _add(self, number: int, member: Member, fine_tune: BaseModel) -> None:
        """Keep the weights that differ from the base's, and the text encoder if it does."""
        (base,) = self._base
        own, others = (dict(each.backbone.named_parameters()) for each in (base, fine_tune))
        if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in others.items()}:
            raise ConfigError(f"{member.name}.base: its network has other layers than model.base; give a fine-tune of it")
        if fine_tune.backbone.prediction_type != base.backbone.prediction_type:
            raise ConfigError(
                f"{member.name}.base predicts {fine_tune.backbone.prediction_type}, model.base "
                f"{base.backbone.prediction_type}; give a fine-tune of the same prediction type"
            )
        changed = {name: p for name, p in others.items() if _differ(p, own[name])}
        self._names[number] = {name: f"p{i}" for i, name in enumerate(changed)}
        holder = self.weights[str(number)] = nn.Module()
        for name, parameter in changed.items():
            kept = parameter.detach().to(own[name].dtype)
            holder.register_parameter(self._names[number][name], nn.Parameter(kept, requires_grad=False))
        before, after = base.text.model.state_dict(), fine_tune.text.model.state_dict()
        if before.keys() != after.keys() or any(_differ(after[k], before[k]) for k in before):
            self.encoders[str(number)] = fine_tune.text.model.requires_grad_(False).eval()
            self._texts[number] = fine_tune.text

    def train(self, mode: bool = True) -> "Bases":
        return super().train(False)


@torch.no_grad()
def perturbed(weight: Tensor, strength: float, rank: int, draws: Draws, name: str) -> Tensor:
    """W + delta with delta = strength |W| B A / |B A|, Frobenius norms, B and A standard normal of `rank` columns and rows.

    Args:
        weight: (outputs, inputs), or a convolution's (outputs, inputs, ...).
        draws: of one seed, where the weight is.
        name: of the weight: each draws other numbers.
    """
    flat = weight.detach().flatten(1).float()
    (b,), (a,) = (draws.normal(f"{name}.{part}", (rank, size)) for part, size in zip("BA", flat.shape, strict=True))
    delta = b.mT @ a
    delta = delta * (strength * flat.norm() / delta.norm())
    return (flat + delta).to(weight.dtype).view_as(weight)


def _differ(tensor: Tensor, own: Tensor) -> bool:
    """On the meta device, where values are not known, all do."""
    return own.device.type == "meta" or not torch.equal(tensor.to(own), own)


Slots = Mapping[str, tuple[nn.Module, str]]


def _slots(network: nn.Module) -> Slots:
    """Where each parameter of a network hangs, by its name."""
    return {
        f"{path}.{key}" if path else key: (module, key)
        for path, module in network.named_modules()
        for key, parameter in module._parameters.items()
        if parameter is not None
    }


def _check(member: Member) -> None:
    if member.strength < 0 or member.weight < 0 or member.rank < 1:
        raise ConfigError(
            f"{member.name}: needs strength >= 0, weight >= 0 and rank >= 1, got {member.strength:g}, {member.weight:g} and "
            f"{member.rank}"
        )
