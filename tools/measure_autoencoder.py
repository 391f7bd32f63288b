"""PSNR of a base's autoencoder on shards: python tools/measure_autoencoder.py BASE SHARDS..."""

import argparse
from pathlib import Path

import torch

from sunlab.backbones.autoencoder import to_signed
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.data.shards import Shards
from sunlab.modules.autoencoder import psnr
from sunlab.pipelines.picture import grid_image, save_png


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="a diffusers folder, or emoji-sd")
    parser.add_argument("shards", nargs="+")
    parser.add_argument("--picture", type=Path, help="write originals above reconstructions")
    arguments = parser.parse_args()
    quiet()
    autoencoder = load_base(arguments.base).freeze().autoencoder
    source = Shards(urls=arguments.shards, shuffle=0)
    samples = list(source.read(seed=0, epoch=0, start=0, stop=len(source)))
    images = torch.stack([sample.image for sample in samples if sample.image is not None])
    latents = torch.cat([autoencoder.encode(part) for part in images.split(64)])
    decoded = torch.cat([autoencoder.decode(part) for part in latents.split(64)])
    values = torch.stack([psnr(2 * d[None] - 1, to_signed(i[None])) for d, i in zip(decoded, images, strict=True)])
    spread = latents.std(dim=(0, 2, 3)).tolist()
    print(f"{len(images)} pictures: PSNR mean {values.mean():.2f} dB, worst {values.min():.2f} dB; ", end="")
    print(f"latents' deviation by channel {', '.join(f'{s:.3f}' for s in spread)}")
    if arguments.picture is not None:
        save_png(grid_image([images[:12] / 255, decoded[:12]], zoom=2), arguments.picture)


if __name__ == "__main__":
    main()
