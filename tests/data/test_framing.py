"""Resize, crop, buckets and the choice of a prompt: functions of (seed, epoch, key), and recorded."""

import json
import math
from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image
from tars import members, write_tar

from sunlab.data.datamodule import DataModule
from sunlab.data.framing import nearest, shapes
from sunlab.data.negatives import Empty
from sunlab.data.sample import BadSample
from sunlab.data.shards import Shards
from sunlab.errors import ConfigError


def picture(width, height, kind="PNG", mode="RGB"):
    """A ramp from left to right and one from top to bottom."""
    ramp = np.zeros((height, width, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.linspace(0, 255, width), np.linspace(0, 255, height)[:, None]
    data = BytesIO()
    Image.fromarray(ramp).convert(mode).save(data, kind)
    return data.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """48 pictures: wide, tall and square ones."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sizes = [(96, 48), (48, 96), (64, 64)]
    samples = [{**members(n), "png": picture(*sizes[n % 3])} for n in range(48)]
    for shard in range(2):
        write_tar(tmp_path / f"{shard}.tar", samples[24 * shard : 24 * shard + 24])
    return tmp_path


def read(folder, epoch=0, seed=0, **given):
    shards = Shards(order="exact", urls=[f"{folder}/*.tar"], **given)
    return {s.key: s for s in shards.read(seed=seed, epoch=epoch, start=0, stop=len(shards))}


def test_a_crop_is_where_it_is_said_to_be(folder):
    for key, sample in read(folder, size=32, crop="random").items():
        height, width, top, left, *size = sample.crop
        assert sample.image.shape == (3, 32, 32) and size == [32, 32]
        assert (width, height) == [(96, 48), (48, 96), (64, 64)][int(key) % 3]
        scale = 32 / min(width, height)
        red, green = sample.image[0].float().mean(), sample.image[1].float().mean()
        assert abs(red - 255 * (left + 16) / (width * scale)) < 4 and abs(green - 255 * (top + 16) / (height * scale)) < 4


def test_crops_are_keyed(folder):
    def crops(**given):
        return {k: s.crop for k, s in read(folder, size=32, crop="random", **given).items()}

    assert crops() == crops(shuffle=1) == crops(shuffle=7)
    assert crops() != crops(epoch=1) and crops() != crops(seed=1)
    centre = read(folder, size=32)
    assert centre["00000"].crop == (48, 96, 0, 16, 32, 32) and centre["00001"].crop == (96, 48, 16, 0, 32, 32)
    mirrored = read(folder, size=32, flip=1.0)["00002"].image
    assert torch.equal(mirrored, centre["00002"].image.flip(2))


def test_a_jpeg_that_is_unpacked_smaller_has_the_same_crop(tmp_path):
    write_tar(tmp_path / "a.tar", [{**members(0), "png": picture(640, 400, "JPEG")}])
    sample = read(tmp_path, size=32)["00000"]
    assert sample.crop == (400, 640, 0, 9, 32, 32) and abs(sample.image[0].float().mean() - 127.5) < 4


def test_a_jpeg_that_is_unpacked_smaller_looks_the_same(tmp_path):
    """Within the tolerance of docs/data.md, against Pillow's Lanczos filter over all pixels."""
    draw = np.random.default_rng(0)
    coarse = Image.fromarray(draw.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((512, 384), Image.Resampling.BICUBIC), np.int16) + draw.integers(
        -12, 13, (384, 512, 3)
    )
    data = BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(data, "JPEG", quality=95)
    write_tar(tmp_path / "a.tar", [{"__key__": "a", "jpg": data.getvalue(), "txt": b"a"}])
    with Image.open(data) as image:
        image.draft(None, (171, 128))
        assert image.size == (256, 192)  # libjpeg unpacks half of each side
    for size in (128, 300):  # 300 is more than half of the picture: all pixels are unpacked
        with Image.open(data) as image:
            width = round(512 * size / 384)
            whole = np.asarray(image.convert("RGB").resize((width, size), Image.Resampling.LANCZOS), np.float32)
        left = (width - size) // 2
        apart = np.abs(read(tmp_path, size=size)["a"].image.permute(1, 2, 0).numpy() - whole[:, left : left + size])
        assert apart.mean() < 4 and apart.max() < 40, size
        if size == 300:
            assert apart.max() <= 1
        exact = np.abs(
            read(tmp_path, size=size, decoding="full")["a"].image.permute(1, 2, 0).numpy() - whole[:, left:][:, :size]
        )
        assert exact.max() <= (size == 128)  # Pillow reduces by a whole number first where the picture is 3 times as large


@pytest.mark.parametrize(("width", "height", "size"), [(96, 64, 48), (40, 50, 64), (257, 255, 100), (300, 20, 16)])
@pytest.mark.parametrize("crop", ["center", "random"])
def test_a_resized_picture_is_pillows_within_one_level(tmp_path, width, height, size, crop):
    draw, data = np.random.default_rng(1), BytesIO()
    noise = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
    noise.save(data, "PNG")
    write_tar(tmp_path / "a.tar", [{"__key__": "a", "png": data.getvalue(), "txt": b"a"}])
    found = read(tmp_path, size=size, crop=crop, flip=1.0)["a"]
    assert found.crop == read(tmp_path, size=size, crop=crop, flip=1.0, decoding="full")["a"].crop
    scale = max(size / width, size / height)
    wide, high = round(width * scale), round(height * scale)
    whole = np.asarray(noise.resize((wide, high), Image.Resampling.LANCZOS), np.int16)
    top, left = found.crop[2], wide - size - found.crop[3]
    apart = found.image.flip(2).permute(1, 2, 0).numpy() - whole[top : top + size, left : left + size]
    assert np.abs(apart).max() <= 1


@pytest.mark.parametrize("step", [8, 64])
def test_shapes(step):
    found = shapes(512, step)
    assert (512, 512) in found and all(w % step == h % step == 0 and w * h <= 512 * 512 for w, h in found)
    assert all(0.5 <= w / h <= 2 for w, h in found) and {(h, w) for w, h in found} >= {(512, 512)}
    for width, height in ((1000, 700), (300, 900), (512, 512)):
        best = found[nearest(width, height, found)]
        assert all(
            abs(math.log(best[0] / best[1] * height / width)) <= abs(math.log(w / h * height / width)) + 1e-9
            for w, h in found
        )


def test_buckets_make_batches_of_one_shape_in_an_exact_order(folder):
    def steps(first=0, workers=0, ranks=1):
        shards = Shards(order="exact", urls=[f"{folder}/*.tar"], size=48, buckets=16)
        module = DataModule(shards, Empty(), batch_size=4, streams=4, workers=workers)
        module._resumed = first
        loaders = [iter(module.loader(rank=rank, ranks=ranks)) for rank in range(ranks)]
        return [[next(loader) for loader in loaders] for _ in range(first, 14)]

    whole = steps()
    shapes_seen = {tuple(step[0].images.shape[2:]) for step in whole}
    assert shapes_seen == {(32, 64), (64, 32), (48, 48)}
    names = [sorted(step[0].keys) for step in whole]
    assert sorted(key for step in names[:12] for key in step) == [f"{n:05d}" for n in range(48)]
    assert whole[0][0].crops.shape == (4, 6)
    assert [sorted(step[0].keys) for step in steps(first=5, workers=2)] == names[5:]
    assert [sorted(k for part in step for k in part.keys) for step in steps(ranks=2)] == names


def test_prompts_are_chosen_by_weight_and_key(tmp_path):
    def one(n):
        record = {"keywords": ["w1", "w2", "w3"], "captions": ["long a", "long b"], "number": n}
        return {**members(n), "json": json.dumps(record).encode()}

    write_tar(tmp_path / "a.tar", [one(n) for n in range(60)])
    chosen = {"caption": 1.0, "keywords": 1.0, "captions": 1.0, "absent": 9.0}
    prompts = {k: s.prompt for k, s in read(tmp_path, captions=chosen, most_keywords=2).items()}
    assert prompts == {k: s.prompt for k, s in read(tmp_path, captions=chosen, most_keywords=2, shuffle=3).items()}
    assert prompts != {k: s.prompt for k, s in read(tmp_path, captions=chosen, most_keywords=2, epoch=1).items()}
    kinds = [p.partition(" ")[0] for p in prompts.values()]
    assert all(10 <= kinds.count(kind) <= 30 for kind in ("a", "long")) and {"w1, w2", "w3"} <= {
        p for p in prompts.values() if "w" in p
    }
    with pytest.raises(BadSample, match="missing caption"):
        read(tmp_path, captions={"absent": 1.0})


WRONG = ({"crop": "random"}, {"buckets": 8}, {"flip": 0.5}, {"size": 8, "flip": 2.0}, {"size": 8, "buckets": 64})


@pytest.mark.parametrize("given", [*WRONG, {"captions": {"caption": 0.0}}, {"captions": {}}])
def test_what_cannot_be_is_refused(folder, given):
    with pytest.raises(ConfigError):
        Shards(order="exact", urls=[f"{folder}/*.tar"], **given)


def grey16():
    data = BytesIO()
    Image.fromarray(np.full((8, 8), 40_000, np.uint16)).save(data, "PNG")
    return data.getvalue()


def animated():
    data = BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    return data.getvalue()


@pytest.mark.parametrize(
    ("suffix", "data", "mean"),
    [
        ("png", grey16(), [156, 156, 156]),
        ("webp", animated(), [255, 0, 0]),  # its first frame
        ("jpg", picture(8, 8, "JPEG", "CMYK"), None),
        ("jpg", picture(8, 8, "PNG", "L"), None),  # another kind than its name says
        ("png", picture(1, 1), None),
    ],
)
def test_odd_pictures(tmp_path, suffix, data, mean):
    sample = members(0)
    del sample["png"]
    write_tar(tmp_path / "a.tar", [{**sample, suffix: data}])
    image = read(tmp_path)["00000"].image
    assert image.shape[0] == 3 and image.dtype == torch.uint8
    assert mean is None or [round(c) for c in image.float().mean((1, 2)).tolist()] == mean
    assert read(tmp_path, size=8)["00000"].image.shape == (3, 8, 8)


BAD = {
    "member too large (.txt": {"txt": b"x" * 1_000_000},
    "member too large (.json": {"json": b'{"a": "' + b"x" * 2**20 + b'"}'},
    "undecodable image (.png: image file is truncated": {"png": picture(64, 64, "JPEG")[:900]},
    "undecodable image (.png: cannot identify": {"png": b"GIF89a" + bytes(50)},
    "bad json": {"json": b"[" * 200_000},
}


@pytest.mark.parametrize("reason", BAD)
def test_hostile_members_are_bad_samples(tmp_path, reason):
    import re

    write_tar(tmp_path / "a.tar", [{**members(0), **BAD[reason]}])
    with pytest.raises(BadSample, match=re.escape(reason)):
        read(tmp_path)


def test_an_empty_caption_is_an_empty_prompt(tmp_path):
    write_tar(tmp_path / "a.tar", [{**members(0), "txt": b"  \n"}])
    assert read(tmp_path)["00000"].prompt == ""
