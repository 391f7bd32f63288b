"""Part `ranks`: one rank of DDP with its time-out, and one of FSDP2 with the frozen base sharded."""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from bench_training import samples_of
from gpu.bases import random_base
from gpu.parts import Bench
from sunlab.adapters.sun import SUN
from sunlab.backbones.base import BaseModel
from sunlab.losses.msc import MSC
from sunlab.modules.adapter import AdapterModule

TIMEOUT = timedelta(seconds=90)


class Sharded(AdapterModule):
    """SUN over a base whose frozen weights every rank holds a part of; what is trained is whole on each."""

    def configure_model(self) -> None:
        mesh: Any = self.device_mesh
        trained = set(self.trainable().values())
        network: Any = self.base.backbone
        kinds = {*getattr(network.unet, "_repeated_blocks", ()), "ResnetBlock2D"}
        for block in [m for m in network.unet.modules() if type(m).__name__ in kinds]:
            own = {p for p in block.parameters() if p in trained}
            fully_shard(block, mesh=mesh["data_parallel"], ignored_params=own)


class Seen(Callback):
    """What the process group and the weights were in training."""

    timeout = 0.0
    sharded = whole = 0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        group: Any = distributed.distributed_c10d._get_default_group()
        device = trainer.strategy.root_device
        self.timeout = group._get_backend(device).options._timeout.total_seconds()
        parameters = list(module.base.backbone.parameters())
        self.sharded = sum(p.numel() for p in parameters if isinstance(p, distributed.tensor.DTensor))
        self.whole = sum(p.numel() for p in parameters)


def measure(bench: Bench) -> None:
    ways: dict[str, tuple[type[AdapterModule], Callable[[], Any]]] = {
        "DDP": (AdapterModule, lambda: DDPStrategy(timeout=TIMEOUT)),
        "FSDP2": (Sharded, lambda: ModelParallelStrategy(data_parallel_size=1, tensor_parallel_size=1, timeout=TIMEOUT)),
    }
    for name, (module, strategy) in ways.items():
        base = random_base("sd15", bench.device, bench.dtype, tiny=bench.tiny, pixels=512, whole=True)
        if name == "FSDP2" and bench.device == "cpu":
            sharded_by_hand(bench, base)
            continue
        seconds, seen = train(bench, base, module, strategy())
        bench.figure(f"{name}, one rank: seconds a step", seconds, "s", note="SUN from stored trajectories, batch 4")
        bench.figure(f"{name}, one rank: time-out of its process group", seen.timeout, "s", note=f"{TIMEOUT} was set")
        if name == "FSDP2":
            bench.figure(f"{name}, one rank: share of the base that is sharded", seen.sharded / seen.whole)


def sharded_by_hand(bench: Bench, base: BaseModel) -> None:
    """A step over the sharded base on a CPU, where Lightning's strategy does not run, beside one over the whole base."""
    module, samples = Sharded(base, SUN(), MSC(states="teacher")), samples_of(base, 1, 512, form="trajectory")()
    module.log = lambda *_, **__: None  # type: ignore[method-assign]
    whole = module.training_step(samples, 0)["loss"].detach()
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        module._device_mesh = init_device_mesh("cpu", (1,), mesh_dim_names=("data_parallel",))
        module.configure_model()
        loss = module.training_step(samples, 0)["loss"]
        loss.backward()
    finally:
        distributed.destroy_process_group()
    bench.figure("FSDP2, one rank: difference of the loss from the whole base's", float((loss.detach() - whole).abs()))


def train(bench: Bench, base: BaseModel, kind: type[AdapterModule], strategy: Any) -> tuple[float, Seen]:
    """Seconds of an optimizer step."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    steps, made = bench.pick(6, 1), samples_of(base, bench.pick(4, 1), 512, form="trajectory")
    module, seen = kind(base, SUN(), MSC(states="teacher")), Seen()
    trainer = Trainer(
        max_steps=steps + 1, accelerator="cpu" if bench.device == "cpu" else "gpu", devices=1, strategy=strategy,
        precision="32-true" if bench.device == "cpu" else "bf16-mixed", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False, callbacks=[seen],
    )  # fmt: skip
    started = time.perf_counter()
    trainer.fit(
        module, train_dataloaders=torch.utils.data.DataLoader(Given([made() for _ in range(steps + 1)]), batch_size=None)
    )
    if bench.device == "cuda":
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / (steps + 1)
    distributed.destroy_process_group()
    return seconds, seen


class Given(torch.utils.data.Dataset):
    """Batches that were made before, as a data set."""

    def __init__(self, batches: list[Any]):
        super().__init__()
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]
