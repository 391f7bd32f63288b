"""PixArt: sampling equal to diffusers' own pipelines, masks, and the projection of captions."""

from dataclasses import replace

import diffusers
import pytest
import torch
from tiny_pixart import tiny_pixart

from sunlab.backbones.pretrained import load_base, outline_base
from sunlab.diffusion.grid import grid
from sunlab.draws import starting_noise
from sunlab.export.shapes import describe_base
from sunlab.pipelines.draw import Request, draw, with_guidance
from sunlab.registries import registry_of
from sunlab.solvers import Sampler
from sunlab.solvers.dpmpp_2m import DPMpp2M

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
PROMPTS, NEGATIVES, SEEDS = ["a pizza", "a large red tiger"], ["green", ""], [3, 4]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("pixart")
    return {kind: tiny_pixart(root / kind, kind) for kind in ("Sigma", "Alpha", "flow")}


@pytest.mark.parametrize("kind", ["Sigma", "Alpha", "flow"])
def test_guided_sampling_is_diffusers_own(kind, folders, monkeypatch):
    base = load_base(folders[kind]).freeze()
    path = base.backbone.path
    pipe = getattr(diffusers, f"PixArt{'Alpha' if kind == 'Alpha' else 'Sigma'}Pipeline").from_pretrained(
        folders[kind], local_files_only=True
    )
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler.from_config(
        pipe.scheduler.config, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    pipe.set_progress_bar_config(disable=True)
    times = grid(4, path=path)
    if kind == "flow":  # diffusers' grid of flow sigmas starts at 0.999, before the shift of 2
        even = torch.linspace(0.999, 0, 5, dtype=torch.float64)
        times = 2 * even / (1 + even)
        monkeypatch.setattr(base.backbone, "network_time", lambda t: (1000 * t + 1e-6).floor())  # as it rounds timesteps
    ours = draw(base, Sampler(DPMpp2M(path), times), with_guidance(base), Request(PROMPTS, NEGATIVES, SEEDS), w=3)
    given = {"negative_prompt": NEGATIVES, "guidance_scale": 3.0, "num_inference_steps": 4, "clean_caption": False,
             "use_resolution_binning": False, "max_sequence_length": 20}  # fmt: skip
    for output in ("latent", "pt"):
        noise = starting_noise(SEEDS, base.backbone.sample_shape)
        theirs = pipe(PROMPTS, latents=noise, output_type=output, **given).images
        torch.testing.assert_close(ours.latents if output == "latent" else ours.images, theirs, atol=1e-4, rtol=1e-4)


def test_prompts_are_encoded_as_diffusers_does(folders):
    base = load_base(folders["Sigma"])
    pipe = diffusers.PixArtSigmaPipeline.from_pretrained(folders["Sigma"], local_files_only=True)
    wanted = pipe.encode_prompt(PROMPTS, True, NEGATIVES, max_sequence_length=20)
    for prompts, tokens, mask in ((PROMPTS, *wanted[:2]), (NEGATIVES, *wanted[2:])):
        found = base.encode(prompts)
        torch.testing.assert_close(found.tokens, tokens)
        assert torch.equal(found.mask.long(), mask)
    assert wanted[1].sum(1).tolist() != wanted[3].sum(1).tolist(), "positive and negative prompts differ in length"


def test_a_negative_prompt_passes_the_projection_and_keeps_its_own_mask(folders):
    """SUN's branch over two negative prompts that differ in their padding alone is the same; in a word it is not. The tokens
    that it attends to are those after `caption_projection`."""
    base = load_base(folders["flow"]).freeze()
    backbone, positive, negative = base.backbone, base.encode(PROMPTS), base.encode(NEGATIVES)
    adapter = registry_of("adapters").build("sun")
    adapter.attach(backbone)
    with torch.no_grad():
        for p in adapter.tensors().values():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(0)))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.9, 0.4], dtype=torch.float64)

    def value(negative):
        return backbone.predict(x, t, positive, adapter.state(positive, negative, torch.full((2,), 3.0)))

    with torch.no_grad():
        wanted, noise = value(negative), 5 * torch.randn(negative.tokens.shape)
        padded = torch.where(negative.mask[..., None], negative.tokens, noise)
        torch.testing.assert_close(value(replace(negative, tokens=padded)), wanted, atol=1e-5, rtol=1e-4)
        other = torch.where(negative.mask[..., None], noise, negative.tokens)
        assert not torch.allclose(value(replace(negative, tokens=other)), wanted, atol=1e-3)
        projected = backbone.transformer.caption_projection(negative.tokens)
    torch.testing.assert_close(backbone.context(negative).tokens, projected)


def test_the_shipped_configurations_are_the_published_sizes():
    sizes = {"pixart_sigma": 610_856_096, "pixart_alpha": 611_349_152}
    for family, size in sizes.items():
        outline = outline_base("nowhere/model", family=family)
        assert sum(p.numel() for p in outline.backbone.parameters()) == size
        assert describe_base(outline.backbone)["family"] == "pixart"
