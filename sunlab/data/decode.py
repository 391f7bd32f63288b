"""Undecoded members -> `Sample`. Images by Pillow, text, json and safetensors; nothing that could run code."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from random import Random
from typing import Any

import numpy as np
from PIL import Image, WebPImagePlugin  # noqa: F401 -- else Pillow imports all its plugins to find it
from safetensors.torch import load as load_safetensors
from torch import Tensor

from sunlab.data.fields import Captions, text
from sunlab.data.filters.base import Facts
from sunlab.data.framing import Framing, pixels
from sunlab.data.sample import Raw, Sample, bad_sample
from sunlab.data.tar import IMAGES, LATENT, MEMBERS
from sunlab.files import decode_text

ORIENTATION = 0x0112
MAX_PIXELS = 16_000_000  # larger pictures are refused before their pixels are unpacked
FORMATS = ("PNG", "WEBP", "JPEG")
# EXIF's orientation (tag 0x0112, JEITA CP-3451, 4.6.5) -> what turns the stored pixels upright
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = tuple(UPRIGHT[orientation] for orientation in (5, 6, 7, 8))  # width and height change places


class _Reason(Exception):
    """args: a countable reason, and details of this one."""


@dataclass(frozen=True)
class Decoder:
    """How samples are decoded.

    Attributes:
        framing: resize and crop; None keeps each picture as it is.
        captions: which text is the prompt; None: the caption.
        max_pixels: larger pictures are refused before they are unpacked.
        pictures: whether a sample without a picture or latent is bad; False: none is looked for.
    """

    framing: Framing | None = None
    captions: Captions | None = None
    max_pixels: int = MAX_PIXELS
    pictures: bool = True

    def __call__(self, raw: Raw, shard: str, random: Random) -> Sample:
        """A sample from its members' bytes; `random` is keyed by (seed, epoch, key).

        Raises:
            BadSample: an image, caption, json or latent is missing, broken or too large.
        """
        try:
            members = raw.members
            record = _record(members)
            crop, image = None, None
            latent: dict[str, Any] = {}
            suffix = next((suffix for suffix in IMAGES if suffix in members), None)
            if not self.pictures:
                pass
            elif LATENT in members:
                latent, crop = _latent(_whole(members, LATENT)), _crop(record)
            elif suffix is not None:
                image, crop = self._image(_whole(members, suffix), suffix, random)
            else:
                raise _Reason("missing image", f"none of {', '.join((*IMAGES, LATENT))}")
            caption = _caption(members, record)
            if self.captions is not None:
                caption = self.captions.choose(random, caption, record)
            if caption is None:
                raise _Reason("missing caption", "neither .txt nor a caption in the json")
            return Sample(raw.key, caption, record, image=image, crop=crop, **latent)
        except _Reason as problem:
            raise bad_sample(shard, raw.key, *problem.args) from None

    def _image(self, data: bytes, suffix: str, random: Random) -> tuple[Tensor, tuple[int, ...] | None]:
        """(3, H, W) uint8, transparent parts over white, and the crop."""
        try:
            with Image.open(BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > self.max_pixels:
                    raise _Reason("image too large", f"{image.width}x{image.height}, at most {self.max_pixels:,} pixels")
                if image.format == "PNG":
                    image.load()  # its EXIF may follow the pixels: a damaged picture must fail here, not in `_upright`
                upright = _upright(image)
                size = (image.height, image.width) if upright in SIDEWAYS else (image.width, image.height)
                if self.framing is not None and not self.framing.full and image.format == "JPEG":
                    scaled = self.framing.scaled(*size)  # unpacked at a half, a quarter, ... where that is enough
                    image.draft(None, scaled[::-1] if upright in SIDEWAYS else scaled)
                image.load()
                picture = _rgb(image)
                if upright is not None:
                    picture = picture.transpose(upright)
            if self.framing is None:
                return pixels(picture).contiguous(), None
            return self.framing(picture, size, random)
        except _Reason:
            raise
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise _Reason("image too large", str(error)) from None
        except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
            raise _Reason("undecodable image", f".{suffix}: {error}") from None


def _upright(image: Image.Image) -> Image.Transpose | None:
    """By the picture's EXIF (or XMP) orientation. A broken EXIF block counts as none."""
    try:
        return UPRIGHT.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # Pillow raises nearly anything on a hostile block
        return None


def image_size(members: Mapping[str, bytes]) -> tuple[int, int] | None:
    """Width and height, upright, by the image's header; None where there is no image that can be opened."""
    data = next((members[suffix] for suffix in IMAGES if suffix in members), None)
    try:
        with Image.open(BytesIO(data or b""), formats=FORMATS) as image:
            return image.size[::-1] if _upright(image) in SIDEWAYS else image.size
    except Exception:  # as above
        return None


def facts_of(raw: Raw, *, picture: bool = False) -> Facts:
    """What filters look at, with `picture` its size too. A caption or json that is broken counts as missing; decoding
    reports it."""
    try:
        record = _record(raw.members)
    except _Reason:
        record = {}
    size = image_size(raw.members) if picture else None
    try:
        return Facts(raw.key, _caption(raw.members, record), record, size)
    except _Reason:
        return Facts(raw.key, None, record, size)


def texts(raw: Raw) -> tuple[str, tuple[str, ...]]:
    """The caption and keywords of an undecoded sample; empty where they are missing or broken."""
    facts = facts_of(raw)
    return facts.caption or "", keywords_of(facts.record)


def keywords_of(record: Mapping[str, Any]) -> tuple[str, ...]:
    """The strings of the list `keywords`; empty where there is none."""
    keywords = record.get("keywords")
    return tuple(word for word in keywords if isinstance(word, str)) if isinstance(keywords, list | tuple) else ()


def _whole(members: Mapping[str, bytes], suffix: str) -> bytes:
    if len(members[suffix]) > MEMBERS[suffix]:
        raise _Reason("member too large", f".{suffix} has more than {MEMBERS[suffix]:,} bytes")
    return members[suffix]


def _record(members: Mapping[str, bytes]) -> dict[str, Any]:
    if "json" not in members:
        return {}
    try:
        record = json.loads(_whole(members, "json"))
    except (ValueError, RecursionError) as error:
        raise _Reason("bad json", str(error)) from None
    if not isinstance(record, dict):
        raise _Reason("bad json", f"an object was expected, not {type(record).__name__}")
    return record


def _caption(members: Mapping[str, bytes], record: Mapping[str, Any]) -> str | None:
    if "txt" not in members:
        return text(record, "caption")
    try:
        return decode_text(_whole(members, "txt")).strip()
    except UnicodeDecodeError as error:
        raise _Reason("bad caption", f"not text: {error}") from None


def _rgb(image: Image.Image) -> Image.Image:
    """Of the first frame; 16-bit grey by its high byte, which Pillow's own conversion would clip to white."""
    if image.mode.startswith(("I", "F")):
        if image.mode == "F":
            raise _Reason("undecodable image", "floating-point pixels")
        grey = np.asarray(image).astype(np.int64).clip(0, 65535) >> 8
        return Image.fromarray(grey.astype(np.uint8), "L").convert("RGB")
    if image.has_transparency_data:
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA")).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _crop(record: Mapping[str, Any]) -> tuple[int, ...] | None:
    crop = record.get("crop")
    fits = isinstance(crop, list) and len(crop) == 6 and all(type(n) is int and 0 <= n < 2**31 for n in crop)
    return tuple(crop) if fits else None  # type: ignore[arg-type]


RANKS = {"latent": 3, "tokens": 2, "pooled": 1, "mask": 1, "words": 1}
"""Dimensions of the tensors of a sample that was encoded ahead."""


def _latent(data: bytes) -> dict[str, Any]:
    """`latent` (C, h, w) float32; where the prompt was encoded too, `tokens` (L, d) and `pooled` (p,) float32, `mask` and
    `words` (L,) bool."""
    try:
        tensors = load_safetensors(data)
        found: dict[str, Any] = {name: tensors[name] for name in RANKS if name in tensors}
        found = {name: value.bool() if name in ("mask", "words") else value.float() for name, value in found.items()}
        shapes = {name: tensor.ndim for name, tensor in found.items()}
    except Exception as error:
        raise _Reason("bad latent", f"{type(error).__name__}: {error}") from None
    if "latent" not in shapes or any(RANKS[name] != rank for name, rank in shapes.items()):
        raise _Reason("bad latent", f"ranks {shapes}, expected {RANKS}, `latent` at least")
    return found
