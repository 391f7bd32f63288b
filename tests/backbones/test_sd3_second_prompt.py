"""NAG and VSF over joint attention, beside a pass of the transformer that is written down a second time, with a stream for
each prompt."""

import pytest
import torch

from sunlab.adapters import ADAPTERS
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import CLIPS, JOINT
from sunlab.backbones.sd3.tiny import write_tiny as tiny_sd3
from sunlab.types import Conditioning

HEADS = 2


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return load_base(tiny_sd3(tmp_path_factory.mktemp("sd3") / "base", t5=False)).freeze().backbone


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def heads(x, project, norm):
    part = project(x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
    return part if norm is None else norm(part)


def attend(query, *seen):
    """Z (B, Q, h). Args: seen, (key, value, term of the scores (B or 1, L), factor on the values) of each kind of token."""
    scores = torch.cat([query @ key.mT / query.shape[-1] ** 0.5 + bias[:, None, None] for key, _, bias, _ in seen], -1)
    value = torch.cat([factor * value for _, value, _, factor in seen], 2)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)


def reference(transformer, x, time, pooled, positive, negative, words, guide):
    """The transformer's output. `guide` makes the image's Z of its query and the three kinds of tokens."""
    hidden, temb = transformer.pos_embed(x), transformer.time_text_embed(time, pooled)
    streams = [transformer.context_embedder(positive), transformer.context_embedder(negative)]
    bias = [torch.zeros(positive.shape[:2]), torch.zeros(words.shape).masked_fill(~words, -torch.inf)]
    for block in transformer.transformer_blocks:
        attn, last = block.attn, block.context_pre_only
        image, gate, shift, scale, gate_mlp, *dual = block.norm1(hidden, emb=temb)
        normed = [block.norm1_context(text, temb) if last else block.norm1_context(text, emb=temb) for text in streams]
        texts = [part if last else part[0] for part in normed]
        query, key = heads(image, attn.to_q, attn.norm_q), heads(image, attn.to_k, attn.norm_k)
        own = key, heads(image, attn.to_v, None), torch.zeros(1, key.shape[2]), 1.0
        prompts = [
            (heads(text, attn.add_k_proj, attn.norm_added_k), heads(text, attn.add_v_proj, None), term, 1.0)
            for text, term in zip(texts, bias, strict=True)
        ]
        z = guide(query, own, *prompts)
        if not last:
            for number, (text, part) in enumerate(zip(texts, normed, strict=True)):
                out = attend(heads(text, attn.add_q_proj, attn.norm_added_q), own, prompts[number])
                _, c_gate, c_shift, c_scale, c_gate_mlp = part
                moved = streams[number] + c_gate[:, None] * attn.to_add_out(out)
                inner = block.norm2_context(moved) * (1 + c_scale[:, None]) + c_shift[:, None]
                streams[number] = moved + c_gate_mlp[:, None] * block.ff_context(inner)
        hidden = hidden + gate[:, None] * attn.to_out[0](z)
        if dual:
            again, (other, other_gate) = block.attn2, dual
            parts = (again.to_q, again.norm_q), (again.to_k, again.norm_k), (again.to_v, None)
            q, k, v = (heads(other, project, norm) for project, norm in parts)
            z = attend(q, (k, v, torch.zeros(1, k.shape[2]), 1.0))
            hidden = hidden + other_gate[:, None] * again.to_out[0](z)
        hidden = hidden + gate_mlp[:, None] * block.ff(block.norm2(hidden) * (1 + scale[:, None]) + shift[:, None])
    out = transformer.proj_out(transformer.norm_out(hidden, temb))
    rows, side, patch = len(x), x.shape[-1] // 2, 2
    out = out.reshape(rows, side, side, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", out).reshape(rows, -1, side * patch, side * patch)


def nag(query, own, first, second):
    """phi 2, tau 1.1, blend 0.4."""
    z_pos, z_neg = attend(query, own, first), attend(query, own, second)
    guided = 3 * z_pos - 2 * z_neg
    ratio = guided.abs().sum(-1, keepdim=True) / z_pos.abs().sum(-1, keepdim=True)
    assert bool((ratio > 1.1).any()), "some token is shrunk"
    return 0.4 * guided * torch.where(ratio > 1.1, 1.1 / ratio, torch.ones_like(ratio)) + 0.6 * z_pos


def vsf(query, own, first, second):
    """alpha 2, beta 0.3."""
    key, value, bias, _ = second
    return attend(query, own, first, (key, value, bias - 0.3, -2.0))


CASES = {
    "nag": ({"name": "nag", "phi": 2.0, "tau": 1.1, "blend": 0.4}, nag),
    "vsf": ({"name": "vsf", "alpha": 2.0, "beta": 0.3}, vsf),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("trimmed", [False, True])
def test_the_formula(name, trimmed, backbone):
    spec, guide = CASES[name]
    words = torch.arange(6) < torch.tensor([[4], [2]]) if name == "vsf" else torch.ones(2, 6, dtype=torch.bool)
    x, t = normal(2, 16, 8, 8, seed=1), torch.tensor([0.9, 0.4], dtype=torch.float64)
    pooled, positive, negative = normal(2, sum(CLIPS), seed=2), normal(2, 7, JOINT, seed=3), normal(2, 6, JOINT, seed=4)
    adapter = ADAPTERS.build(spec)
    adapter.attach(backbone)
    prompts = Conditioning(positive, pooled)
    with torch.no_grad():
        state = adapter.state(prompts, Conditioning(negative, pooled, words=words), torch.ones(2))
        out = backbone.predict(x, t, prompts, state.trimmed() if trimmed else state)
        off = backbone.predict(x, t, prompts)
        adapter.detach()
        wanted = reference(backbone.transformer, x, (1000 * t).float(), pooled, positive, negative, words, guide)
        assert torch.equal(backbone.predict(x, t, prompts), off)
        plain = reference(
            backbone.transformer, x, (1000 * t).float(), pooled, positive, negative, words,
            lambda query, own, first, second: attend(query, own, first),
        )  # fmt: skip
    torch.testing.assert_close(plain, off, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(out, off, atol=1e-3)


@pytest.mark.parametrize("over", ["nag", "vsf"])
def test_over_sun_it_adds_its_offset(over, backbone):
    """Without guidance of its own it is SUN; with it, it is not."""
    x, t = normal(2, 16, 8, 8, seed=1), torch.tensor([0.9, 0.4], dtype=torch.float64)
    prompts, negative = (Conditioning(normal(2, 7, JOINT, seed=n), normal(2, sum(CLIPS), seed=2)) for n in (3, 4))
    off = {"phi": 0.0, "tau": 9.0} if over == "nag" else {"beta": 80.0}

    def drawn(spec):
        adapter = ADAPTERS.build(spec)
        adapter.attach(backbone)
        for number, parameter in enumerate(adapter.trainable()):
            parameter.data.add_(0.1 * normal(*parameter.shape, seed=number))
        with torch.no_grad():
            out = backbone.predict(x, t, prompts, adapter.state(prompts, negative, torch.ones(2)))
        adapter.detach()
        return out

    alone = drawn({"name": "sun"})
    torch.testing.assert_close(drawn({"name": over, "inner": "sun", **off}), alone, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(drawn({"name": over, "inner": "sun"}), alone, atol=1e-3)
