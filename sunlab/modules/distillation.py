"""Distillation of a guided teacher into a one-pass student, over one U-Net in memory."""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from sunlab.diffusion.guidance import Passes, guided
from sunlab.diffusion.timesteps import grid
from sunlab.draws import Draws
from sunlab.export.header import spacing_of
from sunlab.export.shapes import describe_base
from sunlab.losses import Distance, Flow, Loss, Weighting
from sunlab.losses.distances import L2
from sunlab.losses.weighting import Uniform
from sunlab.modules.base import Module
from sunlab.modules.conditioning import positive_of
from sunlab.modules.optimization import Optimization
from sunlab.pipelines.base import BaseModel
from sunlab.pipelines.draw import Bind, with_guidance
from sunlab.solvers import SOLVERS, Sampling
from sunlab.solvers.ddim import DDIM
from sunlab.solvers.dpmpp_2m import DPMpp2M
from sunlab.types import Batch, Conditioning, Denoiser, Samples


class DistillationModule(Module):
    """Samples -> batch -> the two flows -> per-sample loss -> weighting, mean.

    Args:
        base: frozen.
        loss: how the student learns from the teacher.
        distance, weighting: of the loss; squared and uniform by default.
        teacher, student: how each is sampled; 24-step DPM-Solver++ (2M) and 4-step DDIM by default.
        guidance: the teacher's w, drawn a sample from [low, high].
    """

    def __init__(
        self,
        base: BaseModel,
        loss: Loss,
        *,
        distance: Distance | None = None,
        weighting: Weighting | None = None,
        teacher: Sampling | None = None,
        student: Sampling | None = None,
        guidance: tuple[float, float] = (3.0, 3.0),
        optimization: Optimization | None = None,
    ):
        super().__init__()
        self.base = base.freeze()
        self.unet, self.text = base.backbone.unet, base.text.model  # the autoencoder comes to the device when it is needed
        schedule = base.backbone.schedule
        self.loss, self.distance, self.weighting = loss, distance or L2(), weighting or Uniform()
        self.teacher = teacher or Sampling(DPMpp2M(schedule), grid(24, train_steps=schedule.steps))
        self.student = student or Sampling(DDIM(schedule), grid(4, train_steps=schedule.steps))
        self.guidance = guidance
        self.optimization = optimization or Optimization()
        self.passes = Passes()  # of this rank; those of all, on the first rank, whenever a checkpoint is written

    @abstractmethod
    def predict_student(self, x: Tensor, t: Tensor, batch: Batch) -> Any:
        """One pass of the student: a `Prediction`."""

    @abstractmethod
    def switch(self, on: bool) -> None:
        """Student (on) or teacher (off), where they share weights."""

    @abstractmethod
    def bind_student(self) -> Bind:
        """How `draw` asks the student."""

    def train_in_single_precision(self) -> None:
        """In half precision AdamW's small steps would be lost. The frozen weights keep their type."""
        for parameter in self.trainable().values():
            parameter.data = parameter.data.float()

    def bind_teacher(self) -> Bind:
        """How `draw` asks the teacher, with guidance."""
        guide = with_guidance(self.base)

        def bind(positive: Conditioning, negative: Conditioning, w: Tensor, passes: Passes) -> Denoiser:
            self.switch(False)
            return guide(positive, negative, w, passes)

        return bind

    def train(self, mode: bool = True) -> "DistillationModule":
        super().train(mode)
        for frozen in (self.unet, self.text):
            frozen.eval()
        return self

    def on_train_start(self) -> None:
        super().on_train_start()
        self.train()  # Lightning restores the modes of submodules by itself; the teacher stays in eval

    def training_step(self, samples: Samples, index: int) -> dict[str, Any]:
        batch = self.encode(samples)
        terms = self.loss(batch, self.student_flow(batch), self.teacher_flow(batch), self.distance)
        self.switch(True)  # recomputed activations (gradient checkpointing) must be the student's
        weights = self.weighting(self.base.backbone.schedule, terms.t, terms.s).to(terms.values)
        loss = (terms.values * weights).mean()
        self.note(len(batch), loss=loss, **terms.logs)
        return {"loss": loss, "terms": terms}

    @torch.no_grad()
    def encode(self, samples: Samples) -> Batch:
        """Prompts and pictures -> embeddings and latents."""
        latents = samples.latents
        if latents is None and samples.images is not None:
            latents = self.base.autoencoder.encode(samples.images)
        draws = Draws(samples.seeds, device=self.device)
        return Batch(
            positive=positive_of(self.base, samples),
            negative=self.base.encode(samples.negatives),
            guidance=samples.guidance if samples.guidance is not None else draws.uniform("guidance", *self.guidance),
            draws=draws,
            shape=self.base.backbone.sample_shape,
            latents=latents,
            trajectory=samples.trajectory,
        )

    def student_flow(self, batch: Batch) -> Flow:
        def denoise(x: Tensor, t: Tensor) -> Any:
            self.passes.student += len(x)
            self.passes.backward += len(x) if torch.is_grad_enabled() else 0
            self.switch(True)
            return self.predict_student(x, t, batch)

        return Flow(denoise, self.student.solver, self.student.times.to(self.device))

    def teacher_flow(self, batch: Batch) -> Flow:
        inner = guided(self.base.backbone, batch.positive, batch.negative, batch.guidance, passes=self.passes)

        def denoise(x: Tensor, t: Tensor) -> Any:
            self.switch(False)
            with torch.no_grad():
                return inner(x, t)

        flow: Denoiser = denoise
        return Flow(flow, self.teacher.solver, self.teacher.times.to(self.device))

    def header(self) -> dict[str, Any]:
        """What the exported file says of its training and use."""
        solver = type(self.student.solver)
        named = [name for name in SOLVERS.names() if SOLVERS.get(name).factory is solver]
        return {
            "prediction_type": self.base.backbone.prediction_type,
            "solver": named[0] if named else "ddim",
            "spacing": spacing_of(self.student.times.tolist(), self.base.backbone.schedule.steps),
            "steps": self.student.steps,
            "times": self.student.times.tolist(),
            "base": describe_base(self.unet),
            "guidance": list(self.guidance),
            "training": {"loss": type(self.loss).__name__, "steps": self.global_step, **vars(self.passes)},
        }

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """On all ranks, as Lightning saves: an exchange between them is safe here."""
        super().on_save_checkpoint(checkpoint)
        self._gather_passes()
        checkpoint["passes"] = vars(self.passes).copy()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.passes = Passes(**checkpoint["passes"]) if self.global_rank == 0 else Passes()

    def _gather_passes(self) -> None:
        """Those of all ranks onto the first, so that neither file nor budget depends on how many there are, now or when the
        run goes on. The sum over ranks stays."""
        if self._trainer is None or self._trainer.world_size == 1:
            return
        counted = torch.tensor(list(vars(self.passes).values()), device=self.device)
        total = self._trainer.strategy.reduce(counted, reduce_op="sum").tolist()
        self.passes = Passes(*total) if self.global_rank == 0 else Passes()
