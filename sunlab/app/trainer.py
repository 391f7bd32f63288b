"""Lightning's Trainer, as every run has it."""

import os
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.accelerators import CUDAAccelerator, MPSAccelerator
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from sunlab.app.compose import component
from sunlab.callbacks.alive import Alive
from sunlab.callbacks.finite import SkipNonFinite
from sunlab.callbacks.progress import progress
from sunlab.callbacks.spending import Spending
from sunlab.checkpoint import AtomicCheckpointIO
from sunlab.config.schema import Config
from sunlab.distributed.ranks import Ranks, rendezvous, require_ranks
from sunlab.errors import ConfigError
from sunlab.private import find_unused_parameters, set_timeout


def build_ranks(ranks: Ranks | None) -> ClusterEnvironment:
    """How the ranks find each other. Said to Lightning, which else guesses: it warns wherever Slurm is installed, ignores
    Slurm in a job named `bash`, takes an allocation for a step, and requeues the job from inside a signal handler."""
    if ranks is None:
        return LightningEnvironment()
    if ranks.launcher == "torchrun":
        return TorchElasticEnvironment()
    address, port = rendezvous()
    os.environ |= {"MASTER_ADDR": address, "MASTER_PORT": str(port), "SLURM_NTASKS": str(ranks.count)}
    os.environ |= {"SLURM_NTASKS_PER_NODE": str(ranks.per_node), "SLURM_NNODES": str(ranks.nodes)}
    return SLURMEnvironment(auto_requeue=False)


def training_device(trainer: Mapping[str, Any]) -> str:
    """The type of device that Lightning will choose: cpu, cuda or mps."""
    accelerator = trainer.get("accelerator", "auto")
    if accelerator in ("auto", "gpu"):
        return "cuda" if CUDAAccelerator.is_available() else "mps" if MPSAccelerator.is_available() else "cpu"
    return str(accelerator)


def build_trainer(
    config: Config,
    folder: Path,
    spending: Spending,
    callbacks: Sequence[Callback],
    extra: Sequence[Callback],
    *,
    resumed: bool = False,
    alternates: bool = False,
) -> Trainer:
    """Everything under `trainer:`, with our checkpoints and loggers; on the ranks that srun or torchrun started.

    Args:
        spending: counts what the run spends, and ends it where the budget is spent.
        callbacks: the configuration's.
        extra: further ones.
        resumed: whether the run goes on.
        alternates: each optimizer step trains a part of the module's parameters alone.

    Raises:
        ConfigError: the ranks differ from the requested ones, or Lightning refuses the settings.
    """
    ranks = require_ranks(config.trainer)
    settings: dict[str, Any] = {
        "accelerator": "auto",
        "max_steps": 1000,
        "max_epochs": -1,
        "log_every_n_steps": 10,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "use_distributed_sampler": False,
        **config.trainer,
    }
    if ranks is not None:
        settings["num_nodes"] = ranks.nodes
        if settings.get("devices") in (None, "auto", -1, "-1"):
            settings["devices"] = ranks.per_node
    if spending.limited:
        settings["max_steps"] = -1
    given = [component("loggers", request, folder, config.run.name, resumed) for request in config.loggers]
    settings["logger"] = given if settings.pop("logger", True) else False
    checkpoint = ModelCheckpoint(
        folder / "checkpoints",
        save_top_k=0,
        save_last=True,
        every_n_train_steps=config.run.checkpoint_every,
        enable_version_counter=False,
    )
    shown = [progress()] if settings.get("enable_progress_bar", True) else []
    settings["enable_progress_bar"] = any(isinstance(callback, ProgressBar) for callback in shown)
    survival = [
        SkipNonFinite(folder, limit=config.run.skip_limit),
        Alive(dead_after=config.run.dead_after, checkpoints=folder / "checkpoints"),
    ]
    try:
        trainer = Trainer(
            default_root_dir=folder,
            callbacks=[*survival, *callbacks, spending, *extra, *shown, checkpoint],
            plugins=[AtomicCheckpointIO(), build_ranks(ranks)],
            **settings,
        )
    except (MisconfigurationException, ValueError) as error:  # no such accelerator or devices here
        raise ConfigError(f"trainer: {error}") from None
    on = trainer.strategy.root_device.type
    if config.model.dtype == "float16" and on == "cpu" and str(trainer.precision).endswith("mixed"):
        raise ConfigError(
            f"model.dtype: float16 weights do not go with trainer.precision {trainer.precision} on a CPU; set "
            "model.dtype=bfloat16"
        )
    set_timeout(trainer.strategy, timedelta(seconds=config.run.timeout))
    if alternates:
        find_unused_parameters(trainer.strategy)
    return trainer
