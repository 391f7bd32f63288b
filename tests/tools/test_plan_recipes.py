"""The evaluations behind docs/recipes.md: those of the configurations, counted by hand."""

from pathlib import Path

import pytest

from plan_recipes import evaluations, recipes
from sunlab.app.dry_run import SAMPLES, Plan
from sunlab.backbones.base import BACKBONES
from sunlab.config.load import load_config
from sunlab.diffusion.guidance import NetworkEvaluations


@pytest.mark.parametrize(("checkpointing", "trained"), [("false", 3.84e6), ("true", 5.12e6)])
def test_evaluations_of_a_recipe(checkpointing, trained):
    """24 guided steps a trajectory; a forward pass, a backward pass of two, and one more where it is recomputed."""
    loaded = load_config(["configs/sd15/sun_msc.yaml"], [f"model.backbone.gradient_checkpointing={checkpointing}"])
    one = NetworkEvaluations(teacher=0, student=SAMPLES, backward=SAMPLES)
    needs = Plan(base="", parameters={}, trained=0, memory=None, steps=20_000, batch=64, ranks=8, micro=8, nfe=one)
    assert evaluations(loaded, needs, 50_000) == (2.4e6, trained)


def test_every_family_has_a_recipe_and_a_row():
    """A family's configurations suffice: the tools find them, and the pages show what the tools print."""
    found = recipes()
    built_in = [name for name in BACKBONES.names() if BACKBONES.get(name).factory.__module__.startswith("sunlab.backbones.")]
    assert sorted(load_config([file]).config.model.backbone["name"] for file in found) == sorted(built_in)
    page, memory = (Path("docs", name).read_text("utf-8") for name in ("recipes.md", "gpu.md"))
    for file in found:
        assert f"| `{file.parent.name}` |" in page and f"`configs/{file.parent.name}`" in page, file
        assert f"| {file} |" in memory, file
