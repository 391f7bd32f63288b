"""Distillation of a guided teacher into a one-pass student, over one U-Net in memory."""

from abc import abstractmethod
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from sunlab.backbones.base import BaseModel
from sunlab.diffusion.grid import constant, grid
from sunlab.diffusion.guidance import NetworkEvaluations, guided
from sunlab.diffusion.prediction import Denoiser
from sunlab.draws import Draws
from sunlab.export.header import spacing_of
from sunlab.export.shapes import describe_base
from sunlab.losses import BoundSampler, Distance, Loss, Weighting
from sunlab.losses.distances import L2
from sunlab.losses.weighting import Uniform
from sunlab.modules.base import Module
from sunlab.modules.bases import Bases
from sunlab.modules.conditioning import negative_of, positive_of
from sunlab.modules.frozen import FrozenNetwork
from sunlab.modules.optimization import Optimization
from sunlab.modules.turns import Turns
from sunlab.pipelines.draw import Bind, with_guidance
from sunlab.solvers import SOLVERS, Sampler
from sunlab.solvers.ddim import DDIM
from sunlab.solvers.dpmpp_2m import DPMpp2M
from sunlab.types import Batch, Samples


class DistillationModule(Module):
    """Samples -> batch -> the two bound samplers -> per-sample loss -> weighting, mean.

    Args:
        base: frozen.
        loss: how the student learns from the teacher.
        distance, weighting: of the loss; squared and uniform by default.
        teacher, student: how each is sampled; 24-step DPM-Solver++ (2M) and 4-step DDIM by default.
        guidance: the teacher's w, drawn a sample from [low, high].
        bases: networks of which each optimizer step trains on one; None: `base` alone.
    """

    def __init__(
        self,
        base: BaseModel,
        loss: Loss,
        *,
        distance: Distance | None = None,
        weighting: Weighting | None = None,
        teacher: Sampler | None = None,
        student: Sampler | None = None,
        guidance: tuple[float, float] = (3.0, 3.0),
        optimization: Optimization | None = None,
        bases: Bases | None = None,
    ):
        super().__init__()
        self.base = base.freeze()
        self.backbone, self.text = base.backbone, base.text.model  # the autoencoder comes to the device when it is needed
        path = base.backbone.path
        self.loss, self.distance, self.weighting = loss, distance or L2(), weighting or Uniform()
        self.teacher = teacher or Sampler(DPMpp2M(path), grid(24, path=path))
        self.student = student or Sampler(DDIM(path), grid(4, path=path))
        self.guidance, self.bases = guidance, bases
        self.optimization = optimization or Optimization()
        self.turns = Turns(loss, base.backbone)
        self.alternates = bool(self.turns.critics)
        self.nfe = NetworkEvaluations()  # of this rank; those of all, on the first rank, whenever a checkpoint is written

    @abstractmethod
    def predict_student(self, x: Tensor, t: Tensor, batch: Batch) -> Any:
        """One pass of the student: a `Prediction`."""

    @abstractmethod
    def bind_student(self) -> Bind:
        """The student as `draw` evaluates it."""

    def train_in_single_precision(self) -> None:
        """In half precision AdamW's small steps would be lost. The frozen weights keep their type."""
        for parameter in self.trainable().values():
            parameter.data = parameter.data.float()

    def drawing(self, steps: int) -> tuple[Sampler, Bind]:
        """By the student, in its own steps."""
        return self.student, self.bind_student()

    def bind_teacher(self) -> Bind:
        """The teacher with guidance, as `draw` evaluates it."""
        return with_guidance(self.base)

    def train(self, mode: bool = True) -> "DistillationModule":
        super().train(mode)
        for frozen in (self.backbone, self.text):
            frozen.eval()
        return self

    def on_train_start(self) -> None:
        super().on_train_start()
        self.train()  # Lightning restores the modes of submodules by itself; the teacher stays in eval

    def kept(self) -> dict[str, Tensor]:
        return {**super().kept(), **self.turns.state()}

    def configure_optimizers(self) -> Any:
        if not self.alternates:
            return super().configure_optimizers()
        return self.turns.configure(self.optimization, self.trainable().values(), self.total_steps(), spent=self.spent)

    def training_step(self, samples: Samples, index: int) -> dict[str, Any]:
        if self.bases is None:
            return self._step(samples, self.encode(samples))
        number = self.bases.draw(self.global_step) if samples.bases is None else samples.bases[0]
        with self.bases.drawn(number, self.global_step) as base:
            self.note(len(samples), base=torch.tensor(float(number)))
            return self._step(samples, self.encode(samples, base))

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Over the network that the step was drawn on, whose activations may be recomputed."""
        with nullcontext() if self.bases is None else self.bases.again():
            super().backward(loss, *args, **kwargs)

    def _step(self, samples: Samples, batch: Batch) -> dict[str, Any]:
        if not self.alternates:
            return self.student_step(samples, batch)
        turn = self.turns.take(self.global_step)
        step = self.student_step if turn == "student" else self.critic_step
        return {**step(samples, batch), "turn": turn}

    def on_train_end(self) -> None:
        self.turns.release()

    def student_step(self, samples: Samples, batch: Batch) -> dict[str, Any]:
        one_pass = self.guidance == (1.0, 1.0) and samples.guidance is None  # stored trajectories have their own w
        output = self.loss(batch, self.student_sampler(batch), self.teacher_sampler(batch, one_pass), self.distance)
        loss = output.weighted(partial(self.weighting, self.base.backbone.path)).mean()
        self.note(len(batch), loss=loss, **output.logs)
        return {"loss": loss, "output": output}

    def critic_step(self, samples: Samples, batch: Batch) -> dict[str, Any]:
        sampler = self.student_sampler(batch)
        student = replace(sampler, denoise=torch.no_grad()(sampler.denoise))
        values = self.loss.critic_step(batch, student, self.teacher_sampler(batch))
        loss = values.mean()
        self.note(len(batch), critic_loss=loss)
        return {"loss": loss}

    @torch.no_grad()
    def encode(self, samples: Samples, base: BaseModel | None = None) -> Batch:
        """Prompts and pictures -> embeddings and latents.

        Args:
            base: whose text encoder; None: the base's own.
        """
        base = base or self.base
        latents = samples.latents
        if latents is None and samples.images is not None:
            latents = self.base.autoencoder.encode(samples.images)
        draws = Draws(samples.seeds, device=self.device)
        return Batch(
            positive=positive_of(base, samples),
            negative=negative_of(base, samples),
            guidance=samples.guidance if samples.guidance is not None else draws.uniform("guidance", *self.guidance),
            draws=draws,
            shape=self.base.backbone.sample_shape,
            latents=latents,
            trajectory=samples.trajectory,
        )

    def student_sampler(self, batch: Batch) -> BoundSampler:
        def denoise(x: Tensor, t: Tensor) -> Any:
            self.nfe.student += len(x)
            self.nfe.backward += len(x) if torch.is_grad_enabled() else 0
            return self.predict_student(x, t, batch)

        return self._bound(denoise, self.student)

    def teacher_sampler(self, batch: Batch, one_pass: bool = False) -> BoundSampler:
        inner = guided(self.base.backbone, batch.positive, batch.negative, batch.guidance, one_pass=one_pass, nfe=self.nfe)

        def denoise(x: Tensor, t: Tensor) -> Any:
            with torch.no_grad():
                return inner(x, t)

        return replace(self._bound(denoise, self.teacher), network=FrozenNetwork(self.base.backbone, batch, self.nfe))

    def _bound(self, denoise: Denoiser, sampler: Sampler) -> BoundSampler:
        return BoundSampler(denoise, sampler.solver, constant(sampler.grid, self.device), sampler.grid)

    def header(self) -> dict[str, Any]:
        """What the exported file says of its training and use."""
        solver = type(self.student.solver)
        named = [name for name in SOLVERS.names() if SOLVERS.get(name).factory is solver]
        return {
            "prediction_type": self.base.backbone.prediction_type,
            "solver": named[0] if named else "ddim",
            "spacing": spacing_of(self.student.grid, self.base.backbone.path, self.student.shift),
            "shift": self.student.shift,
            "steps": self.student.steps,
            "times": list(self.student.grid),
            "base": describe_base(self.backbone),
            "guidance": list(self.guidance),
            "training": {"loss": type(self.loss).__name__, "steps": self.global_step, **vars(self.nfe)},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """On all ranks, as Lightning saves: an exchange between them is safe here."""
        super().on_save_checkpoint(checkpoint)
        self._gather_nfe()
        checkpoint["nfe"] = vars(self.nfe).copy()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.nfe = NetworkEvaluations(**checkpoint["nfe"]) if self.global_rank == 0 else NetworkEvaluations()

    def _gather_nfe(self) -> None:
        """Those of all ranks onto the first, so that neither file nor budget depends on how many there are, now or when the
        run goes on. The sum over ranks stays."""
        if self._trainer is None or self._trainer.world_size == 1:
            return
        counted = torch.tensor(list(vars(self.nfe).values()), device=self.device)
        total = self._trainer.strategy.reduce(counted, reduce_op="sum").tolist()
        self.nfe = NetworkEvaluations(*total) if self.global_rank == 0 else NetworkEvaluations()
