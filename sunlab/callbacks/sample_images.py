"""Pictures while training, to the loggers and as PNG."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import rank_zero_only

from sunlab.callbacks.base import CALLBACKS, averaged
from sunlab.loggers.base import loggers_of
from sunlab.pipelines.draw import Request, draw
from sunlab.pipelines.picture import grid_image, save_png


@CALLBACKS.register("sample_images")
class SampleImages(Callback):
    """Draws fixed prompts every so often: a teacher with guidance, a student in its few steps.

    Args:
        prompts: one picture each.
        negatives: one for each prompt, or none.
        every: optimizer steps.
        guidance: the teacher's w.
        steps: the teacher's steps.
    """

    def __init__(
        self,
        *,
        prompts: list[str],
        negatives: list[str] | None = None,
        every: int = 500,
        guidance: float = 3.0,
        steps: int = 25,
    ):
        if negatives is not None and len(negatives) != len(prompts):
            raise ValueError(f"{len(negatives)} negatives for {len(prompts)} prompts: give one for each, or none")
        self.request = Request(prompts, negatives or [""] * len(prompts), list(range(len(prompts))))
        self.every, self.guidance, self.steps = every, guidance, steps
        self._last = -1

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        step = trainer.global_step
        if step == self._last or step % self.every:
            return
        self._last = step
        mode = module.training
        module.eval()
        base: Any = module.base
        base.text.forget()
        sampler, bind = module.drawing(self.steps)
        with averaged(trainer, module):
            drawn = draw(base, sampler, bind, self.request, w=self.guidance)
        module.train(mode)
        base.text.forget()
        folder = Path(trainer.default_root_dir) / "pictures"
        sheet = grid_image([drawn.images], captions=self.request.prompts, zoom=2)
        save_png(sheet, folder / f"{step:07d}.png")
        for logger in loggers_of(trainer):
            logger.log_pictures("pictures", drawn.images, step)
