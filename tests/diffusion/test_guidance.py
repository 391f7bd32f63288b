import torch

from sunlab.diffusion.guidance import NetworkEvaluations, guided
from sunlab.diffusion.path import DiscreteVP
from sunlab.diffusion.prediction import Prediction
from sunlab.types import Conditioning

PATH = DiscreteVP.from_betas()
T = torch.tensor([1.0, 0.4, 0.01], dtype=torch.float64)


class Backbone:
    """Depends on everything that it is given, and remembers the size of each call."""

    def __init__(self, kind):
        self.kind, self.sizes = kind, []

    def __call__(self, x, t, conditioning):
        self.sizes.append(len(x))
        alpha, sigma = PATH.at(t, x)
        told = conditioning.tokens.mean((1, 2)) + conditioning.pooled.mean(1) + conditioning.added["time_ids"].mean(1)
        value = torch.sin(x * told.reshape(-1, 1, 1, 1) + t.reshape(-1, 1, 1, 1))
        return Prediction(value, self.kind, x, alpha, sigma)


def conditioning(seed):
    g = torch.Generator().manual_seed(seed)
    tokens, pooled, ids = (torch.randn(3, *shape, generator=g, dtype=torch.float64) for shape in ((5, 4), (6,), (2,)))
    return Conditioning(tokens, pooled, {"time_ids": ids})


X = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
POSITIVE, NEGATIVE = conditioning(1), conditioning(2)


def test_guided_is_the_formula():
    w = torch.tensor([0.0, 3.0, 7.5], dtype=torch.float64)
    for kind in ("epsilon", "v_prediction"):
        backbone = Backbone(kind)
        e_pos, e_neg = backbone(X, T, POSITIVE).epsilon, backbone(X, T, NEGATIVE).epsilon
        e_hat = guided(backbone, POSITIVE, NEGATIVE, w)(X, T).epsilon
        torch.testing.assert_close(e_hat, e_neg + w.reshape(-1, 1, 1, 1) * (e_pos - e_neg), atol=1e-10, rtol=0)


def test_two_passes_in_one_call():
    backbone, passes = Backbone("epsilon"), NetworkEvaluations()
    denoise = guided(backbone, POSITIVE, NEGATIVE, torch.full((3,), 3.0), nfe=passes)
    denoise(X, T)
    assert backbone.sizes == [6] and passes.teacher == 6
    denoise(X, T)
    assert passes.teacher == 12


def test_one_pass_is_over_the_positive_prompt():
    backbone, passes = Backbone("epsilon"), NetworkEvaluations()
    value = guided(backbone, POSITIVE, NEGATIVE, torch.ones(3), one_pass=True, nfe=passes)(X, T).value
    assert backbone.sizes == [3] and passes.teacher == 3
    assert torch.equal(value, backbone(X, T, POSITIVE).value)


def test_at_guidance_one_the_negative_pass_has_no_effect():
    backbone = Backbone("epsilon")
    value = guided(backbone, POSITIVE, NEGATIVE, torch.tensor([1.0, 1.0, 2.0]))(X, T).value
    torch.testing.assert_close(value[:2], backbone(X, T, POSITIVE).value[:2])


def test_pass_equivalents():
    assert NetworkEvaluations(teacher=12, student=3, backward=3).equivalents == 21
