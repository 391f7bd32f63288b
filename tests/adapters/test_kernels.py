"""Attention to a prompt, padded or not, is what torch computes of the tokens alone."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from sunlab.adapters.kernels import VECTOR, Tokens, attend

HEADS, WIDTH, PLACES = 2, 12, 9


def normal(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def given(tokens, dtype=torch.float32):
    """Query (B, heads, P, c), key and value (B, L, heads c)."""
    query = normal(3, HEADS, PLACES, WIDTH // HEADS, dtype=dtype)
    return query, normal(3, tokens, WIDTH, seed=1, dtype=dtype), normal(3, tokens, WIDTH, seed=2, dtype=dtype)


def laid_out(key, value, **options):
    return Tokens.of(*(part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (key, value)), **options)


def plain(query, key, value, mask=None):
    key, value = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (key, value))
    return scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("tokens", [1, 16, 77, 80])
@pytest.mark.parametrize("gradient", [False, True])
def test_padding_changes_nothing(gradient, tokens, dtype):
    query, key, value = given(tokens, dtype)
    with torch.set_grad_enabled(gradient):
        tokens_ = laid_out(key, value)
        z = attend(query, tokens_)
    assert (tokens_.padding is not None) == (tokens * dtype.itemsize % VECTOR > 0 and not gradient)
    tolerance = 1e-5 if dtype is torch.float32 else 0.03
    torch.testing.assert_close(z.float(), plain(*(part.float() for part in (query, key, value))), atol=tolerance, rtol=0.02)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
@pytest.mark.parametrize("tokens", [77, 96])
@pytest.mark.parametrize("rows", [1, PLACES])
@torch.no_grad()
def test_a_mask_of_the_tokens_beside_the_padding(rows, tokens, dtype, tolerance):
    query, key, value = given(tokens, dtype)
    mask = normal(3, HEADS, rows, tokens, seed=3).to(dtype)
    mask[..., 40:] = -1e9
    z = attend(query, laid_out(key, value), mask)
    wanted = plain(*(part.float() for part in (query, key, value, mask)))
    torch.testing.assert_close(z.float(), wanted, atol=tolerance, rtol=tolerance)


@torch.no_grad()
def test_bfloat16_is_as_near_as_its_rounding():
    """At the size of a layer, the scores of a trained one's width: within twice the error of torch's own kernel."""
    query = normal(1, HEADS, 64, 40)
    key, value = normal(1, 77, HEADS * 40, seed=1), normal(1, 77, HEADS * 40, seed=2)
    wanted = plain(query, key, value)
    half = [part.bfloat16() for part in (query, key, value)]
    error, theirs = (float((z.float() - wanted).norm()) for z in (attend(half[0], laid_out(*half[1:])), plain(*half)))
    assert 0 < error < 2 * theirs


@torch.no_grad()
def test_exact_is_exact_to_the_bit_in_float32():
    query, key, value = given(77)
    assert torch.equal(attend(query, laid_out(key, value, exact=True)), plain(query, key, value))


def test_the_gradients_are_those_of_torch():
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        parts = [part.requires_grad_() for part in given(77, dtype)]
        found = torch.autograd.grad(attend(parts[0], laid_out(*parts[1:])).float().square().sum(), parts)
        wanted = torch.autograd.grad(plain(*parts).float().square().sum(), parts)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a.float(), b.float(), atol=tolerance, rtol=0.1)
