"""The composition root: from a checked configuration to runtime objects. The only caller of `.build`."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything

from registry import load_plugins
from sunlab.adapters.lora import LoRA
from sunlab.build_trainer import build_trainer
from sunlab.callbacks.alive import explained
from sunlab.callbacks.ema import EMA
from sunlab.callbacks.ledger import LedgerKeeper
from sunlab.callbacks.spending import Spending
from sunlab.callbacks.stop import Stop
from sunlab.checkpoint import resume_path
from sunlab.config.load import LoadedConfig
from sunlab.config.schema import Config, Sampler
from sunlab.data.bank import Trajectories
from sunlab.data.base import Pool, Source
from sunlab.data.cache import cache_tag, cached
from sunlab.data.datamodule import DataModule
from sunlab.data.latents import Latents
from sunlab.data.shards import Shards
from sunlab.diffusion.timesteps import grid
from sunlab.errors import ConfigError, Preempted
from sunlab.files import hold, write_text
from sunlab.memory import keep_freed_memory
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.autoencoder import AutoencoderModule
from sunlab.modules.base import Module
from sunlab.modules.optimization import Optimization
from sunlab.modules.student import StudentModule
from sunlab.modules.teacher import TeacherModule
from sunlab.modules.text_encoder import TextEncoderModule
from sunlab.pipelines.base import BaseModel, load_base, quiet
from sunlab.pipelines.locate import is_hub_id
from sunlab.pipelines.trajectories import BankMaker
from sunlab.ranks import Ranks, launched, require_ranks
from sunlab.registries import registry_of
from sunlab.signals import Signals
from sunlab.solvers import Sampling

PATIENCE = 0.9  # of run.timeout, for a loader worker: its own rank should tell before the others' patience is over


def plug(kind: str, request: Any, *runtime: Any) -> Any:
    return registry_of(kind).build(request, *runtime)


def build_base(config: Config) -> BaseModel:
    """The base model. Raises `ConfigError` for a folder that is none."""
    return load_base(config.model.base, fresh=config.model.fresh, **base_options(config))


def base_options(config: Config) -> dict[str, Any]:
    """What `load_base` is told besides the base itself."""
    model = config.model
    quiet(online=is_hub_id(model.base))
    return {
        "backbone": model.backbone,
        "dtype": getattr(torch, model.dtype),
        "family": model.family,
        "prediction_type": model.prediction_type,
        "zero_terminal_snr": model.zero_terminal_snr,
    }


def encoders_hash(base: BaseModel) -> str:
    """SHA-256 of what makes latents and embeddings of pictures and prompts."""
    return base.identity("vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")


def build_source(config: Config, base: BaseModel, source: Source | None = None) -> Source:
    """The data source, given or built; its latents made once, where `data.cache` asks for it."""
    source = plug("sources", config.data.source) if source is None else source  # one without samples is false
    if isinstance(source, Trajectories):
        source.require_teacher(base.fingerprint())
    if isinstance(source, Latents):
        source.require_encoder(encoders_hash(base))
    if config.data.cache is not None and isinstance(source, Shards):
        tag = cache_tag(base.identity("vae")[:16], source)
        return cached(source, base.autoencoder.encode, config.data.cache, tag)
    return source


def build_data(config: Config, base: BaseModel, *, accumulate: int = 1, source: Source | None = None) -> DataModule:
    data = config.data
    return DataModule(
        build_source(config, base, source),
        plug("negatives", data.negatives),
        batch_size=data.batch_size,
        streams=data.streams,
        workers=data.workers,
        seed=config.seed,
        caption_dropout=data.caption_dropout,
        accumulate=accumulate,
        timeout=PATIENCE * config.run.timeout,
        dead_after=config.run.dead_after,
    )


def build_sampling(sampler: Sampler, base: BaseModel) -> Sampling:
    schedule = base.backbone.schedule
    times = grid(sampler.steps, spacing=sampler.spacing, train_steps=schedule.steps)
    return Sampling(plug("solvers", sampler.solver, schedule), times)


def build_module(config: Config, base: BaseModel) -> Module:
    """The LightningModule of the task."""
    optimization = Optimization(**asdict(config.optimizer))
    if config.task == "autoencoder":
        return AutoencoderModule(base, optimization=optimization, **asdict(config.autoencoder))
    if config.task == "text_encoder":
        return TextEncoderModule(base, optimization=optimization)
    weighting = plug("weightings", config.weighting)
    if config.task == "teacher":
        lora = None if config.model.lora is None else plug("adapters", config.model.lora)
        if lora is not None and not isinstance(lora, LoRA):
            raise ConfigError(f"model.lora: {lora.spec['name']!r} is no LoRA; give {{name: lora, rank: 8}}")
        text = config.model.train_text and lora is None
        return TeacherModule(base, weighting=weighting, optimization=optimization, train_text=text, lora=lora)
    options = {
        "distance": plug("distances", config.distance),
        "weighting": weighting,
        "teacher": build_sampling(config.teacher, base),
        "student": build_sampling(config.student, base),
        "guidance": (config.teacher.guidance[0], config.teacher.guidance[-1]),
        "optimization": optimization,
    }
    loss = plug("losses", config.loss)
    adapter = None if config.adapter is None else plug("adapters", config.adapter)
    if config.task == "student":
        return StudentModule(base, loss, lora=adapter, **options)
    assert adapter is not None
    return AdapterModule(base, adapter, loss, **options)


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
        The run's folder, the exported files, the trained module, the trainer, and what the training cost.

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
    seed_everything(config.seed, workers=True, verbose=False)
    source = plug("sources", config.data.source)  # before the weights: data that are wrong are told within seconds
    base = build_base(config)
    module = build_module(config, base)
    ledger = [LedgerKeeper(folder)] if config.run.ledger else []
    callbacks = [plug("callbacks", request) for request in config.callbacks]
    trainer = build_trainer(config, folder, callbacks, [stop, *ledger], resumed=checkpoint is not None)
    data = build_data(config, base, accumulate=trainer.accumulate_grad_batches, source=source)
    if isinstance(data.source, Shards):
        data.source.quarantine_in(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # A job that is requeued may meet the locks of a node that died, until its file system lets go of them.
    patience = 120 if resume == "auto" else 5
    alone = hold(folder, "training.lock", patience=patience) if trainer.is_global_zero else nullcontext()
    with alone, explained(trainer):
        if trainer.is_global_zero:
            write_text(folder / "config.yaml", loaded.to_yaml())
        trainer.fit(module, datamodule=data, ckpt_path=checkpoint, weights_only=True)
        trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    if stop.reason is not None:
        raise Preempted(f"stopped by {stop.reason} at step {trainer.global_step}; go on with --resume last")
    files = export(trainer, module, folder) if trainer.is_global_zero else []
    return {
        "folder": folder,
        "module": module,
        "files": files,
        "trainer": trainer,
        "cost": cost(trainer, module, data.source),
    }


def cost(trainer: Trainer, module: LightningModule, source: Source) -> dict[str, float]:
    """Steps, U-Net passes by kind (on the first rank: of all), pass-equivalents and seconds, over all attempts; and the
    passes that a bank of trajectories cost before, which are in none of the others."""
    (spending,) = [c for c in trainer.callbacks if isinstance(c, Spending)]  # type: ignore[attr-defined]
    passes = vars(module.passes) if hasattr(module, "passes") else {}
    stored = {"stored": source.passes} if isinstance(source, Trajectories) else {}
    return {"steps": trainer.global_step, **passes, "equivalents": spending.used, "seconds": spending.elapsed, **stored}


def export(trainer: Trainer, module: LightningModule, folder: Path) -> list[Path]:
    """Export the averaged weights where there is an average, else the trained ones."""
    averages = [c for c in trainer.callbacks if isinstance(c, EMA)]  # type: ignore[attr-defined]
    for average in averages:
        average.swap(module)
    try:
        return module.export(folder / "export")  # type: ignore[operator]
    finally:
        for average in averages:
            average.swap(module)


def own_device(ranks: Ranks | None) -> str:
    """A GPU of its own for each rank of a machine, where there are any."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{(0 if ranks is None else ranks.local_rank) % torch.cuda.device_count()}"


def make_bank(loaded: LoadedConfig, *, out: str | Path, count: int, shard_size: int = 256) -> list[Path]:
    """Store `count` of the teacher's guided trajectories under `out`, in shards. Shards that are there are kept;
    under torchrun or srun each rank makes its share.

    Raises:
        ConfigError: a source without captions, or a teacher's grid without the student's times.
    """
    ranks = launched()
    share = slice(None) if ranks is None else slice(ranks.rank, None, ranks.count)
    keep_freed_memory()
    config = loaded.config
    load_plugins(config.plugins)
    base = build_base(config).freeze().to(own_device(ranks))
    source: Source = plug("sources", config.data.source)
    prompts = source.prompts(1_000_000)
    maker = BankMaker(
        base,
        build_sampling(config.teacher, base),
        build_sampling(config.student, base).times,
        prompts,
        plug("negatives", config.data.negatives),
        Pool(prompts, source.keywords(4096)),
        guidance=(config.teacher.guidance[0], config.teacher.guidance[-1]),
        describe={
            "solver": registry_of("solvers").check(config.teacher.solver).name,
            "spacing": config.teacher.spacing,
        },
        seed=config.seed,
    )
    starts = list(range(0, count, shard_size))[share]
    return [
        maker.shard(Path(out) / f"bank-{start // shard_size:05d}.safetensors", start, min(start + shard_size, count))
        for start in starts
    ]
