"""The answer at the end of a run: before and after, side by side, in a picture and a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from sunlab.backbones.base import BaseModel
from sunlab.callbacks.base import CALLBACKS, averaged
from sunlab.data.negatives import NEGATIVES, NegativeSampler, Pool
from sunlab.data.shards import Shards
from sunlab.diffusion.grid import grid
from sunlab.errors import ConfigError
from sunlab.evaluation.base import METRICS
from sunlab.evaluation.control import CONTROLS, Control, Draw
from sunlab.evaluation.pairs import random_pairs
from sunlab.evaluation.side_by_side import Row, rows_of, table_of
from sunlab.export import load_adapter, read_adapter
from sunlab.export.load import check_base
from sunlab.loggers.base import RunLogger, loggers_of
from sunlab.packaged import asset
from sunlab.pipelines.compare import Variant, draw_all
from sunlab.pipelines.draw import Drawn, Request, draw, with_adapter
from sunlab.pipelines.picture import grid_image, save_png
from sunlab.solvers import Sampler
from sunlab.solvers.dpmpp_2m import DPMpp2M

GUIDED = "DPM-Solver++"


@CALLBACKS.register("before_after")
class BeforeAfter(Callback):
    """At the end of the training: 25-step teacher, adapter, base alone, and teacher at equal NFE, in a picture and a table.

    Args:
        prompts, negatives: of the picture, one column each.
        measured: further pairs, behind the table's distances: captions and negative prompts at random.
        measured_urls: the shards whose captions they are drawn from; null: `prompts`.
        measured_negatives: the component that draws their negative prompts.
        control: the component that measures whether negative prompts are obeyed, or null.
        content: the metric of pictures whose values are shares of the pairs, such as `content_kept`, or null.
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
        measured_negatives: Any = "mixture",
        control: Any = None,
        content: Any = None,
        longer: str | None = None,
        steps: int = 25,
        zoom: int = 2,
    ):
        if len(prompts) != len(negatives):
            raise ValueError(f"{len(negatives)} negatives for {len(prompts)} prompts: give one for each")
        self.shown = Request(prompts, negatives, list(range(len(prompts))))
        sampler = NEGATIVES.build(measured_negatives, key="before_after.measured_negatives")
        self.measured = measured_pairs(measured_urls, prompts, measured, sampler)
        self.control = None if control is None else CONTROLS.build(control, key="before_after.control")
        self.content = None if content is None else partial(METRICS.build, content, key="before_after.content")
        if self.content is not None and not ((made := self.content()).shares and made.sees == "pictures"):
            raise ConfigError(f"before_after.content: {content} gives no shares of pairs of pictures; choose content_kept")
        self.longer, self.steps, self.zoom = longer, steps, zoom

    def setup(self, trainer: Trainer, module: Any, stage: str) -> None:
        """Looks at `longer` before the training, not after it. Raises `ConfigError` or `DataError`."""
        if self.longer is None:
            return
        if getattr(module, "adapter", None) is None:
            raise ConfigError("before_after.longer: this task trains no adapter to compare with; leave `longer` out")
        check_base(read_adapter(asset(self.longer)).header, module.base.backbone, f"before_after.longer: {self.longer}")

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, module: LightningModule) -> None:
        if trainer.should_stop and trainer.global_step != trainer.max_steps:
            return  # a slice of a longer run
        module.eval().to(trainer.strategy.root_device)  # Lightning has moved it to the CPU
        try:
            with averaged(trainer, module), trainer.precision_plugin.forward_context():  # drawn as it was trained
                self.report(module, Path(trainer.default_root_dir), loggers_of(trainer), trainer.global_step)
        finally:
            module.cpu()

    def report(self, module: Any, folder: Path, loggers: Sequence[RunLogger] = (), step: int = 0) -> None:
        base, w = module.base, sum(module.guidance) / 2
        variants = self._variants(module, w)
        shown, measured = (draw_all(base, variants, request) for request in (self.shown, self.measured))  # first: warm-up
        control = self._control(base, variants[:2])
        if self.longer is not None:
            variant, drawn = self._longer(module, w)
            variants.insert(2, variant)
            measured.insert(2, drawn[0])
            shown.insert(2, drawn[1])
        rows = rows_of([v.name for v in variants], measured, [v.name.startswith(GUIDED) for v in variants], self.content)
        labels = [f"{row.name}: {row.nfe:.0f} NFE" for row in rows]
        asked = zip(self.shown.prompts, self.shown.negatives, strict=True)
        captions = [prompt + (f" (not: {negative})" if negative else "") for prompt, negative in asked]
        picture = grid_image([d.images for d in shown], labels=labels, captions=captions, zoom=self.zoom)
        save_png(picture, folder / "before_after.png")
        write(folder, rows, control, len(self.measured))
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
        for logger in loggers:
            logger.log_pictures("before_after", pixels, step)
            logger.log_rows("before_after", *table_of(rows), step)

    def _variants(self, module: Any, w: float) -> list[Variant]:
        base = module.base
        path = base.backbone.path

        def teacher(steps: int) -> Variant:
            sampling = Sampler(DPMpp2M(path), grid(steps, path=path))
            return Variant(f"{GUIDED} {steps} steps, CFG {w:g}", sampling, module.bind_teacher(), w)

        n = module.student.steps
        student = Variant(f"this run, {n} steps", module.student, module.bind_student(), w)
        nothing = Variant(f"no adapter, no guidance, {n} steps", module.student, module.bind_teacher(), 1.0)
        return [teacher(self.steps), student, nothing, teacher(max(n // 2, 1)), teacher(n)]

    def _control(self, base: BaseModel, variants: Sequence[Variant]) -> list[Control]:
        """The negative control of the teacher and of this run."""
        if self.control is None:
            return []

        def drawn_by(variant: Variant) -> Draw:
            known: dict[tuple[str, ...], Tensor] = {}  # the teacher draws the empty ones twice

            def drawn(request: Request) -> Tensor:
                key = tuple(request.negatives)
                if key not in known:
                    known[key] = draw(base, variant.sampling, variant.bind, request, w=variant.w).images
                return known[key]

            return drawn

        ways = [drawn_by(variant) for variant in variants]
        asked = self.control.questions(ways[0])
        named = zip((variant.name for variant in variants), ways, strict=True)
        return [found for name, way in named for found in self.control.measure(name, way, asked)]

    def _longer(self, module: Any, w: float) -> tuple[Variant, list[Drawn]]:
        """The other adapter in this one's place, for as long as it draws."""
        assert self.longer is not None
        base = module.base
        module.adapter.detach()
        other, _ = load_adapter(asset(self.longer), base.backbone)
        name = f"shipped adapter, trained longer, {module.student.steps} steps"
        variant = Variant(name, module.student, with_adapter(base, other), w)
        drawn = [draw_all(base, [variant], request)[0] for request in (self.measured, self.shown)]
        other.detach()
        module.adapter.attach(base.backbone)
        return variant, drawn


def measured_pairs(urls: list[str] | None, prompts: Sequence[str], count: int, sampler: NegativeSampler) -> Request:
    """`count` random pairs of the shards' captions (of `prompts` where there are none) and negative prompts."""
    source = Shards(urls=urls) if urls else None
    captions = source.prompts(1_000_000) if source is not None else prompts
    pool = Pool(captions, source.keywords(4096) if source is not None else ())
    return random_pairs(captions, lambda random, prompt: sampler(random, prompt, pool), count, seed=0)


def write(folder: Path, rows: Sequence[Row], control: Sequence[Control], n: int) -> None:
    """before_after.json, before_after.md, and the same on the terminal."""
    from rich.console import Console
    from rich.table import Table

    record = {"pairs": n, "rows": [asdict(r) for r in rows], "negative_control": [asdict(c) for c in control]}
    (folder / "before_after.json").write_text(json.dumps(record, indent=2))
    header, cells = table_of(rows)
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
