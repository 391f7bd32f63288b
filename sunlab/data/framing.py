"""Resize and crop, with the crop recorded, as SDXL's conditioning has it; shapes of the aspect-ratio buckets."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from sunlab.errors import ConfigError

Crop = tuple[int, ...]  # original height and width, top and left of the crop in the resized picture, its height and width

VECTORIZED = torch.__version__ >= "2.12"  # whether torch has the Lanczos filter
SPARE = 4  # times the pixels that are kept: beyond it only these are resized


@dataclass(frozen=True)
class Framing:
    """Pictures of one size: resized so that they cover it, then cropped.

    Attributes:
        width, height: of what comes out, in pixels.
        crop: "center", or "random": a place drawn from (seed, epoch, key).
        flip: share of pictures that are mirrored, drawn likewise; text in pictures turns around.
        full: unpack all pixels and resize with Pillow; False: unpack JPEGs at a scale of 1/2, 1/4 or 1/8 where that is
            enough, and resize with torch's vectorized Lanczos filter, which differs from Pillow's by 1 of 255 at most.
    """

    width: int
    height: int
    crop: Literal["center", "random"] = "center"
    flip: float = 0.0
    full: bool = False

    def __post_init__(self) -> None:
        if min(self.width, self.height) < 1 or not 0 <= self.flip <= 1:
            raise ConfigError(f"pictures of {self.width}x{self.height} with flip {self.flip}: a size and a share, please")

    def scaled(self, width: int, height: int) -> tuple[int, int]:
        """The size, at least `self`'s in both directions, to which a picture of this size is resized."""
        scale = max(self.width / width, self.height / height)
        return max(self.width, round(width * scale)), max(self.height, round(height * scale))

    def __call__(self, picture: Image.Image, size: tuple[int, int], random: Random) -> tuple[Tensor, Crop]:
        """The framed picture (3, height, width) uint8 and its crop.

        Args:
            picture: RGB, maybe unpacked at a smaller scale.
            size: the original width and height.
            random: keyed by (seed, epoch, key).
        """
        width, height = self.scaled(*size)
        spare_x, spare_y = width - self.width, height - self.height
        if self.crop == "center":
            left, top = spare_x // 2, spare_y // 2
        else:
            left, top = random.randint(0, spare_x), random.randint(0, spare_y)
        place = slice(top, top + self.height), slice(left, left + self.width)
        if picture.size == (width, height):
            frame = pixels(picture)[:, *place]
        elif VECTORIZED and not self.full and width * height <= SPARE * self.width * self.height:
            frame = interpolate(pixels(picture)[None], (height, width), mode="lanczos", antialias=True)[0][:, *place]
        else:  # only the part that is kept is scaled: a banner of 3000 x 1 scaled to cover 512 x 512 has 786 megapixels
            across, down = picture.width / width, picture.height / height
            box = (left * across, top * down, (left + self.width) * across, (top + self.height) * down)
            box = (*box[:2], min(box[2], picture.width), min(box[3], picture.height))
            frame = pixels(picture.resize((self.width, self.height), Image.Resampling.LANCZOS, box, reducing_gap=2.0))
        if self.flip and random.random() < self.flip:
            frame, left = frame.flip(2), spare_x - left
        return frame.contiguous(), (size[1], size[0], top, left, self.height, self.width)


def pixels(picture: Image.Image) -> Tensor:
    """The pixels of an RGB picture: (3, height, width) uint8, as Pillow lays them out, channels last."""
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)


def shapes(size: int, step: int, longest: float = 2.0) -> list[tuple[int, int]]:
    """Widths and heights, multiples of `step`, of at most size x size pixels, none more than `longest` times as long as
    wide; from the tallest to the widest."""
    widths = range(step, size * size // step + 1, step)
    found = {(width, size * size // width // step * step) for width in widths}
    return sorted((w, h) for w, h in found if h >= step and max(w, h) <= longest * min(w, h))


def nearest(width: float, height: float, choices: Sequence[tuple[int, int]]) -> int:
    """The choice whose aspect ratio is nearest, by its logarithm."""
    ratio = math.log(width / height)
    return min(range(len(choices)), key=lambda i: (abs(math.log(choices[i][0] / choices[i][1]) - ratio), i))
