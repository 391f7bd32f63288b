"""The lab's judge, as it ships, on the lab's own artwork."""

import pytest
import torch
from torch.nn.functional import interpolate

from sunlab.data.shards import Shards
from sunlab.errors import DataError
from sunlab.lab.classifier import Classifier, judge, load_classifier, share, truth


@pytest.fixture(scope="module")
def artwork():
    source = Shards(urls=["emoji/noto/test-*.tar.gz", "emoji/noto/unseen-*.tar.gz"], shuffle=0)
    return list(source.read(seed=0, epoch=0, start=0, stop=len(source)))


@pytest.mark.parametrize(("side", "least"), [(64, 0.95), (32, 0.8)], ids=["as it is", "halved"])
def test_it_knows_the_artwork(artwork, side, least):
    images = torch.stack([sample.image for sample in artwork]) / 255
    sized = interpolate(images, size=(side, side), mode="area")
    seen, facts = judge(load_classifier(), sized), [truth(sample) for sample in artwork]
    for head in ("emoji", "background", "size"):
        assert share([getattr(s, head) == f[head] for s, f in zip(seen, facts, strict=True)]) >= least
    assert all(s.nearest[0] == s.emoji and len(set(s.nearest)) == 5 for s in seen)


def test_it_is_small_and_knows_every_word_of_the_lab(artwork):
    network = load_classifier()
    assert sum(p.numel() for p in network.parameters()) < 500_000
    assert {f["emoji"] for f in map(truth, artwork)} <= set(network.labels["emoji"])


def test_what_is_saved_loads(tmp_path):
    network = Classifier({"emoji": ["cat", "dog"], "background": ["red"], "size": ["small", "large"]}, width=4).eval()
    network.save(tmp_path / "c.safetensors")
    again = load_classifier(tmp_path / "c.safetensors")
    images = torch.rand(3, 3, 64, 64)
    assert again.labels == network.labels and not any(p.requires_grad for p in again.parameters())
    for head, logits in network(images).items():
        torch.testing.assert_close(again(images)[head], logits, atol=0.02, rtol=0.02)  # stored in half precision


def test_another_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no classifier of the lab .*train_classifier"):
        load_classifier("emoji/sun_msc.safetensors")
    with pytest.raises(DataError, match="no classifier"):
        load_classifier(tmp_path / "none.safetensors")
