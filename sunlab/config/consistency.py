"""Rules between several keys, checked once every plain value is valid by itself (components and `trainer` aside)."""

from collections.abc import Iterator

from sunlab.config.schema import Config


def disagreements(config: Config) -> Iterator[tuple[str, str]]:
    """(key, message) of each."""
    yield from _ranges(config)
    yield from _evaluate(config)
    data = config.data
    if data.streams >= 1 and data.batch_size % data.streams:
        yield "data.batch_size", f"{data.batch_size} is no multiple of data.streams = {data.streams}"
    yield from _streams(config)
    guidance = config.teacher.guidance
    if len(guidance) not in (1, 2) or sorted(guidance) != list(guidance):
        yield "teacher.guidance", f"expected [w], or [low, high] to draw from, got {guidance}"
    yield from _budget(config)
    yield from _length(config)
    limited = config.budget.nfe is not None or config.budget.seconds is not None
    steps = config.trainer.get("max_steps", 1)  # its type is not checked yet
    if config.optimizer.schedule == "cosine" and not limited and type(steps) is int and steps < 1:
        yield "optimizer.schedule", "cosine falls to zero at trainer.max_steps, which must be positive for it"


def _length(config: Config) -> Iterator[tuple[str, str]]:
    """The data are one endless stream, in which Lightning would wait for an epoch's end for ever."""
    epochs, batches = config.trainer.get("max_epochs"), config.trainer.get("limit_train_batches")
    if type(batches) is float and batches != 1:
        yield (
            "trainer.limit_train_batches",
            f"there is no share of an endless stream, got {batches}; give a whole number",
        )
    if type(epochs) is int and epochs > 0 and type(batches) is not int:
        yield "trainer.max_epochs", "the data are one endless stream, in which no epoch ends; give trainer.max_steps"


def _budget(config: Config) -> Iterator[tuple[str, str]]:
    for key, value in vars(config.budget).items():
        if value is not None and value <= 0:
            yield f"budget.{key}", f"must be positive, got {value}"
    if None not in (config.budget.nfe, config.budget.seconds):
        yield "budget", "give either nfe or seconds"


def _streams(config: Config) -> Iterator[tuple[str, str]]:
    """Only where the number of ranks can be known beforehand: `devices: auto` is looked at when training starts."""
    devices, nodes = config.trainer.get("devices", 1), config.trainer.get("num_nodes", 1)
    if type(devices) is not int or type(nodes) is not int or devices < 1:
        return
    readers = devices * nodes * max(config.data.workers, 1)
    if config.data.streams >= 1 and config.data.streams % readers:
        yield "data.streams", f"{config.data.streams} is no multiple of ranks x workers = {readers}"


def _ranges(config: Config) -> Iterator[tuple[str, str]]:
    least = {
        "run.checkpoint_every": (config.run.checkpoint_every, 1),
        "data.batch_size": (config.data.batch_size, 1),
        "data.streams": (config.data.streams, 1),
        "data.workers": (config.data.workers, 0),
        "teacher.steps": (config.teacher.steps, 1),
        "student.steps": (config.student.steps, 1),
        "optimizer.lr": (config.optimizer.lr, 0),
        "optimizer.warmup_steps": (config.optimizer.warmup_steps, 0),
        "evaluate.before.steps": (config.evaluate.before.steps, 1),
        "evaluate.reference_steps": (config.evaluate.reference_steps, 1),
        "evaluate.count": (config.evaluate.count, 2),
        "evaluate.batch": (config.evaluate.batch, 1),
        "evaluate.subsets": (config.evaluate.subsets, 2),
        "evaluate.timed": (config.evaluate.timed, 1),
        "evaluate.shown": (config.evaluate.shown, 1),
    }
    for key, (value, low) in least.items():
        if value < low:
            yield key, f"must be at least {low}, got {value}"
    if not 0 <= config.seed < 2**32:
        yield "seed", f"must lie in 0 ... {2**32 - 1}, got {config.seed}"
    if not all(0 <= beta < 1 for beta in config.optimizer.betas):
        yield "optimizer.betas", f"each must lie in [0, 1), got {list(config.optimizer.betas)}"
    for name in ("caption_dropout", "caption_noise"):
        if not 0 <= (share := getattr(config.data, name)) <= 1:
            yield f"data.{name}", f"is a share, 0 to 1, got {share}"
    if not config.run.name or config.run.name in (".", "..") or "/" in config.run.name:
        yield "run.name", f"is the name of one folder in run.dir, got {config.run.name!r}"


def _evaluate(config: Config) -> Iterator[tuple[str, str]]:
    names = [variant.name for variant in config.evaluate.variants]
    for index, variant in enumerate(config.evaluate.variants):
        if not variant.name or variant.name in names[:index]:
            yield f"evaluate.variants.{index}.name", f"each variant needs a name of its own, got {variant.name!r}"
        if variant.steps < 1:
            yield f"evaluate.variants.{index}.steps", f"must be at least 1, got {variant.steps}"
    steps = config.matrix.steps
    if not steps or min(steps) < 1 or len(set(steps)) < len(steps):
        yield "matrix.steps", f"expected different numbers of steps, each at least 1, got {steps}"
    for index, bar in enumerate(config.matrix.bars):
        if bar.at_most is None and bar.at_least is None:
            yield f"matrix.bars.{index}", "give at_most, at_least, or both"
