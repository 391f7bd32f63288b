"""Part `idle`: the share of a training step's time in which the GPU does nothing, at 512 pixels, with dataloader
workers, from JPEGs and from stored trajectories."""

import io
from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from webdataset.writer import TarWriter

from gpu.bases import random_base
from gpu.parts import Bench
from gpu.record import Goal
from sunlab.adapters import Adapter
from sunlab.adapters.lora import LoRA
from sunlab.adapters.sun import SUN
from sunlab.data.base import Source
from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Mixture
from sunlab.data.shards import Shards
from sunlab.data.trajectories import Trajectories
from sunlab.data.trajectory_file import TrajectoryHeader, write_trajectories
from sunlab.diffusion.grid import grid
from sunlab.losses import Loss
from sunlab.losses.lcm import LCM
from sunlab.losses.msc import MSC
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.base import Module
from sunlab.modules.student import StudentModule

LORA = "LoRA + lcm, from JPEGs"
SHARDS, SAMPLES = 4, 32  # samples of a shard


def measure(bench: Bench) -> None:
    options = {"name": "sd", "channels_last": True}
    base = random_base("sd15", bench.device, bench.dtype, tiny=bench.tiny, pixels=512, options=options, whole=True)
    side, samples = base.backbone.sample_shape[1] * base.autoencoder.factor, bench.pick(SAMPLES, 4)
    with TemporaryDirectory(prefix="sunlab-") as folder:
        shards = Shards(urls=write_shards(Path(folder), side, samples), size=side, order="stream")
        write_stored(Path(folder), base.backbone.sample_shape, SHARDS * samples)
        stored = Trajectories(path=str(folder))
        cases: list[tuple[str, Adapter, Loss, Source, int]] = [
            (LORA, LoRA(), LCM(skip=20, states="data"), shards, 4),
            ("SUN with a live teacher, from JPEGs", SUN(), MSC(states="data"), shards, 4),
            ("SUN from stored trajectories", SUN(), MSC(states="teacher"), stored, 4),
            (LORA, LoRA(), LCM(skip=20, states="data"), shards, 2),
        ]
        for name, adapter, loss, source, workers in cases[: 3 if bench.tiny else None]:
            lora = isinstance(adapter, LoRA)
            module: Module = StudentModule(base, loss, lora=adapter) if lora else AdapterModule(base, adapter, loss)
            batch, workers = bench.pick(8, 4), bench.pick(workers, 0)
            data = DataModule(source, Mixture(), batch_size=batch, streams=4, workers=workers)
            profiled = Profiled(warm=bench.pick(6, 1), steps=bench.pick(12, 1))
            trainer = Trainer(
                max_steps=profiled.last, accelerator=bench.device, devices=1, logger=False, enable_checkpointing=False,
                precision="32-true" if bench.device == "cpu" else "bf16-mixed", enable_progress_bar=False,
                enable_model_summary=False, use_distributed_sampler=False, callbacks=[profiled],
            )  # fmt: skip
            trainer.fit(module, datamodule=data)
            adapter.detach()
            what = f"{name}, {side} pixels, batch {batch}, {workers} workers"
            if bench.device == "cuda":
                bench.figure(f"share of idle time, {what}", profiled.idle, "", Goal(0.05, at_least=False))
            bench.figure(
                f"samples a second, {what}", batch * profiled.steps / profiled.seconds, "", note="under the profiler"
            )


class Profiled(Callback):
    """Profiles some steps after others that warm up.

    Attributes:
        last: optimizer steps in all.
        idle, seconds: of the profiled steps, from the first kernel to the last.
    """

    def __init__(self, *, warm: int, steps: int):
        self.warm, self.steps, self.last = warm, steps, warm + steps + 1
        self.idle, self.seconds = float("nan"), float("nan")
        self._profile: Any = None

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, index: int) -> None:
        if index == self.warm:
            on_gpu = trainer.strategy.root_device.type == "cuda"
            self._kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
            self._profile = profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU])
            self._profile.start()

    def on_train_batch_end(self, trainer: Trainer, module: Any, outputs: Any, batch: Any, index: int) -> None:
        if index == self.warm + self.steps - 1:
            if trainer.strategy.root_device.type == "cuda":
                torch.cuda.synchronize()
            self._profile.stop()
            events = self._profile.profiler.kineto_results.events()  # `events()` of the profiler builds a tree, slowly
            found = [event for event in events if event.device_type() == self._kind]
            spans = [(event.start_ns() / 1e9, event.end_ns() / 1e9) for event in found]
            self.idle = share_idle(spans)
            self.seconds = max(end for _, end in spans) - min(start for start, _ in spans)


def share_idle(spans: Iterable[tuple[float, float]]) -> float:
    """The share of the time from the first start to the last end that no span (start, end) covers."""
    first, reached, gaps = None, 0.0, 0.0
    for start, end in sorted(spans):
        if first is None:
            first = reached = start
        gaps += max(start - reached, 0.0)
        reached = max(reached, end)
    return gaps / (reached - first) if first is not None and reached > first else 0.0


def write_shards(folder: Path, side: int, samples: int) -> list[str]:
    """Shards of JPEGs of smooth noise (about the size of photographs) with captions."""
    generator, urls = np.random.default_rng(0), []
    for shard in range(SHARDS):
        urls.append(str(folder / f"{shard:05d}.tar"))
        with open(urls[-1], "wb") as file, TarWriter(file, encoder=False) as tar:
            for number in range(samples):
                coarse = generator.integers(256, size=(max(side // 4, 2),) * 2 + (3,), dtype=np.uint8)
                data = io.BytesIO()
                Image.fromarray(coarse).resize((side + side // 4, side), Image.Resampling.BICUBIC).save(
                    data, "JPEG", quality=90
                )
                key = f"{shard:05d}{number:04d}"
                tar.write({"__key__": key, "jpg": data.getvalue(), "txt": f"a pizza number {key}".encode()})
    return urls


def write_stored(folder: Path, shape: tuple[int, ...], count: int) -> Path:
    """A dataset of `count` trajectories of noise, at the times of four student steps."""
    times, names = grid(4), tuple(map(str, range(count)))
    header = TrajectoryHeader(
        "random", (3.0, 3.0), "ddim", 4, "trailing", "stored", names, tuple(f"a pizza {n}" for n in names), ("",) * count
    )
    return write_trajectories(
        folder / "trajectories-00000.safetensors",
        states=torch.randn(count, len(times), *shape, generator=torch.Generator().manual_seed(0)),
        times=times,
        seeds=torch.arange(count),
        guidance=torch.full((count,), 3.0),
        header=header,
    )
