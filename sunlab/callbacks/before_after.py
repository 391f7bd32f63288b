"""The answer at the end of a run: before and after, side by side, in a picture and a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from sunlab.adapters.sun import SUN
from sunlab.callbacks.base import CALLBACKS
from sunlab.callbacks.ema import EMA
from sunlab.data.base import Pool, Source
from sunlab.data.negatives import Mixture
from sunlab.data.shards import Shards
from sunlab.diffusion.timesteps import grid
from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError
from sunlab.evaluation.negative_control import Control, negative_control
from sunlab.export import load_adapter
from sunlab.pipelines.base import asset
from sunlab.pipelines.compare import Row, Variant, draw_all, rows_of
from sunlab.pipelines.draw import Drawn, Request, with_adapter
from sunlab.pipelines.picture import grid_image, save_png
from sunlab.solvers import Sampling
from sunlab.solvers.dpmpp_2m import DPMpp2M


@CALLBACKS.register("before_after")
class BeforeAfter(Callback):
    """At the end of the training: 25-step teacher, the adapter, and the teacher in as few passes; picture and table.

    Args:
        prompts, negatives: of the picture, one column each.
        measured: further pairs, behind the table's distances: captions and negative prompts at random.
        measured_urls: the shards whose captions they are drawn from; null: `prompts`.
        control: pictures of each kind behind the figures of negative control (the lab's backgrounds); 0: none.
        longer: an adapter file of a longer training to show beside this one, or null.
        steps: of the teacher before.
        zoom: of the picture.
    """

    def __init__(
        self,
        *,
        prompts: list[str],
        negatives: list[str],
        measured: int = 64,
        measured_urls: list[str] | None = None,
        control: int = 64,
        longer: str | None = None,
        steps: int = 25,
        zoom: int = 2,
    ):
        if len(prompts) != len(negatives):
            raise ValueError(f"{len(negatives)} negatives for {len(prompts)} prompts: give one for each")
        self.shown = Request(prompts, negatives, list(range(len(prompts))))
        self.measured = pairs(Shards(urls=measured_urls) if measured_urls else None, prompts, measured)
        self.control, self.longer, self.steps, self.zoom = control, longer, steps, zoom

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        if self.longer is not None and not isinstance(getattr(module, "adapter", None), SUN):
            raise ConfigError(
                "before_after.longer: the other adapter takes this one's place while it draws, which only "
                "a sun adapter allows; leave `longer` out"
            )

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.should_stop and trainer.global_step != trainer.max_steps:
            return  # a slice of a longer run
        averages = [c for c in trainer.callbacks if isinstance(c, EMA)]  # type: ignore[attr-defined]
        for average in averages:
            average.swap(module)
        module.eval()
        with trainer.precision_plugin.forward_context():  # drawn as it was trained
            self.report(module, Path(trainer.default_root_dir))
        for average in averages:
            average.swap(module)

    def report(self, module: Any, folder: Path) -> None:
        base, w = module.base, sum(module.guidance) / 2
        variants = self._variants(module, w)
        shown, measured = (draw_all(base, variants, request) for request in (self.shown, self.measured))  # first: warm-up
        control = negative_control(base, variants[:2], pictures=self.control) if self.control else []
        if self.longer is not None:
            variant, drawn = self._longer(module, w)
            variants.insert(2, variant)
            measured.insert(2, drawn[0])
            shown.insert(2, drawn[1])
        rows = rows_of(variants, measured)
        labels = [f"{row.name}: {row.passes:.0f} passes" for row in rows]
        asked = zip(self.shown.prompts, self.shown.negatives, strict=True)
        captions = [prompt + (f" (not: {negative})" if negative else "") for prompt, negative in asked]
        picture = grid_image([d.images for d in shown], labels=labels, captions=captions, zoom=self.zoom)
        save_png(picture, folder / "before_after.png")
        write(folder, rows, control, len(self.measured))

    def _variants(self, module: Any, w: float) -> list[Variant]:
        base = module.base
        schedule = base.backbone.schedule

        def teacher(steps: int) -> Variant:
            sampling = Sampling(DPMpp2M(schedule), grid(steps, train_steps=schedule.steps))
            return Variant(f"DPM-Solver++ {steps} steps, CFG {w:g}", sampling, module.bind_teacher(), w)

        n = module.student.steps
        student = Variant(f"this run, {n} steps", module.student, module.bind_student(), w)
        return [teacher(self.steps), student, teacher(max(n // 2, 1)), teacher(n)]

    def _longer(self, module: Any, w: float) -> tuple[Variant, list[Drawn]]:
        """The other adapter in this one's place, for as long as it draws."""
        assert self.longer is not None
        base = module.base
        module.adapter.detach()
        other, _ = load_adapter(asset(self.longer), base.backbone.unet)
        name = f"shipped adapter, trained longer, {module.student.steps} steps"
        variant = Variant(name, module.student, with_adapter(base, other), w)
        drawn = [draw_all(base, [variant], request)[0] for request in (self.measured, self.shown)]
        other.detach()
        module.adapter.attach(base.backbone.unet)
        return variant, drawn


def pairs(source: Source | None, prompts: Sequence[str], count: int) -> Request:
    """`count` pairs of a caption and a negative prompt, each with a seed of its own; none of the shown pictures' seeds."""
    random = Random(keyed_seed("before_after", count))
    captions = source.prompts(100_000) if source is not None else prompts
    pool = Pool(captions, source.keywords(1000) if source is not None else ())
    sampler = Mixture()
    chosen = [random.choice(captions) for _ in range(count)]
    return Request(chosen, [sampler(random, prompt, pool) for prompt in chosen], [1000 + i for i in range(count)])


def write(folder: Path, rows: Sequence[Row], control: Sequence[Control], n: int) -> None:
    """before_after.json, before_after.md, and the same on the terminal."""
    from rich.console import Console
    from rich.table import Table

    plain = [{k: v for k, v in vars(row).items() if k != "images"} for row in rows]
    record = {"pairs": n, "rows": plain, "negative_control": [asdict(c) for c in control]}
    (folder / "before_after.json").write_text(json.dumps(record, indent=2))
    header = ["", "U-Net passes", "s / picture", "speed-up", "distance to the first"]
    cells = [
        [r.name, f"{r.passes:.0f}", f"{r.seconds:.4f}", f"{r.speedup:.1f}x", f"{r.distance:.4f} ± {r.error:.4f}"]
        for r in rows
    ]
    table = Table(*header, title=f"Before and after, {n} pairs of prompts and negative prompts, same seeds")
    for line in cells:
        table.add_row(*line)
    Console().print(table)
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(line) + " |" for line in cells]
    for c in control:
        lines += ["", c.sentence]
        Console().print(c.sentence)
    (folder / "before_after.md").write_text("\n".join(lines) + "\n")
