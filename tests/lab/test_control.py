"""Negative control, of ways to draw whose answers are known."""

import pytest
import torch

from sunlab.data.shards import Shards
from sunlab.lab.classifier import truth
from sunlab.lab.control import LabControl

N = 16
CONTROL = LabControl(pictures=N)


@pytest.fixture(scope="module")
def koalas():
    """Pictures of one emoji by background, large."""
    source = Shards(urls=["emoji/noto/*.tar.gz"], shuffle=0)
    samples = source.read(seed=0, epoch=0, start=0, stop=len(source))
    found = {}
    for sample in samples:
        facts = truth(sample)
        if facts["emoji"] == "koala":
            found[facts["background"], facts["size"]] = sample.image / 255
    assert len(found) == 16
    return found


def drawer(koalas, *, obeys):
    """Draws red and green in turn, large; with a negative prompt that names it, white and small, where it obeys."""

    def draw(request):
        pictures = []
        for number, negative in enumerate(request.negatives):
            colour, size = ("red", "green")[number % 2], "large"
            if obeys(number) and colour in negative:
                colour = "white"
            if obeys(number) and size in negative:
                size = "small"
            pictures.append(koalas[colour, size])
        return torch.stack(pictures)

    return draw


def test_the_teachers_own_picture_is_named(koalas):
    asked = CONTROL.questions(drawer(koalas, obeys=lambda n: True))
    assert asked.naming["background"].negatives[:2] == ["a red background", "a green background"]
    assert set(asked.naming["size"].negatives) == {"a large picture"}
    assert asked.empty.seeds == asked.naming["size"].seeds and set(asked.empty.negatives) == {""}
    assert not any("background" in prompt or "large" in prompt for prompt in asked.empty.prompts)


@pytest.mark.parametrize(("obeys", "suppressed"), [(lambda n: True, 1), (lambda n: False, 0), (lambda n: n >= 4, 0.75)])
def test_the_share_that_is_kept_out(koalas, obeys, suppressed):
    asked = CONTROL.questions(drawer(koalas, obeys=lambda n: True))
    background, size = CONTROL.measure("a way", drawer(koalas, obeys=obeys), asked)
    assert (background.attribute, size.attribute) == ("background", "size")
    for control in (background, size):
        assert control.empty == 1 and control.suppressed == pytest.approx(suppressed) and control.pictures == N
        assert f"of {N} pictures" in control.sentence


def test_who_draws_something_else_anyway_suppresses_nothing(koalas):
    asked = CONTROL.questions(drawer(koalas, obeys=lambda n: True))

    def blind(request):
        return torch.stack([koalas["red", "large"]] * len(request))

    background, _ = CONTROL.measure("blind", blind, asked)
    assert background.empty == 0.5 and background.suppressed == 0
