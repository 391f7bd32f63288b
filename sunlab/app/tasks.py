"""What a run trains: a task builds the LightningModule from the configuration and the pretrained model."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from registry import Registry
from sunlab.app.compose import build_bases, build_sampler, component
from sunlab.backbones.base import BaseModel
from sunlab.config.schema import Config
from sunlab.errors import ConfigError
from sunlab.export import begin_with
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.autoencoder import AutoencoderModule
from sunlab.modules.base import Module
from sunlab.modules.optimization import Optimization
from sunlab.modules.student import StudentModule
from sunlab.modules.teacher import TeacherModule


class Task(ABC):
    """What a run trains. Its parameters are configuration: `task: {name: mine, width: 64}`."""

    counts_nfe: bool = False
    """Whether its module counts network evaluations (`module.nfe`), so that `budget.nfe` can end the training."""

    evaluated: bool = False
    """Whether a sweep evaluates what it trains, unless the sweep's file says what to do."""

    over_bases: bool = False
    """Whether it trains over `model.bases`."""

    trains_network: bool = True
    """Whether a step keeps activations of the denoising network, which it or an adapter over it is trained in."""

    def problems(self, config: Config) -> Iterator[tuple[str, str]]:
        """(key, message) of what the configuration lacks for this task. Called before anything is loaded."""
        if config.budget.nfe is not None and not self.counts_nfe:
            yield "budget.nfe", "this task counts no network evaluations; give budget.seconds"
        if config.model.bases and not self.over_bases:
            yield "model.bases", "only the task 'adapter' trains over several bases; remove it"

    @abstractmethod
    def build(self, config: Config, base: BaseModel) -> Module:
        """The module. Raises `ConfigError` for parts that do not fit each other.

        Args:
            config: checked.
            base: the pretrained model, all parts of it; the module freezes what it does not train.
        """


TASKS: Registry[Task] = Registry("task", base=Task, entry_points="sunlab.tasks", components=("sunlab.lab.tasks",))


def optimization(config: Config) -> Optimization:
    return Optimization(**asdict(config.optimizer))


@TASKS.register("teacher")
class TeacherTask(Task):
    """Train or fine-tune the pretrained model itself, or a style LoRA over it (`model.lora`)."""

    def build(self, config: Config, base: BaseModel) -> Module:
        lora = None if config.model.lora is None else component("adapters", config.model.lora)
        if lora is not None and lora.always is None:
            raise ConfigError(f"model.lora: {lora.spec['name']!r} is no LoRA; give {{name: lora, rank: 8}}")
        return TeacherModule(
            base,
            weighting=component("weightings", config.weighting),
            optimization=optimization(config),
            train_text=config.model.train_text and lora is None,
            lora=lora,
        )


class Distillation(Task):
    """What the tasks share that distil the guided pretrained model."""

    counts_nfe = evaluated = True

    def problems(self, config: Config) -> Iterator[tuple[str, str]]:
        yield from super().problems(config)
        if config.teacher.steps % config.student.steps:
            yield "teacher.steps", f"{config.teacher.steps} is no multiple of student.steps = {config.student.steps}"
        for key, shift in (("teacher.shift", config.teacher.shift), ("student.shift", config.student.shift)):
            if shift <= 0:
                yield key, f"{shift:g} is no shift; give a number above 0, 1 for even times"

    def parts(self, config: Config, base: BaseModel) -> dict[str, Any]:
        """The arguments of `DistillationModule`."""
        return {
            "loss": component("losses", config.loss),
            "distance": component("distances", config.distance),
            "weighting": component("weightings", config.weighting),
            "teacher": build_sampler(config.teacher, base),
            "student": build_sampler(config.student, base),
            "guidance": (config.teacher.guidance[0], config.teacher.guidance[-1]),
            "optimization": optimization(config),
        }


@TASKS.register("adapter")
class AdapterTask(Distillation):
    """Train an adapter over the frozen pretrained model, or over several (`model.bases`).

    Args:
        start: file of an adapter of the same kind and switches, whose weights the training begins with; null: untrained.
    """

    over_bases = True

    def __init__(self, *, start: str | None = None):
        self.start = start

    def problems(self, config: Config) -> Iterator[tuple[str, str]]:
        yield from super().problems(config)
        if config.adapter is None:
            yield "adapter", "task 'adapter' needs one: name it, or set task: student for a full copy of the network"
        strategy = str(config.trainer.get("strategy", ""))
        if config.model.bases and any(word in strategy for word in ("fsdp", "deepspeed", "model_parallel")):
            yield "trainer.strategy", f"model.bases needs whole weights on each rank, {strategy} shards them; use ddp"

    def build(self, config: Config, base: BaseModel) -> Module:
        bases = build_bases(config, base)
        adapter = component("adapters", config.adapter)
        module = AdapterModule(base, adapter, bases=bases, **self.parts(config, base))
        if self.start is not None:
            module.after = begin_with(self.start, adapter, base.backbone).get("training")
        return module


@TASKS.register("student")
class StudentTask(Distillation):
    """Train a student with weights of its own: a LoRA (`adapter`), or with `adapter: null` a full copy of the network."""

    def build(self, config: Config, base: BaseModel) -> Module:
        lora = None if config.adapter is None else component("adapters", config.adapter)
        return StudentModule(base, lora=lora, **self.parts(config, base))


@TASKS.register("autoencoder")
class AutoencoderTask(Task):
    """Train the autoencoder of the pretrained model.

    Args:
        kl_weight: of the KL divergence to the standard normal.
        latent_std: deviation of the scaled latents, folded into the weights at export.
        crop: side in pixels of what the first part of the training sees; 0: whole pictures.
        crop_share: how large that part is.
    """

    trains_network = False

    def __init__(self, *, kl_weight: float = 1e-6, latent_std: float = 0.5, crop: int = 0, crop_share: float = 0.6):
        sizes: dict[str, Any] = {"crop": crop, "crop_share": crop_share}
        self.options = {"kl_weight": kl_weight, "latent_std": latent_std, **sizes}

    def problems(self, config: Config) -> Iterator[tuple[str, str]]:
        yield from super().problems(config)
        if config.budget.seconds is not None:
            yield "budget.seconds", "the autoencoder's crops are a share of trainer.max_steps; give that instead"

    def build(self, config: Config, base: BaseModel) -> Module:
        return AutoencoderModule(base, optimization=optimization(config), **self.options)
