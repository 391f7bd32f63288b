"""A fine-tune at several strengths: base + strength * (fine-tune - base), each a diffusers folder, to plot transfer against
how far a fine-tune went:

python tools/blend_bases.py emoji-sd runs/twemoji/export --strengths 0.25 0.5 0.75 1.25 --out runs/twemoji-strengths
"""

import argparse
from pathlib import Path

import torch

from sunlab.backbones.pretrained import load_base, quiet, save_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a diffusers folder, or emoji-sd")
    parser.add_argument("fine_tune", help="the folder of a fine-tune of its U-Net")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.25, 0.5, 0.75])
    parser.add_argument("--out", type=Path, required=True, help="folder for one folder a strength")
    arguments = parser.parse_args()
    quiet()
    base, fine = load_base(arguments.base), load_base(arguments.fine_tune)
    start = {k: v.clone() for k, v in base.backbone.unet.state_dict().items()}
    moved = {k: v - start[k] for k, v in fine.backbone.unet.state_dict().items()}
    length = norm(start)
    for strength in arguments.strengths:
        fine.backbone.unet.load_state_dict({k: start[k] + strength * moved[k] for k in start})
        folder = arguments.out / f"{strength:g}"
        save_base(fine, folder)
        print(f"{folder}: |delta theta| / |theta| = {strength * norm(moved) / length:.4f}")


def norm(tensors: dict[str, torch.Tensor]) -> float:
    """The Euclidean length of all numbers together."""
    return float(torch.stack([t.double().square().sum() for t in tensors.values()]).sum().sqrt())


if __name__ == "__main__":
    main()
