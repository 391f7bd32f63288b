"""The example workflow, run as a graph: every node of it executes, its links fit, and the picture is the adapter's."""

import json
from itertools import pairwise

import pytest
import torch
from adapter_files import write
from fake_comfyui import NAME_OF_LAYERS, Model, ModelPatcher, UNet
from graph import core_nodes, encoder, execute

from sunlab.comfyui.install import install

WIDTH, TEXT, HEADS = 8, 6, 2
POSITIVE, NEGATIVE, APPLY = 3, 4, 5  # ids in the example


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    (file,) = [path for path in install(tmp_path_factory.mktemp("nodes")) if path.suffix == ".json"]
    return file.read_text()


@pytest.fixture
def patcher(models_dir):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Model(UNet(WIDTH, TEXT, HEADS)).eval().requires_grad_(False)
    write(models_dir / "sun" / "sun.safetensors", dict.fromkeys(NAME_OF_LAYERS.values(), (WIDTH, TEXT, HEADS)))
    return ModelPatcher(model)


def run(example, nodes, patcher, **widgets):
    """The picture, and the results by node. widgets: id -> values in place of the example's."""
    graph = json.loads(example)
    core, saved = core_nodes(patcher, TEXT, WIDTH)
    for node in graph["nodes"]:
        node["widgets_values"] = widgets.get(f"n{node['id']}", node["widgets_values"])
    results = execute(graph, {**core, **nodes.NODE_CLASS_MAPPINGS})
    assert results.keys() == {node["id"] for node in graph["nodes"]}
    (picture,) = saved
    return picture, results


def by_hand(model, patched, prompt, seed=0):
    """Four Euler steps at trailing times, without a graph."""
    sigmas = [*model.model_sampling.sigmas[[999, 749, 499, 249]].tolist(), 0.0]
    x = sigmas[0] * torch.randn(1, WIDTH, 4, 4, generator=torch.Generator().manual_seed(seed))
    for sigma, after in pairwise(sigmas):
        epsilon = model.apply(patched, x / (1 + sigma**2) ** 0.5, encoder(TEXT)(prompt), sigma=sigma)
        x = x + epsilon * (after - sigma)
    return x[:, :3].permute(0, 2, 3, 1)


def test_it_draws_with_the_adapter(example, nodes, patcher):
    texts = {node["id"]: node["widgets_values"][0] for node in json.loads(example)["nodes"] if node["id"] in (3, 4)}
    picture, results = run(example, nodes, patcher)
    load, apply = (nodes.NODE_CLASS_MAPPINGS[name]() for name in ("SunlabLoadAdapter", "SunlabApplySUN"))
    adapter, steps = load.load("sun.safetensors")
    (patched,) = apply.apply(patcher, adapter, [[encoder(TEXT)(texts[NEGATIVE]), {}]], 1.0)
    torch.testing.assert_close(picture, by_hand(patcher.model, patched, texts[POSITIVE]), atol=1e-4, rtol=1e-4)
    assert steps == 4 and results[APPLY][0] is not patcher and patcher.patches() == []
    assert len(results[APPLY][0].patches()) == 2
    assert not torch.allclose(picture, by_hand(patcher.model, patcher, texts[POSITIVE]), atol=1e-3)


def test_its_widgets_act(example, nodes, patcher):
    picture, _ = run(example, nodes, patcher)
    positive = json.loads(example)["nodes"][POSITIVE - 1]["widgets_values"][0]
    unscaled, _ = run(example, nodes, patcher, **{f"n{APPLY}": [0.0, 0.0]})
    torch.testing.assert_close(unscaled, by_hand(patcher.model, patcher, positive), atol=1e-4, rtol=1e-4)
    other, _ = run(example, nodes, patcher, **{f"n{NEGATIVE}": ["a cat"]})
    assert other.shape == picture.shape and not torch.allclose(other, picture, atol=1e-3)


def test_one_evaluation_a_step(example, nodes, patcher, monkeypatch):
    calls = []
    forward = type(patcher.model.diffusion_model).forward
    monkeypatch.setattr(type(patcher.model.diffusion_model), "forward", lambda *a: calls.append(len(a[1])) or forward(*a))
    run(example, nodes, patcher)
    assert calls == [1] * 4
