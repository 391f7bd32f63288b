"""The metric "content_kept", of artwork whose content is known."""

import pytest
import torch

from sunlab.data.shards import Shards
from sunlab.evaluation.base import METRICS
from sunlab.lab.classifier import truth


@pytest.fixture(scope="module")
def artwork():
    """Pictures by what they show."""
    source = Shards(urls=["emoji/noto/train-*.tar.gz"], shuffle=0, limit=256)
    samples = source.read(seed=0, epoch=0, start=0, stop=256)
    return [(truth(sample), sample.image / 255) for sample in samples]


def test_each_attribute_is_counted_against_the_records(artwork):
    """Neighbours are paired; the shares follow from the records alone."""
    metric = METRICS.build("content_kept")
    (facts, pictures), count = zip(*artwork, strict=True), len(artwork)
    before = torch.stack(pictures)
    metric.update(before, before.roll(-1, 0))
    found = metric.compute()
    pairs = [(facts[i], facts[(i + 1) % count]) for i in range(count)]
    for name in ("emoji", "background", "size"):
        expected = sum(a[name] == b[name] for a, b in pairs) / count
        assert found[f"{name}_kept"] == pytest.approx(expected, abs=0.02)  # the classifier errs in a few
    assert found["content_kept"] == pytest.approx(sum(a == b for a, b in pairs) / count, abs=0.02)
    assert 0.05 < found["background_kept"] < 0.25 and 0.3 < found["size_kept"] < 0.7


def test_the_same_pictures_keep_everything(artwork):
    metric = METRICS.build("content_kept")
    pictures = torch.stack([picture for _, picture in artwork[:16]])
    metric.update(pictures, pictures)
    assert set(metric.compute().values()) == {1.0}


def test_one_changed_attribute_is_not_the_content(artwork):
    """The same emoji and size on another background."""
    by = {tuple(fact.values()): picture for fact, picture in artwork}
    twins = [(a, b) for a in by for b in by if a[0] == b[0] and a[2] == b[2] and a[1] < b[1]][:24]
    metric = METRICS.build("content_kept")
    metric.update(*(torch.stack([by[pair[side]] for pair in twins]) for side in (0, 1)))
    found = metric.compute()
    assert len(twins) > 10 and found["emoji_kept"] >= 0.9 and found["size_kept"] >= 0.9
    assert found["background_kept"] == 0 and found["content_kept"] == 0
