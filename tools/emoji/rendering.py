"""Styles made from another style's artwork: pixel art, night colours, an outline. Each maps a square RGBA picture to
another of the same size, so that emoji, captions, backgrounds and sizes stay as they are."""

from collections.abc import Callable

from PIL import Image, ImageChops, ImageFilter, ImageOps

Rendering = Callable[[Image.Image], Image.Image]
BLOCKS = 12  # of pixel art, along a side
NIGHT = (0.25, 0.35, 0.75)  # share of the brightness that red, green and blue keep
INK = (32, 32, 48)


def pixel_art(artwork: Image.Image) -> Image.Image:
    """Squares of one colour each, opaque or clear."""
    small = artwork.resize((BLOCKS, BLOCKS), Image.Resampling.BOX)
    small.putalpha(small.getchannel("A").point(lambda value: 255 if value >= 128 else 0))
    return small.resize(artwork.size, Image.Resampling.NEAREST)


def night(artwork: Image.Image) -> Image.Image:
    """Dark and blue: the brightness of the artwork, with little of its colour."""
    grey, alpha = artwork.convert("RGB").convert("L"), artwork.getchannel("A")
    mixed = [
        Image.blend(grey.point(lambda value, keep=keep: round(keep * value)), channel, 0.2)
        for keep, channel in zip(NIGHT, artwork.convert("RGB").split(), strict=True)
    ]
    return Image.merge("RGBA", [*mixed, alpha])


def outline(artwork: Image.Image) -> Image.Image:
    """The edges of the artwork in ink; between them its colours, half as strong, over white."""
    alpha = artwork.getchannel("A")
    flat = Image.new("RGB", artwork.size, "white")
    flat.paste(artwork, mask=alpha)
    edges = ImageChops.lighter(flat.convert("L").filter(ImageFilter.FIND_EDGES), alpha.filter(ImageFilter.FIND_EDGES))
    drawn = Image.blend(flat, Image.new("RGB", flat.size, "white"), 0.5)
    drawn.paste(INK, mask=ImageOps.autocontrast(edges).point(lambda value: min(255, 2 * value)))
    drawn.putalpha(alpha)
    return drawn


RENDERINGS: dict[str, Rendering] = {"pixel-art": pixel_art, "night": night, "outline": outline}
