"""Writes a base whose U-Net has more layers in each block, and at first computes what the given one does.

    python tools/deepen_base.py emoji-sd --layers 2 --out runs/deep_start

A new layer begins as the identity: the last convolution of its residual block and the output projection of its attention are
zero (Net2Net, Chen et al., arXiv 1511.05641, adds layers to a trained network so). The decoder's new layers take the skip
connections of the encoder's new layers, through a shortcut that passes on what comes from below. Text encoder, tokenizer,
autoencoder and scheduler are copied.
"""

import argparse
import re
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn

from sunlab.backbones.pretrained import load_base, quiet, save_base

LAYER = re.compile(r"((down|up)_blocks\.\d+\.(?:resnets|attentions)\.)(\d+)(.*)")


def deepen(unet: UNet2DConditionModel, layers: int) -> UNet2DConditionModel:
    """A U-Net of `layers` layers a block that computes what `unet` does.

    Args:
        unet: with the same number of layers in every block, at most `layers`.

    Raises:
        ValueError: for another U-Net.
    """
    old = unet.config["layers_per_block"]
    if not isinstance(old, int) or not old <= layers:
        raise ValueError(f"layers_per_block is {old}; it has to be one number, at most the {layers} of --layers")
    deep = UNet2DConditionModel.from_config(dict(unet.config, layers_per_block=layers))
    weights = unet.state_dict()
    for name, value in deep.state_dict().items():
        if (source := origin(name, old, layers)) is not None:
            value.copy_(weights[source])
    for name, block in deep.named_modules():
        if isinstance(block, ResnetBlock2D | Transformer2DModel) and origin(name, old, layers) is None:
            pass_on(block)
    return deep


def origin(name: str, old: int, layers: int) -> str | None:
    """The name of a module or weight in the U-Net of `old` layers; None if it is new. A decoder's last layer stays last."""
    if not (part := LAYER.fullmatch(name)) or int(part[3]) < old:
        return name
    last = part[2] == "up" and int(part[3]) == layers
    return f"{part[1]}{old}{part[4]}" if last else None


@torch.no_grad()
def pass_on(block: ResnetBlock2D | Transformer2DModel) -> None:
    """Makes a residual block or an attention the identity, in the decoder of the input without its skip connection."""
    last = block.conv2 if isinstance(block, ResnetBlock2D) else block.proj_out
    nn.init.zeros_(last.weight), nn.init.zeros_(last.bias)
    if getattr(block, "conv_shortcut", None) is not None:
        weight: Tensor = block.conv_shortcut.weight
        nn.init.zeros_(weight), nn.init.zeros_(block.conv_shortcut.bias)
        weight[:, : len(weight), 0, 0] = torch.eye(len(weight))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a diffusers folder of the SD family, or emoji-sd")
    parser.add_argument("--layers", type=int, default=2, help="layers of a block")
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    arguments = parser.parse_args()
    quiet()
    base = load_base(arguments.base)
    unet = getattr(base.backbone, "unet", None)
    if not isinstance(unet, UNet2DConditionModel):
        parser.error(f"{arguments.base}: its network is no UNet2DConditionModel")
    try:
        base.backbone.unet = deepen(unet, arguments.layers)
    except ValueError as error:
        parser.error(f"{arguments.base}: {error}")
    save_base(base, arguments.out)
    before, after = (sum(p.numel() for p in net.parameters()) for net in (unet, base.backbone.unet))
    print(f"{arguments.out}: {after:,} weights in the U-Net, {before:,} before")


if __name__ == "__main__":
    main()
