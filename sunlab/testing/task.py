"""The contract of a task."""

from typing import Any, ClassVar

import pytest

from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import outline_base
from sunlab.config.load import LoadedConfig, load_config
from sunlab.modules.base import Module
from sunlab.testing.component import ComponentContract


class TaskContract(ComponentContract):
    """What every task promises.

    Attributes:
        overrides: keys that a configuration needs besides `task`, as `key=value`.
    """

    kind = "tasks"
    overrides: ClassVar[tuple[str, ...]] = ()

    def loaded(self, *overrides: str) -> LoadedConfig:
        name = self.component if isinstance(self.component, str) else self.component["name"]
        return load_config([], [f"task={name}", *self.overrides, *overrides])

    @pytest.fixture
    def base(self) -> BaseModel:
        """Stable Diffusion 1.5's shapes, without values."""
        return outline_base("shapes-alone", family="sd15")

    def module(self, base: BaseModel) -> Module:
        return self.build().build(self.loaded().config, base)

    def test_a_configuration_of_it_is_accepted(self) -> None:
        config: Any = self.loaded().config
        assert config.task["name"] in self.registry.names()
        assert list(self.build().problems(config)) == []

    def test_it_builds_a_module_that_trains_some_of_its_parameters(self, base: BaseModel) -> None:
        module = self.module(base)
        assert isinstance(module, Module)
        named = dict(module.named_parameters())
        trained = module.trainable()
        assert trained and all(parameter is named[name] for name, parameter in trained.items())

    def test_the_rest_is_frozen(self, base: BaseModel) -> None:
        module = self.module(base)
        trained = module.trainable()
        assert [name for name, p in module.named_parameters() if p.requires_grad and name not in trained] == []

    def test_a_budget_of_evaluations_needs_a_module_that_counts_them(self, base: BaseModel) -> None:
        counted = hasattr(self.module(base), "nfe")
        assert self.build().counts_nfe is counted
        config = self.loaded().config
        config.budget.nfe = 100
        assert ("budget.nfe" in dict(self.build().problems(config))) is not counted
