"""Steps a second on 1, 2, ... ranks of this machine for one global batch, and the bytes that the ranks exchange in a step:

python tools/bench_scaling.py --config configs/quickstart.yaml --ranks 1 2 --steps 20

Gradients are counted where DDP hands them over, everything else where torch.distributed is called. The ranks share this
machine's processors (or take one GPU each): on a machine with fewer processors than ranks the times are meaningless.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

from registry import load_plugins
from sunlab.app.compose import build_base, build_data, build_module
from sunlab.app.trainer import build_trainer
from sunlab.callbacks.spending import Spending
from sunlab.cli.quiet import quiet
from sunlab.config.load import load_config

WARMUP = 3  # steps before the clock starts


class Meter(Callback):
    """Bytes sent by collectives and seconds, over the steps after the warm-up."""

    def __init__(self) -> None:
        self.gradients = self.other = self.calls = 0
        self.started, self.seconds, self.counting = 0.0, 0.0, False

    def on_fit_start(self, trainer: Trainer, module: LightningModule) -> None:
        model: Any = trainer.strategy.model
        if not isinstance(model, torch.nn.parallel.DistributedDataParallel):
            return

        def hook(state: Any, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
            size = bucket.buffer().nbytes * self.counting
            self.gradients += size
            self.other, self.calls = self.other - size, self.calls - self.counting  # all_reduce counts them too
            return allreduce_hook(state, bucket)

        model.register_comm_hook(None, hook)
        for name in ("all_reduce", "broadcast"):
            setattr(dist, name, self._counted(getattr(dist, name)))

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *args: Any) -> None:
        if trainer.global_step == WARMUP:
            self.counting, self.started = True, time.perf_counter()

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds, self.counting = time.perf_counter() - self.started, False

    def _counted(self, function: Any) -> Any:
        def call(tensor: torch.Tensor, *args: Any, **options: Any) -> Any:
            self.other += tensor.nbytes * self.counting
            self.calls += self.counting
            return function(tensor, *args, **options)

        return call


def measure(arguments: argparse.Namespace) -> None:
    """One rank; the first prints a line of JSON."""
    quiet()
    words = [f"trainer.max_steps={arguments.steps + WARMUP}", "trainer.enable_progress_bar=false", "trainer.logger=false"]
    with tempfile.TemporaryDirectory() as folder:
        words += ["callbacks=[]", f"run.dir={folder}", "run.checkpoint_every=1000000", *arguments.overrides]
        loaded = load_config(arguments.config, words)
        load_plugins(loaded.config.plugins)
        base = build_base(loaded.config)
        module = build_module(loaded.config, base)
        meter = Meter()
        trainer = build_trainer(loaded.config, Path(folder), Spending(), [], [meter])
        trainer.fit(module, datamodule=build_data(loaded.config, base, accumulate=trainer.accumulate_grad_batches))
        if trainer.is_global_zero:
            weights = module.trainable().values()
            print(
                json.dumps(
                    {
                        "ranks": trainer.world_size,
                        "batch": loaded.config.data.batch_size,
                        "seconds": meter.seconds / arguments.steps,
                        "gradients": meter.gradients / arguments.steps,
                        "other": meter.other / arguments.steps,
                        "calls": meter.calls / arguments.steps,
                        "trainable": sum(p.numel() for p in weights),
                        "trainable_bytes": sum(p.nbytes for p in weights),
                    }
                )
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=20, help="measured ones")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_intermixed_args()
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return measure(arguments)
    print("| ranks | batch | s / step | samples / s | gradient bytes / step / rank | other bytes (calls) | trainable |")
    print("|---|---|---|---|---|---|---|")
    for ranks in arguments.ranks:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", __file__]
        done = subprocess.run([*command, *sys.argv[1:]], stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("{")))
        print(
            f"| {found['ranks']} | {found['batch']} | {found['seconds']:.4f} | {found['batch'] / found['seconds']:.1f} | "
            f"{found['gradients']:,.0f} | {found['other']:,.0f} ({found['calls']:.1f}) | "
            f"{found['trainable']:,} in {found['trainable_bytes']:,} bytes |",
            flush=True,
        )
    return None


if __name__ == "__main__":
    main()
