"""`sample_grid`: what it says of a request that it cannot heed, and what it refuses."""

import pytest

from sunlab.app.sample import sample_grid
from sunlab.backbones.pretrained import load_base
from sunlab.errors import ConfigError, DataError
from sunlab.export import save_adapter
from sunlab.registries import registry_of


@pytest.fixture
def adapter_file(tiny_base_folder, tmp_path):
    def make(request):
        adapter = registry_of("adapters").build(request)
        adapter.attach(load_base(tiny_base_folder).backbone)
        return save_adapter(tmp_path / f"{adapter.spec['name']}.safetensors", adapter, {"guidance": [2.0, 4.0]})

    return make


@pytest.fixture
def sample(tiny_base_folder, tmp_path):
    def sample(prompt="a cat", negative="", **options):
        options = {"count": 1, "steps": 1, "base": str(tiny_base_folder), "out": tmp_path / "grid.png", **options}
        return sample_grid(prompts=[prompt], negatives=[negative], **options).read_bytes()

    return sample


def test_odd_prompts_are_drawn(sample):
    for prompt in ("", 'caf\u00e9 \U0001f600 "q" \\ | <b>[red]x[/red]\n'):
        assert sample(prompt)[:4] == b"\x89PNG"


def test_what_a_long_prompt_loses_is_said(sample):
    with pytest.warns(UserWarning, match="is cut to 77 tokens, without its end 'apple apple .* zebra'"):
        assert sample("apple " * 400 + "zebra")[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("request_", "given", "says"),
    [
        ({"name": "sun"}, {"guidance": 7.0}, "--guidance=7 has no effect"),
        ({"name": "sun_w"}, {"guidance": 7.0}, "--guidance=7 is outside the trained range 2 to 4"),
        ({"name": "lora", "rank": 2}, {"negative": "a dog"}, "--negative has no effect: this adapter takes no negative"),
    ],
)
def test_arguments_without_effect_are_warned_of(sample, adapter_file, request_, given, says):
    with pytest.warns(UserWarning, match=says):
        sample(adapter=adapter_file(request_), **given)


def test_arguments_with_an_effect_are_not_warned_of(sample, adapter_file):
    plain = adapter_file({"name": "sun"})
    assert sample(adapter=plain, negative="a dog") != sample(adapter=plain)
    steered = adapter_file({"name": "sun_w"})
    assert sample(adapter=steered, guidance=2.5) != sample(adapter=steered, guidance=3.5)


def test_what_cannot_be_drawn_is_refused(sample, tmp_path):
    with pytest.raises(DataError, match="not finite at guidance 1e\\+30; give a smaller one"):
        sample(guidance=1e30)
    with pytest.raises(ConfigError, match=r"steps must lie in 1 \.\.\. 1000, got 2000"):
        sample(steps=2000)
    with pytest.raises(DataError, match="no such adapter file"):
        sample(adapter=tmp_path / "none", base="no such base either")
    (tmp_path / "adapter.safetensors").touch()
    with pytest.raises(DataError, match=r"no such adapter file: a folder; in it there is adapter\.safetensors"):
        sample(adapter=tmp_path)
