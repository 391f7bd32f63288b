"""Pictures as the web has them."""

import io
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from fault_injection.samples import SIDE, picture, picture_sample, write_shard
from fault_injection.trial import Seen, trial
from fault_injection.world import World
from sunlab.data.sample import BadSample
from sunlab.data.shards import Shards


def _save(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def _grey() -> Image.Image:
    return Image.new("RGB", (SIDE, SIDE), (90, 90, 90))


def _sixteen() -> bytes:
    return _save(Image.fromarray(np.full((SIDE, SIDE), 30_000, np.uint16)), "PNG")


CASES: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "truncated JPEG": ("jpg", lambda: picture(7, "JPEG")[:-200], "bad"),
    "CMYK JPEG": ("jpg", lambda: _save(_grey().convert("CMYK"), "JPEG"), "read"),
    "16-bit PNG": ("png", _sixteen, "either"),
    "1x1 PNG": ("png", lambda: _save(_grey().resize((1, 1)), "PNG"), "read"),
    "animated WebP": ("webp", lambda: _save(_grey(), "WEBP", save_all=True, append_images=[_grey()]), "either"),
    "animated PNG": ("png", lambda: _save(_grey(), "PNG", save_all=True, append_images=[_grey()]), "either"),
    "GIF named .png": ("png", lambda: _save(_grey(), "GIF"), "bad"),
    "PNG named .jpg": ("jpg", lambda: picture(9), "read"),
    "text named .jpg": ("jpg", lambda: b"<html>404</html>", "bad"),
    "nothing": ("jpg", lambda: b"", "bad"),
}
"""Name -> suffix, bytes, and whether it is to be read, is a bad sample, or may be either."""


@trial(
    "faults", "10 truncated JPEG, CMYK, 16-bit, 1x1, animated, wrong extension", "read as RGB bytes, or a bad sample by name"
)
def pictures(world: World, seen: Seen) -> None:
    folder = world.place("pictures")
    for number, (name, (suffix, data, expected)) in enumerate(CASES.items()):
        sample = {key: value for key, value in picture_sample(number).items() if key != "png"}
        path = write_shard(folder / f"{number}.tar", [{**sample, suffix: data()}])
        bad: list[BadSample] = []
        found = list(Shards(urls=[str(path)], shuffle=0).pipeline(stream=0, passes=1, bad=bad.append))
        for error in bad:
            named = path.name in str(error) and error.key in str(error) and error.reason
            seen.check(expected != "read" and bool(named), f"{name}: {error}")
        for image in (item["sample"].image for item in found):
            right = image.dtype == torch.uint8 and image.shape[0] == 3
            seen.check(expected != "bad" and right, f"{name}: read as {image.dtype} {tuple(image.shape)}")
        seen.check(len(bad) + len(found) == 1, f"{name}: {len(bad)} bad samples and {len(found)} good ones")
    mixed = [picture_sample(number) for number in range(7)]
    mixed.append({**picture_sample(7), "png": CASES["1x1 PNG"][1]()})
    outcome = world.fit(world.config("sizes", [write_shard(folder / "sizes.tar", mixed)]))
    seen.check(outcome.codes == [65] and "differ in image" in outcome.log, f"1x1 among others: {outcome.log[-300:]}")
