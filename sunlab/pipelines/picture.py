"""Labelled grids of pictures, as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from sunlab.files import replacing

MARGIN, LABEL = 4, 14


def grid_image(
    rows: Sequence[Tensor], *, labels: Sequence[str] = (), captions: Sequence[str] = (), zoom: int = 1
) -> Image.Image:
    """One picture of many.

    Args:
        rows: each (B, 3, H, W) in [0, 1], equal B.
        labels: a line above each row.
        captions: text below each column, wrapped.
        zoom: each pixel drawn so many times wide.
    """
    font = ImageFont.load_default(size=11)
    _, _, height, width = rows[0].shape
    cell_w, cell_h = width * zoom + MARGIN, height * zoom + MARGIN
    lines = [_wrap(caption, cell_w - MARGIN, font) for caption in captions]
    below = max((len(wrapped) for wrapped in lines), default=0) * LABEL
    label = LABEL if labels else 0
    size = (len(rows[0]) * cell_w + MARGIN, len(rows) * (cell_h + label) + below + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for r, row in enumerate(rows):
        top = MARGIN + r * (cell_h + label)
        if labels:
            draw.text((MARGIN, top), labels[r], fill="black", font=font)
        for c, picture in enumerate(row):
            tile = Image.fromarray(to_uint8(picture)).resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
            sheet.paste(tile, (MARGIN + c * cell_w, top + label))
    for c, wrapped in enumerate(lines):
        text = "\n".join(wrapped)
        draw.multiline_text((MARGIN + c * cell_w, size[1] - below), text, fill="black", font=font, spacing=1)
    return sheet


def to_uint8(picture: Tensor) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8."""
    return (picture.permute(1, 2, 0).clamp(0, 1).cpu().numpy() * 255).round().astype(np.uint8)


def save_png(image: Image.Image, path: Path) -> Path:
    """Write the PNG beside its final name, then move it there."""
    with replacing(path) as temporary:
        image.save(temporary, format="PNG")
    return path


def _wrap(text: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines
