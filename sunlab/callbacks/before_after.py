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

from sunlab.callbacks.base import CALLBACKS
from sunlab.callbacks.ema import EMA
from sunlab.diffusion.timesteps import grid
from sunlab.draws import keyed_seed
from sunlab.evaluation.negative_control import Control, negative_control
from sunlab.pipelines.compare import Row, Variant, compare
from sunlab.pipelines.draw import Request, with_adapter, with_guidance
from sunlab.pipelines.picture import grid_image, save_png
from sunlab.solvers import Sampling
from sunlab.solvers.dpmpp_2m import DPMpp2M


@CALLBACKS.register("before_after")
class BeforeAfter(Callback):
    """At the end of the training: 25-step teacher, the adapter, and the teacher in as few passes; picture and table.

    Args:
        prompts, negatives: of the picture, one column each.
        measured: further pairs behind the table's distances, prompts and negatives paired at random.
        measured_prompts: the prompts they are drawn from; null: `prompts`.
        measured_negatives: the negatives; null: `negatives`.
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
        measured_prompts: list[str] | None = None,
        measured_negatives: list[str] | None = None,
        longer: str | None = None,
        steps: int = 25,
        zoom: int = 2,
    ):
        if len(prompts) != len(negatives):
            raise ValueError(f"{len(negatives)} negatives for {len(prompts)} prompts: give one for each")
        self.shown = Request(prompts, negatives, list(range(len(prompts))))
        self.measured = pairs(measured_prompts or prompts, measured_negatives or negatives, measured)
        self.longer, self.steps, self.zoom = longer, steps, zoom

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.should_stop and trainer.global_step < trainer.max_steps:
            return  # a slice of a longer run
        averages = [c for c in trainer.callbacks if isinstance(c, EMA)]  # type: ignore[attr-defined]
        for average in averages:
            average.swap(module)
        module.eval()
        self.report(module, Path(trainer.default_root_dir))
        for average in averages:
            average.swap(module)

    def report(self, module: Any, folder: Path) -> None:
        base, w = module.base, sum(module.guidance) / 2
        variants = self._variants(module, w)
        rows = compare(base, variants, self.measured)
        shown = compare(base, variants, self.shown)
        control = negative_control(base, variants[:2])
        labels = [f"{v.name}: {row.passes:.0f} passes" for v, row in zip(variants, rows, strict=True)]
        captions = [p + (f" (not: {n})" if n else "") for p, n in zip(self.shown.prompts, self.shown.negatives, strict=True)]
        picture = grid_image([row.images for row in shown], labels=labels, captions=captions, zoom=self.zoom)
        save_png(picture, folder / "before_after.png")
        write(folder, rows, control, len(self.measured))

    def _variants(self, module: Any, w: float) -> list[Variant]:
        base = module.base
        schedule = base.backbone.schedule

        def teacher(steps: int) -> Variant:
            sampling = Sampling(DPMpp2M(schedule), grid(steps, train_steps=schedule.steps))
            return Variant(f"DPM-Solver++ {steps} steps, CFG {w:g}", sampling, with_guidance(base), w)

        n = module.student.steps
        student = Variant(f"SUN {n} steps", module.student, with_adapter(base, module.adapter), w)
        return [teacher(self.steps), student, teacher(max(n // 2, 1)), teacher(n)]


def pairs(prompts: Sequence[str], negatives: Sequence[str], count: int) -> Request:
    """`count` pairs drawn at random, each with a seed of its own; none of the shown pictures' seeds."""
    random = Random(keyed_seed("before_after", count))
    return Request(
        [random.choice(prompts) for _ in range(count)],
        [random.choice(negatives) for _ in range(count)],
        [1000 + i for i in range(count)],
    )


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
