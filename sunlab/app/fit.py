"""Train what a configuration says, and export it."""

from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lightning.pytorch import Trainer, seed_everything

from registry import load_plugins
from sunlab.app.compose import build_base, build_data, build_module, component, given_source, settle
from sunlab.app.trainer import build_trainer, training_device
from sunlab.backbones.locate import require_given
from sunlab.callbacks.alive import explained
from sunlab.callbacks.base import averaged
from sunlab.callbacks.ledger import LedgerKeeper
from sunlab.callbacks.spending import Spending
from sunlab.callbacks.stop import Stop
from sunlab.checkpoint import resume_path
from sunlab.config.load import LoadedConfig
from sunlab.data.base import Source
from sunlab.distributed.ranks import require_ranks
from sunlab.distributed.signals import Signals
from sunlab.errors import Preempted
from sunlab.files import hold, write_text
from sunlab.loggers.base import loggers_of
from sunlab.memory import keep_freed_memory
from sunlab.modules.base import Module


def fit(
    loaded: LoadedConfig,
    *,
    resume: str | None = None,
    time_limit: float | None = None,
    signals: Signals | None = None,
) -> Mapping[str, Any]:
    """Train what the configuration says, and export it.

    Args:
        resume: `last`, `auto` (the last checkpoint if there is one, else from the start), or a checkpoint's path.
        time_limit: seconds after which the run saves and raises `Preempted`.
        signals: those that the caller listens to already; None: listened to from here on.

    Returns:
        The run's folder (None after a trial with fast_dev_run), the exported files, the trained module, the trainer, and
        what the training cost.

    Raises:
        ConfigError: other ranks were started than the configuration asks for, or another process trains in the folder.
        Preempted: stopped by the time limit, or by SIGUSR1 or SIGTERM to any rank; resume with `--resume last`.
    """
    require_ranks(loaded.config.trainer)
    with Signals() if signals is None else nullcontext(signals) as heard:
        return _fit(loaded, resume, Stop(heard, time_limit))


def _fit(loaded: LoadedConfig, resume: str | None, stop: Stop) -> Mapping[str, Any]:
    keep_freed_memory()
    config = loaded.config
    load_plugins(config.plugins)
    folder = Path(config.run.dir) / config.run.name
    checkpoint = resume_path(resume, folder)
    loaded = settle(loaded, training_device(config.trainer), checkpoint=checkpoint, training=True)
    config = loaded.config
    if not config.trainer.get("fast_dev_run"):
        return _train(loaded, folder, checkpoint, resume, stop)
    with TemporaryDirectory(prefix="sunlab-") as scratch:
        return {**_train(loaded, Path(scratch), checkpoint, resume, stop), "folder": None}


def _train(loaded: LoadedConfig, folder: Path, checkpoint: Path | None, resume: str | None, stop: Stop) -> dict[str, Any]:
    """Train in `folder`. With fast_dev_run, Lightning's trial of a few steps, nothing is exported."""
    config = loaded.config
    seed_everything(config.seed, workers=True, verbose=False)
    require_given(config.model.base)
    source = given_source(config)  # before the weights: wrong data are reported within seconds
    base = build_base(config)
    module = build_module(config, base)
    spending = Spending(config.budget.nfe, config.budget.seconds)
    ledger = [LedgerKeeper(folder)] if config.run.ledger else []
    callbacks = [component("callbacks", request) for request in config.callbacks]
    resumed = checkpoint is not None
    trainer = build_trainer(
        config, folder, spending, callbacks, [stop, *ledger], resumed=resumed, alternates=module.alternates
    )
    data = build_data(config, base, accumulate=trainer.accumulate_grad_batches, source=source)
    data.report_in(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A job that is requeued may meet the locks of a node that died, until its file system lets go of them.
    patience = 120 if resume == "auto" else 5
    alone = hold(folder, "training.lock", patience=patience) if trainer.is_global_zero else nullcontext()
    with alone, explained(trainer):
        if trainer.is_global_zero:
            write_text(folder / "config.yaml", loaded.to_yaml())
            for logger in loggers_of(trainer):
                logger.log_config(loaded.saved)
        try:
            trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        finally:
            for logger in loggers_of(trainer):
                logger.close()
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    if stop.reason is not None:
        raise Preempted(f"stopped by {stop.reason} at step {trainer.global_step}; go on with --resume last")
    exported = trainer.is_global_zero and not config.trainer.get("fast_dev_run")
    files = export(trainer, module, folder) if exported else []
    return {
        "folder": folder,
        "module": module,
        "files": files,
        "trainer": trainer,
        "cost": cost(spending, trainer, module, data.source),
    }


def cost(spending: Spending, trainer: Trainer, module: Module, source: Source) -> dict[str, float]:
    """Steps, network evaluations by kind (on the first rank: of all), their equivalents and seconds, over all attempts; and
    those that stored samples cost before, which are in none of the others."""
    passes = vars(module.nfe) if hasattr(module, "nfe") else {}
    stored = {"stored": source.stored_nfe} if source.stored_nfe else {}
    return {"steps": trainer.global_step, **passes, "equivalents": spending.used, "seconds": spending.elapsed, **stored}


def export(trainer: Trainer, module: Module, folder: Path) -> list[Path]:
    """Export the averaged weights where there is an average, else the trained ones."""
    with averaged(trainer, module):
        return module.export(folder / "export")
