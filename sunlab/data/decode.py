"""Undecoded members -> `Sample`. Images by Pillow, text, json and safetensors; nothing that could run code."""

import json
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load as load_safetensors
from torch import Tensor

from sunlab.data.base import Sample
from sunlab.data.tar import IMAGES, LATENT
from sunlab.errors import DataError

MAX_PIXELS = 16_000_000  # larger files are refused before their pixels are unpacked


class BadSample(DataError):
    """A sample that cannot be decoded. `reason` is short and countable, `key` and `shard` say where it is."""

    def __init__(self, message: str, *, shard: str = "", key: str = "", reason: str = ""):
        super().__init__(message)
        self.shard, self.key, self.reason = shard, key, reason


class _Reason(Exception):
    """args: a countable reason, and details of this one."""


def decode(raw: Mapping[str, Any], shard: Path) -> Sample:
    """A sample from its members' bytes.

    Raises:
        BadSample: an image, caption, json or latent is missing, broken or too large.
    """
    key = raw["__key__"]
    try:
        record = _record(raw)
        image = next((_image(raw[suffix], suffix) for suffix in IMAGES if suffix in raw), None)
        latent = _latent(raw[LATENT]) if LATENT in raw else None
        if image is None and latent is None:
            raise _Reason("missing image", f"none of {', '.join((*IMAGES, LATENT))}")
        return Sample(key, _caption(raw, record), record, image=image, latent=latent)
    except _Reason as problem:
        reason, detail = problem.args
        text = f"{shard}: sample {key!r}: {reason} ({detail}); rebuild the shard without it (see `sunlab doctor data`)"
        raise BadSample(text, shard=str(shard), key=key, reason=reason) from None


def texts(raw: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The caption and keywords of an undecoded sample; empty where they are missing or broken."""
    try:
        record = _record(raw)
        keywords = record.get("keywords") or ()
        words = tuple(word for word in keywords if isinstance(word, str)) if isinstance(keywords, list | tuple) else ()
        return _caption(raw, record), words
    except _Reason:
        return "", ()


def _record(raw: Mapping[str, Any]) -> dict[str, Any]:
    try:
        record = json.loads(raw.get("json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise _Reason("bad json", str(error)) from None
    if not isinstance(record, dict):
        raise _Reason("bad json", f"an object was expected, not {type(record).__name__}")
    return record


def _caption(raw: Mapping[str, Any], record: Mapping[str, Any]) -> str:
    if "txt" not in raw:
        caption = record.get("caption")
        if not isinstance(caption, str):
            raise _Reason("missing caption", "neither .txt nor 'caption' in the json")
        return caption
    try:
        return raw["txt"].decode("utf-8").strip()
    except UnicodeDecodeError as error:
        raise _Reason("bad caption", f"not UTF-8: {error}") from None


def _image(data: bytes, suffix: str) -> Tensor:
    """(3, H, W) uint8; transparent parts over white."""
    try:
        with Image.open(BytesIO(data), formats=("PNG", "WEBP", "JPEG")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise _Reason("image too large", f"{image.width}x{image.height}, at most {MAX_PIXELS:,} pixels")
            picture: Image.Image = image
            if image.has_transparency_data:
                picture = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            pixels = np.array(picture.convert("RGB"))
    except _Reason:
        raise
    except Image.DecompressionBombError as error:
        raise _Reason("image too large", str(error)) from None
    except Exception as error:  # Pillow's decoders raise nearly anything on hostile bytes
        raise _Reason("undecodable image", f".{suffix}: {error}") from None
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def _latent(data: bytes) -> Tensor:
    """(C, h, w) float32."""
    try:
        latent = load_safetensors(data)["latent"].float()
    except Exception as error:
        raise _Reason("bad latent", f"{type(error).__name__}: {error}") from None
    if latent.ndim != 3:
        raise _Reason("bad latent", f"shape {tuple(latent.shape)}, expected (C, h, w)")
    return latent
