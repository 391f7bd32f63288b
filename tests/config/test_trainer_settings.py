"""Every setting of Lightning's Trainer is decided: passed on, refused with a reason, or given elsewhere."""

import inspect

import pytest
from lightning import Trainer

from sunlab.config.trainer import ELSEWHERE, PASSED, REFUSED, trainer_problems


def test_each_setting_of_this_lightning_is_decided_once():
    settings = set(inspect.signature(Trainer.__init__).parameters) - {"self"}
    decided = [*PASSED, *REFUSED, *ELSEWHERE]
    assert len(decided) == len(set(decided))
    assert settings - set(decided) == set(), "decide it in sunlab.config.trainer"
    assert set(decided) - settings == set(), "Lightning no longer has it"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("limit_val_batches", 4),
        ("val_check_interval", 10),
        ("check_val_every_n_epoch", 2),
        ("num_sanity_val_steps", -1),
        ("inference_mode", False),
        ("min_steps", 10),
        ("min_epochs", 1),
        ("overfit_batches", 2),
        ("overfit_batches", 0.5),
        ("reload_dataloaders_every_n_epochs", 1),
        ("use_distributed_sampler", True),
        ("enable_checkpointing", False),
        ("barebones", True),
        ("model_registry", "a/b"),
        ("strategy", "fsdp"),
        ("strategy", "deepspeed_stage_2"),
    ],
)
def test_what_changes_the_meaning_of_a_run_is_refused_with_the_reason(key, value):
    ((found, message),) = trainer_problems({key: value})
    assert found == key and repr(value) in message and len(message) > 30


def test_what_changes_nothing_is_taken():
    harmless = {key: values[-1] for key, (values, _) in REFUSED.items()}
    assert trainer_problems({**harmless, "strategy": "ddp_find_unused_parameters_true", "profiler": "simple"}) == []


def test_defaults_of_lightning_are_taken_where_sunlab_has_the_same():
    defaults = {p.name: p.default for p in inspect.signature(Trainer.__init__).parameters.values()}
    for key, (values, _) in REFUSED.items():
        assert defaults[key] in values or key == "use_distributed_sampler"
