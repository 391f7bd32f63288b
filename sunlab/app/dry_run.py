"""`sunlab fit --dry-run`: everything built from shapes alone, and what the run would need. No weights or data are read."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from registry import load_plugins
from sunlab.app.compose import base_options, build_module, component, settle
from sunlab.app.tasks import Task
from sunlab.app.trainer import training_device
from sunlab.backbones.base import Backbone, BaseModel
from sunlab.backbones.pretrained import outline_base
from sunlab.config.load import LoadedConfig
from sunlab.config.schema import Config
from sunlab.diffusion.guidance import NetworkEvaluations, guided
from sunlab.diffusion.prediction import Prediction
from sunlab.draws import Draws
from sunlab.errors import DataError
from sunlab.losses import BoundSampler
from sunlab.modules.allocated import peak_of_step, recompute_alike
from sunlab.modules.base import Module
from sunlab.modules.footprint import Footprint, footprint
from sunlab.modules.frozen import FrozenNetwork
from sunlab.registries import registry_of
from sunlab.types import Batch, Conditioning, Samples, Trajectory

SAMPLES = 64  # over which NFE are averaged, where they depend on draws
HALF = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16, "bf16-true": torch.bfloat16, "16-true": torch.float16}


@dataclass(frozen=True)
class Plan:
    """What a run would need.

    Attributes:
        base: where its shapes are from.
        parameters: part -> how many; `trained` of all of them are.
        memory: of a rank; None for a task that does not train the U-Net or over it.
        steps, batch, ranks, micro: optimizer steps, samples in one, ranks, samples of a rank at a time.
        nfe: network evaluations of `SAMPLES` samples; None for a task that does not count them.
    """

    base: str
    parameters: dict[str, int]
    trained: int
    memory: Footprint | None
    steps: int
    batch: int
    ranks: int
    micro: int
    nfe: NetworkEvaluations | None

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"base         {self.base}"
        yield "parameters   " + ", ".join(f"{name} {count:,}" for name, count in self.parameters.items())
        yield f"trained      {self.trained:,}"
        if self.memory is not None:
            parts = {name: value for name, value in vars(self.memory).items() if value}
            listed = ", ".join(f"{name} {value / 1e9:.2f}" for name, value in parts.items())
            yield f"memory       about {self.memory.total / 1e9:.1f} GB a rank at {self.micro} samples a time: {listed}"
        yield f"steps        {self.steps:,} of {self.batch} samples, on {self.ranks} rank{'s' * (self.ranks > 1)}"
        if self.nfe is not None:
            one, samples = self.nfe, SAMPLES
            teacher, student, backward = one.teacher / samples, one.student / samples, one.backward / samples
            whole = one.equivalents / samples * self.batch
            critic = f", {one.critic / samples:g} of the loss's networks" if one.critic else ""
            listed = f"{teacher:g} of the teacher, {student:g} of the student{critic}, {backward:g} of them backward"
            yield f"NFE          a sample: {listed}"
            run = f"{whole * self.steps:,.0f}"
            yield f"             a step: {whole:,.0f} evaluation equivalents (a backward pass counts as two); the run: {run}"


def plan(loaded: LoadedConfig) -> Plan:
    """Build what the configuration says on the meta device.

    Raises:
        ConfigError: a base that is not there without `model.family`, or parts that do not fit each other.
    """
    loaded = settle(loaded, training_device(loaded.config.trainer), training=True)
    config = loaded.config
    load_plugins(config.plugins)
    options = base_options(config)
    base = outline_base(config.model.base, **options)
    module = build_module(config, base).to("meta")
    for request in config.callbacks:
        component("callbacks", request)
    component("negatives", config.data.negatives)
    learnt = module.trainable()
    named = {"backbone": base.backbone, "autoencoder": base.autoencoder, "text": base.text}
    ranks, accumulate = ranks_of(config), config.trainer.get("accumulate_grad_batches", 1)
    micro = max(config.data.batch_size // (ranks * accumulate), 1)
    task: Task = component("tasks", config.task)
    nfe = count_nfe(config, module) if task.counts_nfe else None
    trained = sum(p.numel() for p in learnt.values())
    turns, bases = getattr(module, "turns", None), getattr(module, "bases", None)
    memory = footprint(module, learnt.values(), module.optimization, [] if turns is None else turns.parameters())
    if bases is not None:  # at most: a fine-tune is counted as if all its weights differed from the base's
        named["other bases"] = bases
        memory = replace(memory, frozen=memory.frozen + bases.perturbed_bytes())
    if task.trains_network:
        memory = replace(memory, step=step_bytes(config, module, base, micro))
    return Plan(
        base=f"{config.model.base}: {base.backbone.prediction_type}, latents {list(base.backbone.sample_shape)}, "
        f"shapes from {base.folder}",
        parameters={k: sum(p.numel() for n, p in v.named_parameters() if "lora_" not in n) for k, v in named.items()},
        trained=trained,
        memory=memory if memory.step else None,
        steps=steps_of(config, nfe),
        batch=config.data.batch_size,
        ranks=ranks,
        micro=micro,
        nfe=nfe,
    )


def steps_of(config: Config, nfe: NetworkEvaluations | None) -> int:
    """Optimizer steps: those of the trainer, or as many as `budget.nfe` allows."""
    if config.budget.nfe and nfe is not None:
        return int(config.budget.nfe // (nfe.equivalents / SAMPLES * config.data.batch_size))
    return int(config.trainer.get("max_steps", 1000))


def ranks_of(config: Config) -> int:
    """Those that the configuration asks for; `auto` counts as one."""
    devices, nodes = config.trainer.get("devices", 1), config.trainer.get("num_nodes", 1)
    each = len(devices) if isinstance(devices, list) else devices if isinstance(devices, int) and devices > 0 else 1
    return int(each) * int(nodes)


def step_bytes(config: Config, module: Module, base: BaseModel, micro: int) -> int:
    """What a forward and backward pass of `micro` samples takes at its peak, in the types that it is computed in. Of a loss
    that owns networks, the larger of both turns."""
    precision = str(config.trainer.get("precision", ""))
    half = HALF.get(precision)
    if precision.endswith("true") and half is not None:
        module.to(half)
    known = [*module.parameters(), *module.buffers(), *base.autoencoder.parameters()]
    for network in (base.backbone, getattr(module, "copy", None)):
        if network is not None:
            recompute_alike(network, half)
    batch = blank_batch(module, base.backbone, micro)
    trained: Any = module
    if not hasattr(trained, "student_step"):
        return peak_of_step(lambda: denoised(base.backbone, batch), known, half)
    trained.note = lambda *_, **__: None  # it runs in no trainer
    blank = ("",) * micro
    samples = Samples(blank, blank, blank, (0,) * micro)
    if not module.alternates:
        return peak_of_step(lambda: trained.student_step(samples, batch)["loss"], known, half)
    peaks = []
    for number in (0, trained.turns.cycle - 1):
        step = trained.critic_step if trained.turns.take(number) == "critic" else trained.student_step

        def loss(step: Any = step) -> Tensor:
            return step(samples, batch)["loss"]

        peaks.append(peak_of_step(loss, known, half))
        module.zero_grad()
    return max(peaks)


def denoised(backbone: Backbone, batch: Batch) -> Tensor:
    """The loss of a network that learns to denoise."""
    t = torch.empty(len(batch), device="meta")
    assert batch.latents is not None
    return backbone.predict(batch.latents, t, batch.positive).square().mean()


def blank_batch(module: Module, backbone: Backbone, micro: int) -> Batch:
    """A batch on the meta device with all that a loss may want."""
    shape = backbone.sample_shape
    with torch.device("meta"):
        given, guidance = backbone.blank(micro), torch.empty(micro)
        latents = torch.empty(micro, *shape)
    sampler, stored = getattr(module, "student", None), None
    if sampler is not None:
        times = sampler.times.to("meta")
        stored = Trajectory(latents[:, None].expand(-1, len(times), *shape), times, sampler.grid)
    return Batch(
        positive=given,
        negative=given,
        guidance=guidance,
        draws=Draws(range(micro), device="meta"),
        shape=shape,
        latents=latents,
        trajectory=stored,
    )


class Blank:
    """A network that predicts zeros, and has hidden states of zeros."""

    def __init__(self, backbone: Backbone):
        self.backbone = backbone

    def __call__(self, x: Tensor, t: Tensor, conditioning: Any = None, state: Any = None) -> Prediction:
        return Prediction(torch.zeros_like(x), "v_prediction", x, *self.backbone.path.at(t, x))

    def features(self, x: Tensor, t: Tensor, conditioning: Any = None) -> Tensor:
        return torch.zeros(len(x), 1, self.backbone.middle()[1])


def stores_predictions(config: Config) -> bool:
    """Whether the source is a trajectory dataset with predictions. One that is not there yet is taken to have them."""
    source = config.data.source
    if source is None or registry_of("sources").check(source).name != "trajectories":
        return False
    try:
        return bool(component("sources", source).holds_guided)
    except DataError:
        return True


def count_nfe(config: Config, module: Any) -> NetworkEvaluations:
    """NFE of `SAMPLES` samples: the loss itself is evaluated, with a network that only counts. Of a loss that owns
    networks, the mean over its turns and the student's."""
    nfe, seeds = NetworkEvaluations(), range(SAMPLES)
    draws, network, loss = Draws(seeds), Blank(module.base.backbone), component("losses", config.loss)
    loss.prepare(module.base.backbone)  # on the meta device: shapes alone
    critics = loss.networks()
    shape = module.base.backbone.sample_shape if critics else (1, 2, 2)
    times = module.student.times
    blank, states = Conditioning(torch.zeros(SAMPLES, 1, 1)), draws.normal("states", (len(times), *shape))
    batch = Batch(
        positive=blank,
        negative=blank,
        guidance=draws.uniform("guidance", *module.guidance),
        draws=draws,
        shape=shape,
        latents=draws.normal("latents", shape),
        trajectory=Trajectory(states, times, guided=states[:, :-1] if stores_predictions(config) else None),
    )

    def student(x: Tensor, t: Tensor) -> Prediction:
        nfe.student += len(x)
        nfe.backward += len(x) if torch.is_grad_enabled() else 0
        return network(x, t)

    teacher = guided(network, blank, blank, batch.guidance, one_pass=module.guidance == (1.0, 1.0), nfe=nfe)
    bound = (
        BoundSampler(student, module.student.solver, times),
        BoundSampler(teacher, module.teacher.solver, module.teacher.times, network=FrozenNetwork(network, batch, nfe)),
    )
    loss(batch, *bound, module.distance)
    if not critics:
        return nfe
    for _ in range(loss.critic_steps):
        loss.critic_step(batch, replace(bound[0], denoise=torch.no_grad()(student)), bound[1])
    return NetworkEvaluations(*(round(count / (loss.critic_steps + 1)) for count in vars(nfe).values()))
