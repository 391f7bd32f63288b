"""What a drawing looks like: one emoji, centred, in one of two sizes, on one of eight plain backgrounds."""

import io
import json

import resvg_py
from PIL import Image

BACKGROUNDS = {  # RGB
    "red": (208, 24, 40),
    "green": (16, 144, 64),
    "blue": (32, 88, 224),
    "yellow": (255, 224, 48),
    "purple": (128, 48, 176),
    "orange": (255, 136, 0),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
SIZES = {"small": 0.6, "large": 0.92}  # share of the frame that the artwork's square takes


class Artwork:
    """The icons of one style, as transparent pictures of any size."""

    def __init__(self, files: dict[str, bytes]):
        self._files = files
        self._svg = json.loads(files["icons.json"]) if "icons.json" in files else None

    def render(self, icon: str, pixels: int) -> Image.Image:
        """One icon as a square RGBA picture of pixels x pixels."""
        if self._svg is None:
            picture = Image.open(io.BytesIO(self._files[f"assets/{icon}.webp"])).convert("RGBA")
            return picture.resize((pixels, pixels), Image.Resampling.LANCZOS)
        entry = self._svg["icons"][icon]
        width, height = (entry.get(side, self._svg[side]) for side in ("width", "height"))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">{entry["body"]}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels, dpi=96, skip_system_fonts=True)
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def artwork_pixels(size: str, frame: int) -> int:
    """How wide the artwork is drawn: even in an even frame, so that it sits in the very middle."""
    margin = round(frame * (1 - SIZES[size]) / 2)
    return frame - 2 * margin


def compose(artwork: Image.Image, background: str, frame: int) -> Image.Image:
    """The artwork in the middle of a plain RGB frame."""
    picture = Image.new("RGB", (frame, frame), BACKGROUNDS[background])
    corner = ((frame - artwork.width) // 2, (frame - artwork.height) // 2)
    picture.paste(artwork, corner, mask=artwork)
    return picture


def encode(picture: Image.Image) -> bytes:
    """The picture as lossless WebP."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", lossless=True, quality=75, method=6)
    return buffer.getvalue()
