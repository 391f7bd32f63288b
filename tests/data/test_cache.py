"""The cache of latents: every image decoded and encoded once, and never read for another encoder or source."""

import pytest
import torch

from sunlab.data.base import SOURCES
from sunlab.data.decode import Decoder
from sunlab.data.latents import cache_tag, cached
from sunlab.errors import DataError


class Encoder:
    def __init__(self, stop_after=None):
        self.seen, self.stop_after = 0, stop_after

    def __call__(self, images):
        self.seen += len(images)
        if self.stop_after is not None and self.seen > self.stop_after:
            raise KeyboardInterrupt
        return images[:, :, ::4, ::4].float() / 255


def read(source):
    return {s.key: s for s in source.read(seed=0, epoch=0, start=0, stop=len(source))}


def test_no_pixel_is_decoded_twice(source, tmp_path, monkeypatch):
    shards, encode, decoded = source(), Encoder(), []
    image = Decoder._image
    monkeypatch.setattr(Decoder, "_image", lambda *a: decoded.append(1) or image(*a))
    for _ in range(2):
        latents = cached(shards, encode, tmp_path / "cache", cache_tag("vae1", shards), shard=20, batch=8)
        samples = read(latents)
        assert encode.seen == len(decoded) == len(samples) == len(latents) == 51
    plain = read(shards)
    for key, sample in samples.items():
        assert sample.image is None and sample.prompt == plain[key].prompt and sample.record == plain[key].record
        assert torch.equal(sample.latent, plain[key].image[:, ::4, ::4].float() / 255)


def test_an_interrupted_pass_goes_on_after_its_last_shard(source, tmp_path):
    shards = source()
    with pytest.raises(KeyboardInterrupt):
        cached(shards, Encoder(stop_after=45), tmp_path / "cache", "tag", shard=20, batch=4)
    assert not list((tmp_path / "cache" / "tag").glob(".latents*"))
    encode = Encoder()
    assert read(cached(shards, encode, tmp_path / "cache", "tag", shard=20, batch=4)).keys() == read(shards).keys()
    assert encode.seen == 11  # of the third shard


def test_another_encoder_or_source_has_another_tag(source):
    tags = {cache_tag("vae1", source()), cache_tag("vae2", source()), cache_tag("vae1", source(limit=9))}
    assert len(tags) == 3 and cache_tag("vae1", source()) in tags


def test_a_broken_manifest_is_named(source, tmp_path):
    cached(source(), Encoder(), tmp_path, "tag")
    (tmp_path / "tag" / "manifest.json").write_text("{}")
    with pytest.raises(DataError, match=r"manifest\.json: not a manifest"):
        cached(source(), Encoder(), tmp_path, "tag")


def test_both_sources_are_registered():
    import sunlab.data.trajectories  # noqa: F401

    assert {"shards", "trajectories"} <= set(SOURCES.names())
