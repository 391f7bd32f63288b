"""Time, NFE, bytes and cost of training a SUN adapter for SD 1.5 on several GPUs:

python tools/plan_scaling.py --samples 5e6 --batch 512 --tflops 200 --gbytes 20 --price 2.5

Counted here: the U-Net's work of one pass (by torch, on shapes without data) and the adapter's parameters. Given by you,
and to be measured on your machine: --tflops, what one GPU sustains in this training; --gbytes, what one GPU's link carries
each way (GB/s); --price of a GPU's hour. All else is arithmetic: a step takes its work at that rate, and then, with nothing
hidden behind it, a ring all-reduce of the gradients, 2 (n - 1) / n times their bytes through every link.
"""

import argparse
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from sunlab.adapters.sun import SUN
from sunlab.backbones.sd.layers import UNetLayers

SIDE, TOKENS = 64, 77  # latent positions a side at 512 pixels; tokens of a prompt
BACKWARD = 2  # NFE of a backward pass


def counted(folder: Path) -> tuple[float, int]:
    """FLOP of one pass of the U-Net for one sample, and the adapter's parameters."""
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(folder)).requires_grad_(False)
        x, t = torch.empty(1, 4, SIDE, SIDE), torch.zeros(1, dtype=torch.long)
        words = torch.empty(1, TOKENS, unet.config["cross_attention_dim"])
        with FlopCounterMode(display=False) as work, torch.no_grad():
            unet(x, t, words)
        adapter = SUN()
        adapter.attach(UNetLayers(unet))
    return float(work.get_total_flops()), sum(p.numel() for p in adapter.trainable())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--unet", type=Path, default=Path("sunlab/assets/families/sd15/unet"), help="folder of its config.json"
    )
    parser.add_argument("--samples", type=float, default=5e6, help="in the whole training")
    parser.add_argument("--batch", type=int, default=512, help="samples in a step, of all GPUs")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 16, 32, 64])
    parser.add_argument(
        "--substeps", type=int, default=2, help="guided teacher steps a sample, NFE 2 each; 0: a trajectory dataset"
    )
    parser.add_argument("--tflops", type=float, required=True)
    parser.add_argument("--gbytes", type=float, required=True)
    parser.add_argument("--price", type=float, required=True)
    asked = parser.parse_args()
    flop, parameters = counted(asked.unet)
    passes, steps, gradients = 2 * asked.substeps + 1 + BACKWARD, asked.samples / asked.batch, 4 * parameters
    print(f"counted: {flop / 1e9:.0f} GFLOP a pass; {parameters:,} parameters, {gradients / 1e6:.1f} MB of fp32 gradients")
    print(f"arithmetic: {passes} NFE a sample, {asked.samples * passes:.3g} in all, {steps:,.0f} steps")
    print(f"given: {asked.tflops:g} TFLOP/s a GPU, {asked.gbytes:g} GB/s a link, {asked.price:g} a GPU-hour\n")
    print(
        "| GPUs | samples / GPU | work, s / step | sent, MB / GPU / step | exchange, s / step | hours | GPU-hours | cost |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for gpus in asked.gpus:
        work = asked.batch / gpus * passes * flop / (asked.tflops * 1e12)
        exchanged = 2 * (gpus - 1) / gpus * gradients
        waiting = exchanged / (asked.gbytes * 1e9)
        hours = steps * (work + waiting) / 3600
        print(
            f"| {gpus} | {asked.batch / gpus:g} | {work:.3f} | {exchanged / 1e6:.0f} | {waiting:.4f} | {hours:.1f} | "
            f"{hours * gpus:,.0f} | {hours * gpus * asked.price:,.0f} |"
        )


if __name__ == "__main__":
    main()
