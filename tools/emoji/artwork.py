"""What a drawing looks like: one emoji, centred, in one of two sizes, on one of eight plain backgrounds."""

import io

import resvg_py
from PIL import Image

from emoji.packages import Files, read_json
from emoji.rendering import Rendering

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
    """The icons of one style, as transparent pictures of any size.

    Args:
        files: of the style's package.
        rendering: applied to each picture.
    """

    def __init__(self, files: Files, rendering: Rendering | None = None):
        self._files, self._rendering = files, rendering
        self._svg = read_json(files, "icons.json") if "icons.json" in files else None

    def render(self, icon: str, pixels: int) -> Image.Image:
        """One icon as a square RGBA picture of pixels x pixels."""
        picture = self._drawn(icon, pixels)
        return picture if self._rendering is None else self._rendering(picture)

    def _drawn(self, icon: str, pixels: int) -> Image.Image:
        if self._svg is None:
            picture = Image.open(io.BytesIO(self._files[f"assets/{icon}.webp"])).convert("RGBA")
            return picture.resize((pixels, pixels), Image.Resampling.LANCZOS)
        entry = icon_of(self._svg, icon)
        left, top, width, height = (entry[side] for side in ("left", "top", "width", "height"))
        svg = (
            f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">{_turned(entry)}</svg>'
        )
        png = resvg_py.svg_to_bytes(svg_string=svg, width=pixels, height=pixels, dpi=96, skip_system_fonts=True)
        return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def icon_of(icons: dict, name: str) -> dict:
    """An icon of iconify's icons.json with its `body`, `left`, `top`, `width`, `height`, `hFlip`, `vFlip` and `rotate`.

    An alias takes everything that it does not state from its parent; flips and turns add up, as iconify defines it.

    Raises:
        SystemExit: no such icon, or aliases in a circle.
    """
    chain = [name]
    aliases = icons.get("aliases", {})
    while chain[-1] not in icons["icons"]:
        parent = aliases.get(chain[-1], {}).get("parent")
        if parent is None or parent in chain:
            raise SystemExit(f"icons.json: {name!r} is no icon, and no alias that leads to one ({' -> '.join(chain)})")
        chain.append(parent)
    found = {"left": 0, "top": 0, "width": icons.get("width", 16), "height": icons.get("height", 16)}
    turned = {"hFlip": False, "vFlip": False, "rotate": 0}
    for entry in (icons["icons"][chain[-1]], *(aliases[alias] for alias in reversed(chain[:-1]))):
        found |= {key: value for key, value in entry.items() if key in (*found, "body")}
        turned["hFlip"] ^= bool(entry.get("hFlip"))
        turned["vFlip"] ^= bool(entry.get("vFlip"))
        turned["rotate"] = (turned["rotate"] + entry.get("rotate", 0)) % 4
    return found | turned


def _turned(entry: dict) -> str:
    """The body, flipped and then turned by quarters about the middle of its square."""
    if not (entry["hFlip"] or entry["vFlip"] or entry["rotate"]):
        return entry["body"]
    x, y = entry["left"] + entry["width"] / 2, entry["top"] + entry["height"] / 2
    across, down = (-1 if entry[flip] else 1 for flip in ("hFlip", "vFlip"))
    steps = f"translate({x} {y}) rotate({90 * entry['rotate']}) scale({across} {down}) translate({-x} {-y})"
    return f'<g transform="{steps}">{entry["body"]}</g>'


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
