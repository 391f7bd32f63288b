"""From a checked configuration to runtime objects: what several use cases build alike."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sunlab.backbones.autoencoder import Sliced
from sunlab.backbones.base import BaseModel
from sunlab.backbones.locate import is_hub_id
from sunlab.backbones.pretrained import load_base, outline_base, quiet
from sunlab.config.auto import AUTO, automatic, recorded, resolved
from sunlab.config.load import LoadedConfig
from sunlab.config.schema import Config
from sunlab.config.schema import Sampler as SamplerConfig
from sunlab.data.base import Source
from sunlab.data.by_base import ByBase
from sunlab.data.latents import cache_tag, cached
from sunlab.diffusion.grid import grid
from sunlab.distributed.ranks import Ranks, first_rank
from sunlab.errors import ConfigError
from sunlab.precision import dtype_on, native, warn_if_slow
from sunlab.registries import registry_of
from sunlab.solvers import Sampler

if TYPE_CHECKING:  # Lightning takes seconds to import; `sunlab demo` needs none
    from sunlab.data.datamodule import DataModule
    from sunlab.modules.base import Module
    from sunlab.modules.bases import Bases

PATIENCE = 0.9  # of run.timeout, for a loader worker: its own rank should tell before the others' patience is over


def component(kind: str, request: Any, *runtime: Any) -> Any:
    """The component of a kind that a checked configuration names. Raises `RegistryError` for parameters out of range.

    Args:
        kind: as in `sunlab.registries.KINDS`.
        request: its name, or a mapping with `name` and parameters.
        runtime: the runtime objects that components of the kind are built with.
    """
    return registry_of(kind).build(request, *runtime)


def build_base(config: Config) -> BaseModel:
    """The base model. Raises `ConfigError` for a folder that is none."""
    base = load_base(config.model.base, fresh=config.model.fresh, **base_options(config))
    rows = config.model.autoencoder_batch
    return base if rows is None else replace(base, autoencoder=Sliced(base.autoencoder, rows))


def base_options(config: Config) -> dict[str, Any]:
    """What `load_base` is given besides the base itself."""
    model = config.model
    quiet(online=is_hub_id(model.base))
    return {
        "backbone": model.backbone,
        "dtype": dtype_on(model.dtype, own_device()),
        "family": model.family,
        "prediction_type": model.prediction_type,
        "zero_terminal_snr": model.zero_terminal_snr,
    }


def encoders_hash(base: BaseModel) -> str:
    """SHA-256 of what makes latents and embeddings of pictures and prompts."""
    return base.encoders_identity()


def given_source(config: Config) -> Source:
    """The configured data source. Raises `ConfigError` where there is none."""
    if config.data.source is None:
        raise ConfigError(
            "data.source is not given: name one of `sunlab list sources`, {name: shards, urls: [...]} for instance"
        )
    return component("sources", config.data.source)


def build_source(config: Config, base: BaseModel, source: Source | None = None) -> Source:
    """The data source, given or built; its latents made once, where `data.cache` asks for it."""
    source = given_source(config) if source is None else source  # one without samples is false
    source.require_origin(teacher=base.fingerprint, encoders=lambda: encoders_hash(base))
    source = _by_base(config, base, source)
    if config.data.cache is not None and source.holds_images:
        tag = cache_tag(base.encoders_identity(text=False)[:16], source)
        return cached(source, base.autoencoder.encode, config.data.cache, tag)
    return source


def build_bases(config: Config, base: BaseModel) -> "Bases | None":
    """The networks of `model.bases`, from shapes alone over a base on the meta device; None: there are none.

    Raises:
        ConfigError: one that is no fine-tune of the base.
    """
    if not config.model.bases:
        return None
    from sunlab.modules.bases import Bases, Member

    load = outline_base if base.device.type == "meta" else load_base
    members = [
        Member(
            f"model.bases.{number}",
            None if given.base is None else load(given.base, **base_options(config)).freeze(),
            given.strength,
            given.rank,
            given.weight,
        )
        for number, given in enumerate(config.model.bases)
    ]
    return Bases(base, members, seed=config.seed)


def _by_base(config: Config, base: BaseModel, source: Source) -> Source:
    """A source for each of `model.bases`, where any has its own; else the one.

    Raises:
        ConfigError: stored trajectories for a perturbed network, whose trajectories they cannot be, or unequal weights.
        DataError: trajectories of another network.
    """
    given, sources = config.model.bases, []
    for number, one in enumerate(given):
        own = source if one.source is None else component("sources", one.source)
        if own.stored_nfe and one.strength:
            raise ConfigError(
                f"model.bases.{number}.strength: a perturbed network has no stored trajectories; give samples with pictures "
                "or prompts and a loss with a live teacher (loss.states: data or student)"
            )
        if one.base is not None and own.stored_nfe:
            teacher = load_base(one.base, **base_options(config))
            own.require_origin(teacher=teacher.fingerprint, encoders=partial(encoders_hash, teacher))
        elif one.source is not None:
            own.require_origin(teacher=base.fingerprint, encoders=lambda: encoders_hash(base))
        sources.append(own)
    if all(one.source is None for one in given):
        return source
    if len({one.weight for one in given}) > 1:
        raise ConfigError("model.bases: with sources of their own, bases are drawn by their number of samples; omit weight")
    return ByBase(sources)


def build_data(config: Config, base: BaseModel, *, accumulate: int = 1, source: Source | None = None) -> "DataModule":
    from sunlab.data.datamodule import DataModule

    data = config.data
    return DataModule(
        build_source(config, base, source),
        component("negatives", data.negatives),
        batch_size=data.batch_size,
        streams=data.streams,
        workers=data.workers,
        seed=config.seed,
        caption_dropout=data.caption_dropout,
        caption_noise=data.caption_noise,
        epoch_samples=data.epoch_samples,
        accumulate=accumulate,
        timeout=PATIENCE * config.run.timeout,
        dead_after=config.run.dead_after,
    )


def build_sampler(sampler: SamplerConfig, base: BaseModel) -> Sampler:
    path = base.backbone.path
    times = grid(sampler.steps, spacing=sampler.spacing, shift=sampler.shift, path=path)
    return Sampler(component("solvers", sampler.solver, path), times, sampler.shift)


def build_module(config: Config, base: BaseModel) -> "Module":
    """The LightningModule of `config.task`."""
    return component("tasks", config.task).build(config, base)


def settle(loaded: LoadedConfig, device: str, *, checkpoint: Path | None = None, training: bool = False) -> LoadedConfig:
    """The configuration with `trainer.precision` and `model.dtype` decided, where they are `auto`.

    Prints one line for each: what was decided and why. Warns where bfloat16 is slow on `device`.

    Args:
        device: where the run computes.
        checkpoint: of the run that goes on, which keeps its own; None: a new run.
        training: whether `trainer.precision` is used; drawing has `model.dtype` alone.
    """
    found, kept = native(device), {}
    if checkpoint is not None:
        kept = recorded(loaded.saved, checkpoint.parent.parent / "config.yaml")
    values: dict[tuple[str, str], str] = {}
    for section, key in automatic(loaded.saved):
        if key == "precision" and not training:
            continue
        own = kept.get(section, {}).get(key, AUTO)
        values[section, key] = own if own != AUTO else found.precision if key == "precision" else found.dtype
        reason = found.reason if own == AUTO else "as the run began"
        if first_rank():
            print(f"{section}.{key}: auto is {values[section, key]} ({reason})", flush=True)
    loaded = resolved(loaded, values)
    if training:
        warn_if_slow(str(loaded.config.trainer.get("precision", "")), device, key="trainer.precision")
    warn_if_slow(loaded.config.model.dtype, device, key="model.dtype")
    return loaded


def own_device(ranks: Ranks | None = None) -> str:
    """A GPU of its own for each rank of a machine, where there are any."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{(0 if ranks is None else ranks.local_rank) % torch.cuda.device_count()}"
