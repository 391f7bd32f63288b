"""EXIF orientation: pixels, sizes, crops, buckets and filters see a picture as it is shown. `ImageOps.exif_transpose` is
the reference."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from tars import members, write_tar

from sunlab.data.decode import facts_of, image_size
from sunlab.data.doctor import examine
from sunlab.data.filters.fields import AspectRatio, Size
from sunlab.data.sample import Raw
from sunlab.data.shards import Shards

KINDS = [("jpg", "JPEG"), ("png", "PNG"), ("webp", "WEBP")]


def turned(orientation, kind, size=(96, 64)):
    """Four colours in the corners, so that each of the eight orientations looks different."""
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2], pixels[: height // 2, width // 2 :] = (220, 30, 30), (30, 220, 30)
    pixels[height // 2 :, : width // 2], pixels[height // 2 :, width // 2 :] = (30, 30, 220), (220, 220, 220)
    exif, data = Image.Exif(), BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(data, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {"quality": 95}))
    return data.getvalue()


def read(folder, **given):
    shards = Shards(urls=[f"{folder}/*.tar"], shuffle=0, **given)
    return list(shards.read(seed=0, epoch=0, start=0, stop=len(shards)))


@pytest.mark.parametrize(("suffix", "kind"), KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_crops(tmp_path, orientation, suffix, kind):
    data = turned(orientation, kind)
    write_tar(tmp_path / "a.tar", [{"__key__": "a", suffix: data, "txt": b"x"}])
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    (whole,), (cropped,) = read(tmp_path), read(tmp_path, size=32)
    assert torch.equal(whole.image, torch.from_numpy(np.array(upright)).permute(2, 0, 1))
    width, height = upright.size
    assert cropped.crop == (height, width, *((0, 8) if width > height else (8, 0)), 32, 32)
    corners = whole.image[:, [4, 4, -5, -5], [4, -5, 4, -5]]
    assert (cropped.image[:, [2, 2, -3, -3], [2, -3, 2, -3]].int() - corners.int()).abs().max() < 12
    assert examine(Shards(urls=[f"{tmp_path}/*.tar"]), 1).sizes == {(height, width): 1}


@pytest.mark.parametrize(("suffix", "kind"), KINDS)
def test_buckets(tmp_path, suffix, kind):
    samples = [{"__key__": f"{n}", suffix: turned(n, kind, (96, 48)), "txt": b"x"} for n in range(1, 9)]
    write_tar(tmp_path / "a.tar", samples)
    shards = Shards(urls=[f"{tmp_path}/*.tar"], size=48, buckets=16, order="exact")
    found = {}
    for part in shards.parts():
        found |= {s.key: tuple(s.image.shape[1:]) for s in part.read(seed=0, epoch=0, start=0, stop=len(part))}
    assert found == {str(n): (32, 64) if n < 5 else (64, 32) for n in range(1, 9)}


def test_filters():
    raw = Raw("a", {"jpg": turned(6, "JPEG"), "txt": b"x", "json": b'{"width": 96, "height": 64}'})
    assert image_size(raw.members) == (64, 96) and facts_of(raw, picture=True).size == (64, 96)
    bare = facts_of(Raw("a", {"jpg": turned(6, "JPEG")}), picture=True)
    assert (bare.size, Size(missing="error").value(bare), AspectRatio(missing="error").value(bare)) == ((64, 96), 64, 1.5)
    original = facts_of(raw._replace(members={**raw.members, "json": b'{"WIDTH": 960, "HEIGHT": 640}'}), picture=True)
    assert original.size == (640, 960)
    assert facts_of(raw).size == (96, 64) and facts_of(Raw("a", {}), picture=True).size is None


def test_a_broken_exif_block_turns_nothing(tmp_path):
    data = bytearray(turned(6, "JPEG"))
    start = data.index(b"Exif\0\0") + 6
    data[start : start + 8] = b"\xff" * 8
    write_tar(tmp_path / "a.tar", [{**members(0), "png": bytes(data)}])
    assert read(tmp_path)[0].image.shape == (3, 64, 96)


@pytest.mark.parametrize("size", [(3000, 1), (1, 3000), (20000, 2), (2, 20000), (60000, 1)])
def test_a_thin_picture_costs_no_memory(tmp_path, size, monkeypatch):
    """The largest picture that is ever made is the one that comes out, or the stored one."""
    data, made = BytesIO(), []
    ramp = np.linspace(0, 255, max(size)).astype(np.uint8)
    pixels = np.broadcast_to(ramp[None] if size[0] > size[1] else ramp[:, None], size[::-1])
    Image.fromarray(np.repeat(pixels[..., None], 3, 2)).save(data, "PNG")
    write_tar(tmp_path / "a.tar", [{**members(0), "png": data.getvalue()}])
    resize = Image.Image.resize
    monkeypatch.setattr(Image.Image, "resize", lambda self, *a, **k: made.append(resize(self, *a, **k)) or made[-1])
    (sample,) = read(tmp_path, size=512)
    assert sample.image.shape == (3, 512, 512) and [picture.size for picture in made] == [(512, 512)]
    assert (sample.image.float().mean() - 127.5).abs() < 3  # the middle
    assert sample.crop[:2] == size[::-1] and max(sample.crop[2:4]) == (max(size) * 512 // min(size) - 512) // 2


def test_scaling_a_part_is_scaling_the_whole(tmp_path):
    """As resizing the whole picture and cropping it, to one level in 255."""
    draw = np.random.default_rng(0)
    for number, (width, height) in enumerate([(300, 200), (200, 330), (90, 61)]):
        picture = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        data = BytesIO()
        picture.save(data, "PNG")
        write_tar(tmp_path / "a.tar", [{**members(number), "png": data.getvalue()}])
        (sample,) = read(tmp_path, size=64)
        scale = 64 / min(width, height)
        whole = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.LANCZOS)
        top, left = sample.crop[2:4]
        expected = torch.from_numpy(np.array(whole.crop((left, top, left + 64, top + 64)))).permute(2, 0, 1)
        assert (sample.image.int() - expected.int()).abs().float().mean() < 1
