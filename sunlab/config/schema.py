"""The fixed sections of a configuration. Every field has a type, a default and one line of meaning.

A field of type `Component` takes a component's name or a mapping with `name` and its parameters, and is checked against the
registry named in its metadata.
"""

from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

Component = str | dict[str, Any]
Part = Literal["vae", "unet", "transformer", "text_encoder"]


def component(registry: str, default: Any) -> Any:
    """A field that holds one component of `registry`, or a list of them where the default is a list."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: deepcopy(default), metadata={"registry": registry})
    return field(default=default, metadata={"registry": registry})


@dataclass
class Run:
    """Where a run keeps its files."""

    dir: str = "runs"  # folder of all runs
    name: str = "run"  # this run's folder in it; `sunlab fit` takes the first config's name unless it is given
    checkpoint_every: int = 200  # optimizer steps between two checkpoints, each replaces the one before
    skip_limit: int = 10  # steps in a row with a loss or gradient that is not finite: skipped, and at this many the end
    dead_after: float = 36.0  # seconds without a sign of life from a rank or loader worker, after which the run ends
    timeout: float = 1800.0  # seconds that ranks wait for each other in a collective operation, and for a loader worker
    ledger: bool = True  # keep ledger.jsonl: the samples that each step trained on, committed with the checkpoint


@dataclass
class DrawnBase:
    """A network in `model.bases`."""

    base: str | None = None  # a fine-tune of model.base; null: model.base itself
    strength: float = 0.0  # |delta W| / |W| of a random low-rank perturbation of every layer, new in each step; 0: none
    rank: int = 8  # of the perturbation
    weight: float = 1.0  # how often it is drawn, relative to the others
    source: Component | None = component("sources", None)  # of its own trajectories; null: data.source


@dataclass
class Model:
    """The base model."""

    base: str = ""  # a diffusers folder, a .safetensors file, a hub id, or a packaged model; it must be given
    family: str | None = None  # of a single file: sd15, sdxl, sana_600m, ..., or a diffusers folder; null: by its tensors
    prediction_type: Literal["epsilon", "v_prediction"] | None = None  # null: as the base states
    zero_terminal_snr: bool | None = None  # rescale the schedule to end in pure noise; null: as the base states
    backbone: Component | None = component("backbones", None)  # its family, sd or sdxl, with options; null: by its files
    fresh: list[Part] = field(default_factory=list)  # parts to start at random weights
    train_text: bool = True  # task teacher: the text encoder learns too; false: it stays as it is
    bases: list[DrawnBase] = field(default_factory=list)  # task adapter: each step trains on one of them; empty: on base
    autoencoder_batch: int | None = None  # pictures that the autoencoder takes at a time; null: all of a batch
    lora: Component | None = component("adapters", None)  # task teacher: this LoRA learns a style, the network is frozen
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"  # of frozen weights; auto: bfloat16 where native


@dataclass
class Data:
    """What is trained on."""

    source: Component | None = component("sources", None)  # where samples come from; a training needs one
    batch_size: int = 32  # samples in one optimizer step, over all ranks and accumulated micro-batches
    streams: int = 8  # virtual streams dealt to ranks and workers; a multiple of ranks x workers
    workers: int = 0  # loader processes of each rank
    cache: str | None = None  # folder for latents made once by the base's autoencoder; null: encode in every step
    negatives: Component = component("negatives", "mixture")  # how negative prompts are drawn
    caption_dropout: float = 0.0  # share of prompts replaced by the empty one
    caption_noise: float = 0.0  # share of prompts replaced by the caption of another sample, as in data from the web
    epoch_samples: int | None = None  # what counts as an epoch of a source in the order "stream"; null: training is one


@dataclass
class Sampler:
    """A solver on a grid."""

    solver: Component = component("solvers", "ddim")  # the solver
    steps: int = 4  # steps from noise to the clean end
    spacing: Literal["trailing", "leading", "uniform"] = "trailing"  # of the grid
    shift: float = 1.0  # of the grid: t -> shift t / (1 + (shift - 1) t); below 1 the last steps are shorter


@dataclass
class Teacher(Sampler):
    """The frozen base with classifier-free guidance."""

    solver: Component = component("solvers", "dpmpp_2m")  # the solver
    steps: int = 24  # steps of its grid; a multiple of the student's, so that it contains the segments' ends
    guidance: list[float] = field(default_factory=lambda: [3.0])  # w, or [low, high] to draw from


@dataclass
class Optimizer:
    """AdamW with warm-up."""

    lr: float = 1e-3  # peak learning rate
    betas: tuple[float, float] = (0.9, 0.999)  # AdamW's
    weight_decay: float = 0.0  # AdamW's
    warmup_steps: int = 0  # linear warm-up
    schedule: Literal["constant", "cosine"] = "constant"  # after it; cosine falls to zero at trainer.max_steps
    bits: Literal[32, 8] = 32  # of AdamW's moments; 8 needs bitsandbytes and saves 6 bytes a trained parameter


@dataclass
class Budget:
    """What the training may spend; replaces `trainer.max_steps`. A cosine schedule ends at zero when it is spent."""

    nfe: int | None = None  # network evaluations: teacher, targets, student, one each; a backward pass counts as two
    seconds: float | None = None  # of training steps, over all attempts


@dataclass
class Accelerated:
    """One way to draw in few steps, in `evaluate.variants`."""

    name: str = ""  # of its row
    adapter: str | None = None  # its file; null: the base itself with classifier-free guidance
    over: Component | None = component("adapters", None)  # one that is not trained and stacks on it, as nag
    scale: float = 1.0  # factor on the offset that the adapter adds to its attention layers
    lora_scale: float = 1.0  # factor on the update of the adapter's LoRA
    solver: Component | None = component("solvers", None)  # null: the adapter's own, or dpmpp_2m
    steps: int = 4  # from noise to the clean end
    shift: float | None = None  # of their times; null: the adapter's own, or 1
    guidance: float | None = None  # w; null: evaluate.guidance
    method: str | None = None  # of one training of several that differ in the seed: they are averaged under this name


@dataclass
class Evaluate:
    """`sunlab evaluate`: pictures before and after the acceleration, compared."""

    bases: list[str] = field(default_factory=list)  # folders or shipped models, fine-tunes too; empty: model.base
    variants: list[Accelerated] = field(default_factory=list)  # each is compared with `before`, on every base
    before: Sampler = field(default_factory=lambda: Sampler(solver="dpmpp_2m", steps=25))  # the teacher, with guidance
    guidance: float = 3.0  # w of before
    nothing: bool = True  # rows of the base without adapter and guidance, at the steps of each variant with an adapter
    reference_steps: int = 50  # of the teacher that shows the solver's own error, from the same seeds
    prompts: Component | None = component("sources", None)  # whose captions are drawn; null: prompt_file's
    prompt_file: str | None = None  # one prompt a line, used instead of the captions
    negatives: Component = component("negatives", "mixture")  # how negative prompts are drawn
    negative_file: str | None = None  # one negative prompt a line, drawn at random in their place
    count: int = 256  # pictures of each row
    batch: int = 64  # pictures at a time
    pictures: str | None = None  # folder of drawn pictures that evaluations and sweeps share; null: the run's or sweep's own
    seed: int = 0  # of the pairs and of all noise
    extractor: Component = component("extractors", "effnet_lite0")  # of the features
    metrics: list[Component] = component(
        "metrics", ["paired_features", "paired_l2", "kid", "frechet"]
    )  # in the order of columns
    alignment: Component | None = component(
        "alignments", None
    )  # how pictures are held against their prompts; null: not at all
    subsets: int = 8  # disjoint ones, behind the intervals
    control: Component | None = component("controls", None)  # whether negative prompts are obeyed; null: not measured
    timed: int = 8  # pictures of each row whose time is taken, one at a time
    shown: int = 8  # columns of the picture
    worst: int = 0  # pairs at which the first variant is farthest from the teacher, shown in a picture of their own


@dataclass
class Bar:
    """What cells of the matrix must reach, in `matrix.bars`."""

    method: str = "*"  # pattern of the variants' names it is for
    base: str = "*"  # pattern of the bases
    steps: int | None = None  # null: any
    measure: str = "paired_features.share"  # a number of the report: a metric's name, with .share or .nearer; control.size
    at_most: float | None = None  # null: no bar above
    at_least: float | None = None  # null: no bar below


@dataclass
class Matrix:
    """`sunlab evaluate --matrix`: every variant at every number of steps on every base."""

    steps: list[int] = field(default_factory=lambda: [1, 2, 4, 8])  # instead of the variants' own
    measure: str = "paired_features"  # paired distance of the table and of the curve
    baselines: bool = True  # the base itself with guidance too, at as many passes and at as many steps
    bars: list[Bar] = field(default_factory=list)  # a cell that misses one ends the command with exit code 1


@dataclass
class Config:
    """A whole run."""

    task: Component = component("tasks", "adapter")  # what is trained
    seed: int = 0  # of initialisation, order and every draw
    plugins: list[str] = field(default_factory=list)  # files or modules imported before the check
    allow_env: bool = False  # whether ${oc.env:NAME} may be read; its value is never written out
    run: Run = field(default_factory=Run)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    teacher: Teacher = field(default_factory=Teacher)
    student: Sampler = field(default_factory=Sampler)
    adapter: Component | None = component("adapters", "sun")  # null with task student: a full copy of the U-Net
    loss: Component = component("losses", "msc")  # how the teacher is distilled
    distance: Component = component("distances", "l2")  # between two states
    weighting: Component = component("weightings", "uniform")  # of samples by time
    optimizer: Optimizer = field(default_factory=Optimizer)
    budget: Budget = field(default_factory=Budget)  # null both: trainer.max_steps ends the training
    callbacks: list[Component] = component("callbacks", [])  # in order
    loggers: list[Component] = component("loggers", ["csv", "tensorboard"])  # where curves, pictures and tables go
    trainer: dict[str, Any] = field(default_factory=dict)  # arguments of lightning.Trainer; precision: auto is the device's
    matrix: Matrix = field(default_factory=Matrix)  # what `sunlab evaluate --matrix` crosses, and its bars
    evaluate: Evaluate = field(default_factory=Evaluate)  # what `sunlab evaluate` draws and measures
