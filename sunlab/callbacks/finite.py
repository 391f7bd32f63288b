"""Steps with a loss or gradient that is not finite: skipped by every rank, counted, and the end of the run after several."""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sunlab.errors import NotFinite


class SkipNonFinite(Callback):
    """Leaves parameters and optimizer as they are in a step in which any rank has a loss or gradient that is not finite.
    Its batch stays consumed and the step stays counted, so that order, schedule and step numbers do not shift.

    What each rank had in such a step is appended to `folder`/skipped/rank-R.jsonl: step, keys, prompts, negative prompts,
    seeds, losses, and whether this rank's own losses were finite. With fp16's gradient scaler only the loss is looked at;
    its gradients overflow as a matter of course, and the scaler skips those steps by itself.

    Args:
        folder: the run's.
        limit: such steps in a row after which the run ends, every rank at the same step. The steps of a loss's networks and
            the student's are counted apart: a diverged critic ends the run although the student's steps are finite.

    Attributes:
        skipped: steps so far; in the checkpoint.
        in_a_row: of these the last, by whose turn it was.

    Raises:
        NotFinite: at `limit`.
    """

    def __init__(self, folder: Path, *, limit: int):
        self.folder, self.limit = folder, limit
        self.skipped, self.in_a_row = 0, {"student": 0, "critic": 0}
        self._batches: list[Any] = []
        self._losses: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._batches.append(batch)

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Between the gradients' all-reduce and the step."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        mine = _finite(self._losses)  # gradients are the sum of all ranks' by now
        finite = trainer.strategy.reduce_boolean_decision(mine and (scaled or _finite(_gradients(optimizer))), all=True)
        batches, losses, self._batches, self._losses = self._batches, self._losses, [], []
        turns = getattr(module, "turns", None)
        turn = "student" if turns is None else turns.turn
        if finite:
            self.in_a_row[turn] = 0
            return
        self.skipped += 1
        self.in_a_row[turn] += 1
        file = self._note(trainer, mine, batches, losses)
        if not scaled:
            for group in optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None  # the optimizer passes over it, its moments and its count of steps too
        for logger in trainer.loggers:
            logger.log_metrics({"skipped_steps": float(self.skipped)}, step=trainer.global_step)
        whose = " of the loss's networks" if turn == "critic" else ""
        rate = "loss.critic_lr" if turn == "critic" else "optimizer.lr"
        what = f"step {trainer.global_step}: a loss or gradient{whose} is not finite; what it was made of is in {file}"
        if self.in_a_row[turn] >= self.limit:
            raise NotFinite(
                f"{what}. The last {self.in_a_row[turn]} steps{whose} were like this and were skipped, so the weights are "
                f"as before. Look at those samples, lower {rate}, or set trainer.gradient_clip_val; run.skip_limit is the "
                "number of such steps at which a run ends"
            )
        if trainer.is_global_zero:
            print(f"warning: {what}. Skipped, {self.in_a_row[turn]} in a row, {self.skipped} in all", file=sys.stderr)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": dict(self.in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], dict(state_dict["in_a_row"])

    def _note(self, trainer: Trainer, mine: bool, batches: list[Any], losses: list[Tensor]) -> Path:
        file = self.folder / "skipped" / f"rank-{trainer.global_rank}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        note: dict[str, Any] = {"step": trainer.global_step, "rank": trainer.global_rank, "finite": mine}
        note["losses"] = [str(float(loss)) for loss in losses]  # JSON has no nan
        for name in ("keys", "prompts", "negatives", "seeds"):
            note[name] = [value for batch in batches for value in getattr(batch, name, ())]
        with file.open("a") as opened:
            opened.write(json.dumps(note) + "\n")
        return file


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def _finite(tensors: list[Tensor]) -> bool:
    """By their norm, which is finite where all values are (and not too large to be squared)."""
    if not tensors:
        return True
    return bool(torch.nn.utils.get_total_norm(tensors).isfinite())
