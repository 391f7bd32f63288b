"""Steps with a loss or gradient that is not finite: skipped by every rank, counted, and the end of the run after several."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor

from sunlab.distributed.later import Later
from sunlab.errors import NotFinite

NOTED = ("keys", "prompts", "negatives", "seeds")


@dataclass(frozen=True)
class Taken:
    """What a rank had in an optimizer step.

    Attributes:
        number: of the step.
        turn: whose it was, `student` or `critic`.
        samples: keys, prompts, negatives and seeds.
        losses: on the device.
    """

    number: int
    turn: str
    samples: Mapping[str, Sequence[Any]]
    losses: Sequence[Tensor]


class SkipNonFinite(Callback):
    """Leaves parameters and optimizer as they are in a step in which any rank has a loss or gradient that is not finite.
    Its batch stays consumed and the step stays counted, so that order, schedule and step numbers do not shift.

    The step is skipped on the device, without waiting for it: fused AdamW takes a flag for that. The host reads the flag two
    steps later on a GPU, at once on a CPU; it waits for it for an optimizer that takes none (`optimizer.bits: 8`).

    What each rank had in such a step is appended to `folder`/skipped/rank-R.jsonl: step, keys, prompts, negative prompts,
    seeds, losses, and whether this rank's own losses were finite. With fp16's gradient scaler only the loss is looked at;
    its gradients overflow as a matter of course, and the scaler skips those steps by itself.

    Args:
        folder: the run's.
        limit: such steps in a row after which the run ends, every rank at the same step, as soon as the last of them is
            read. The steps of a loss's networks and the student's are counted apart: a diverged critic ends the run although
            the student's steps are finite.
        lag: see `Later`.

    Attributes:
        skipped: steps so far; in the checkpoint.
        in_a_row: of these the last, by whose turn it was.

    Raises:
        NotFinite: at `limit`.
    """

    def __init__(self, folder: Path, *, limit: int, lag: int | None = None):
        self.folder, self.limit = folder, limit
        self.skipped, self.in_a_row = 0, {"student": 0, "critic": 0}
        self._flags = Later(lag)
        self._samples: dict[str, list[Any]] = {name: [] for name in NOTED}
        self._losses: list[Tensor] = []
        self._over: str | None = None
        self._trainer: Any = None

    def setup(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        self._trainer = trainer

    def on_train_batch_start(self, trainer: Trainer, module: LightningModule, batch: Any, batch_idx: int) -> None:
        for name, values in self._samples.items():
            values.extend(getattr(batch, name, ()))

    def on_before_backward(self, trainer: Trainer, module: LightningModule, loss: Tensor) -> None:
        self._losses.append(loss.detach())

    @torch.no_grad()
    def on_before_optimizer_step(self, trainer: Trainer, module: LightningModule, optimizer: torch.optim.Optimizer) -> None:
        """Between the gradients' all-reduce and the step."""
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        turns = getattr(module, "turns", None)
        step = Taken(trainer.global_step, "student" if turns is None else turns.turn, self._samples, self._losses)
        self._samples, self._losses = {name: [] for name in NOTED}, []
        flag = not_finite(step.losses, [] if scaled else _gradients(optimizer))
        due = self._flags.add(flag, step)
        if not scaled:
            skip(optimizer, flag.clamp(max=1.0))
        self._judge(due)
        self._end()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._judge(self._flags.rest())
        self._end()

    def state_dict(self) -> dict[str, Any]:
        self._judge(self._flags.rest())
        return {"skipped": self.skipped, "in_a_row": dict(self.in_a_row)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], dict(state_dict["in_a_row"])

    def _end(self) -> None:
        if self._over is not None:
            raise NotFinite(self._over)

    def _judge(self, due: list[tuple[Any, Any]]) -> None:
        """Count, note and report the steps whose flags were read."""
        for flag, step in due:
            if not flag:
                self.in_a_row[step.turn] = 0
                continue
            self.skipped += 1
            self.in_a_row[step.turn] += 1
            self._report(step)

    def _report(self, step: Taken) -> None:
        file, row = self._note(step), self.in_a_row[step.turn]
        for logger in self._trainer.loggers:
            logger.log_metrics({"skipped_steps": float(self.skipped)}, step=step.number)
        critic = step.turn == "critic"
        whose, rate = (" of the loss's networks", "loss.critic_lr") if critic else ("", "optimizer.lr")
        what = f"step {step.number}: a loss or gradient{whose} is not finite; what it was made of is in {file}"
        if row >= self.limit and self._over is None:
            self._over = (
                f"{what}. The last {row} steps{whose} were like this and were skipped, so the weights are as before. Look "
                f"at those samples, lower {rate}, or set trainer.gradient_clip_val; run.skip_limit is the number of such "
                "steps at which a run ends"
            )
        elif self._trainer.is_global_zero:
            print(f"warning: {what}. Skipped, {row} in a row, {self.skipped} in all", file=sys.stderr)

    def _note(self, step: Taken) -> Path:
        file = self.folder / "skipped" / f"rank-{self._trainer.global_rank}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        losses = [float(loss) for loss in step.losses]
        mine = all(isfinite(loss) for loss in losses)  # gradients are the sum of all ranks' by now
        note = {"step": step.number, "rank": self._trainer.global_rank, "finite": mine, "losses": list(map(str, losses))}
        with file.open("a") as opened:
            opened.write(json.dumps({**note, **step.samples}) + "\n")  # losses as text: JSON has no nan
        return file


def skip(optimizer: torch.optim.Optimizer, flag: Tensor) -> None:
    """Let the optimizer's next step pass, its moments and its count of steps too, where `flag` () is 1."""
    for each in getattr(optimizer, "optimizers", [optimizer]):
        if all(group.get("fused") for group in each.param_groups):
            each.found_inf = flag  # as torch's gradient scaler sets it
        elif flag:
            for parameter in (p for group in each.param_groups for p in group["params"]):
                parameter.grad = None


def _gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]


def not_finite(*groups: Sequence[Tensor]) -> Tensor:
    """1 if not, 0 if all are, float32, (): by the groups' norms, which are finite where all values are (and not too large to
    be squared)."""
    norms = [torch.nn.utils.get_total_norm(list(tensors)) for tensors in groups if tensors]
    return torch.stack([norm.isfinite() for norm in norms]).all().logical_not().float()
