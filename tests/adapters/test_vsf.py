"""VSF against the formula of arXiv 2508.10931, written down a second time, query by query, in numpy."""

import math

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0

from sunlab.adapters.attention import Branch, SUNAttention
from sunlab.adapters.state import PassState
from sunlab.adapters.vsf import VSF, VSFAttention
from sunlab.backbones.sd.attention import Extended
from sunlab.errors import ConfigError
from sunlab.pipelines.draw import Request, draw, with_adapter
from sunlab.solvers import SOLVERS, Sampler
from sunlab.types import Conditioning

WIDTH, HEADS, TEXT, PLACES = 12, 3, 5, 10


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def layer():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        attn = Attention(query_dim=WIDTH, cross_attention_dim=TEXT, heads=HEADS, dim_head=WIDTH // HEADS)
        branch = Branch(TEXT, WIDTH, normalise=True, scale=True, compat=False)
    return attn.double().requires_grad_(False), branch.double().requires_grad_(False)


def reference(attn, x, positive, negative, seen, hidden, alpha, beta):
    """Z of one sample (P, h). Args: seen, the positive tokens that may be attended to; hidden, the negative ones."""
    w_q, w_k, w_v = (m.weight.numpy() for m in (attn.to_q, attn.to_k, attn.to_v))
    tokens = [(c, 1.0, 0.0) for c in positive[seen]] + [(c, -alpha, -beta) for c in negative[~hidden]]
    out, size = np.zeros((PLACES, WIDTH)), WIDTH // HEADS
    for p in range(PLACES):
        for head in range(HEADS):
            part = slice(head * size, (head + 1) * size)
            q = (w_q @ x[p])[part]
            weights = [math.exp(q @ (w_k @ c)[part] / math.sqrt(size) + bias) for c, _, bias in tokens]
            values = [factor * (w_v @ c)[part] for c, factor, _ in tokens]
            out[p, part] = sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize(("alpha", "beta"), [(3.5, 0.1), (0.0, 0.0), (1.0, 2.0)])
@pytest.mark.parametrize("over", ["plain", "sun"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_formula(layer, over, alpha, beta, masked):
    attn, branch = layer
    base = AttnProcessor2_0() if over == "plain" else Extended(AttnProcessor2_0(), SUNAttention(branch, None))
    processor = Extended(base, VSFAttention(alpha=alpha, beta=beta))
    x, positive, negative = normal(2, PLACES, WIDTH, seed=1), normal(2, 7, TEXT, seed=2), normal(2, 9, TEXT, seed=3)
    words = torch.arange(9) < torch.tensor([[4], [6]]) if masked else None
    seen = torch.arange(7) < torch.tensor([[7], [5]]) if masked else torch.ones(2, 7, dtype=torch.bool)
    bias = torch.zeros(2, 1, 7, dtype=torch.float64).masked_fill(~seen[:, None], -torch.inf) if masked else None
    state = PassState(negative, words=words)
    out = processor(attn, x, positive, bias, sun=state).numpy()
    plain = AttnProcessor2_0()(attn, x, positive, bias).numpy()
    below = plain if over == "plain" else base(attn, x, positive, bias, sun=state).numpy()
    w, b = (p.numpy() for p in (attn.to_out[0].weight, attn.to_out[0].bias))
    for row in range(2):
        hidden = np.zeros(9, bool) if words is None else ~words[row].numpy()
        z = reference(
            attn, x[row].numpy(), positive[row].numpy(), negative[row].numpy(), seen[row].numpy(), hidden, alpha, beta
        )
        np.testing.assert_allclose(out[row], z @ w.T + b + below[row] - plain[row], atol=1e-9)


def test_a_large_offset_leaves_the_base(layer):
    attn, _ = layer
    x, positive, negative = normal(2, PLACES, WIDTH, seed=1), normal(2, 7, TEXT, seed=2), normal(2, 9, TEXT, seed=3)
    out = Extended(AttnProcessor2_0(), VSFAttention(alpha=3.5, beta=80.0))(attn, x, positive, sun=PassState(negative))
    torch.testing.assert_close(out, AttnProcessor2_0()(attn, x, positive), atol=1e-9, rtol=0)


def test_padding_that_the_network_attends_to_is_masked(tiny_base):
    """CLIP's tokens after the prompt's end have no effect on VSF, those of the prompt have."""
    base = tiny_base.freeze()
    adapter = VSF()
    adapter.attach(base.backbone)
    positive, negative = base.encode(["a pizza"]), base.encode(["blue"])
    assert negative.words.sum() == 3 and negative.words.shape == negative.tokens.shape[:2]  # start, blue, end

    def ask(place):
        tokens = negative.tokens.clone()
        tokens[:, place] += 3
        given = Conditioning(tokens, words=negative.words)
        with torch.no_grad():
            state = adapter.state(positive, given, torch.ones(1))
            return base.backbone.predict(torch.ones(1, 4, 8, 8), torch.ones(1, dtype=torch.float64), positive, state)

    assert torch.equal(ask(5), ask(40)) and not torch.allclose(ask(1), ask(40))


def test_in_a_pipeline_it_draws_what_our_own_loop_draws(tiny_base, tiny_base_folder):
    from diffusers import DDIMScheduler, StableDiffusionPipeline

    import sunlab
    from sunlab.diffusion.grid import grid
    from sunlab.draws import starting_noise

    base, request = tiny_base.freeze(), Request(["a pizza", "a large tiger"], ["blue", ""], [3, 4])
    adapter = VSF(alpha=2.0)
    adapter.attach(base.backbone)
    sampling = Sampler(SOLVERS.build("ddim", base.backbone.path), grid(2))
    ours = draw(base, sampling, with_adapter(base, adapter), request, w=1.0)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base_folder, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    settings = {"timestep_spacing": "trailing", "set_alpha_to_one": True, "clip_sample": False}
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **settings)
    sunlab.plug(pipe, over={"name": "vsf", "alpha": 2.0})
    noise = starting_noise(request.seeds, (4, 8, 8))
    given = {"num_inference_steps": 2, "latents": noise, "output_type": "latent"}
    theirs = pipe(request.prompts, negative_prompt=request.negatives, **given).images
    torch.testing.assert_close(theirs, ours.latents, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"beta": -0.1}])
def test_parameters_out_of_range(options):
    with pytest.raises(ConfigError, match="alpha >= 0 and beta >= 0"):
        VSF(**options)
