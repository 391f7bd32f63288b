"""What the demo draws, beside the sampling loop called directly, and what it refuses."""

import json

import pytest
import torch
from PIL import Image

from sunlab.adapters.sun import SUN
from sunlab.app.demo import EQUAL_NFE, NOTHING, TEACHER, Settings, Studio
from sunlab.backbones.pretrained import load_base
from sunlab.diffusion.grid import grid
from sunlab.errors import ConfigError, DataError
from sunlab.export import load_adapter
from sunlab.losses.msc import MSC
from sunlab.modules.adapter import AdapterModule
from sunlab.pipelines.draw import Request, draw, with_adapter, with_guidance
from sunlab.pipelines.picture import to_uint8
from sunlab.precision import AUTO, dtype_on
from sunlab.solvers import Sampler
from sunlab.solvers.ddim import DDIM
from sunlab.solvers.dpmpp_2m import DPMpp2M

SETTINGS = Settings("a red apple", "a white background", seed=5, steps=2, teacher_steps=3, guidance=4.0)


@pytest.fixture(scope="module")
def adapter(tiny_base_folder, tmp_path_factory):
    module = AdapterModule(load_base(tiny_base_folder), SUN(), MSC())
    with torch.no_grad():
        for tensor in module.trainable().values():
            tensor.add_(0.5 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)))
    (file,) = module.export(tmp_path_factory.mktemp("adapter"))
    return file


@pytest.fixture(scope="module")
def studio(tiny_base_folder, adapter):
    return Studio([str(tiny_base_folder)], [str(adapter)])


def pixels(image: Image.Image) -> list:
    return list(image.tobytes())


def test_every_method_costs_what_it_says(studio):
    base = studio.bases[0]
    shown = {name: studio.draw(base, name, SETTINGS) for name in studio.methods}
    assert [one.nfe for one in shown.values()] == [6, 2, 2, 2] and list(shown) == [TEACHER, "adapter", NOTHING, EQUAL_NFE]
    assert all(one.seconds > 0 for one in shown.values())


def test_the_pictures_are_those_of_the_sampling_loop(studio, tiny_base_folder, adapter):
    model = load_base(tiny_base_folder, dtype=dtype_on(AUTO, "cpu")).freeze()
    request, path = Request([SETTINGS.prompt], [SETTINGS.negative], [SETTINGS.seed]), model.backbone.path
    guided = draw(model, Sampler(DPMpp2M(path), grid(3, path=path)), with_guidance(model), request, w=4.0)
    own, _ = load_adapter(adapter, model.backbone)
    fast = draw(model, Sampler(DDIM(path), grid(2, path=path)), with_adapter(model, own), request, w=3.0)
    for name, drawn in ((TEACHER, guided), ("adapter", fast)):
        image = studio.draw(studio.bases[0], name, SETTINGS).image
        assert pixels(image) == list(to_uint8(drawn.images[0]).tobytes())


def test_the_base_alone_uses_neither_guidance_nor_the_negative_prompt(studio):
    def drawn(negative, guidance):
        settings = Settings("an apple", negative, steps=2, guidance=guidance)
        return pixels(studio.draw(studio.bases[0], NOTHING, settings).image)

    assert drawn("red", 4.0) == drawn("", 1.0) and drawn("", 1.0) == drawn("", 7.0)


def test_guidance_begins_at_that_of_the_training(studio, tiny_base_folder):
    assert studio.guidance == 3.0  # the module's default
    assert Studio([str(tiny_base_folder)]).guidance == 3.0
    assert Studio(["emoji-sd"], ["emoji/sun_msc.safetensors"]).guidance == 4.0


def test_the_scale_acts_on_the_adapter_alone(studio):
    def drawn(name, scale):
        return pixels(studio.draw(studio.bases[0], name, Settings("an apple", "red", steps=2, scale=scale)).image)

    assert drawn("adapter", 1.0) != drawn("adapter", 2.0) and drawn(TEACHER, 1.0) == drawn(TEACHER, 2.0)


def test_another_method_or_base_is_refused(studio):
    for base, method in ((studio.bases[0], "/etc/passwd"), ("/etc", TEACHER)):
        with pytest.raises(ConfigError, match="no base"):
            studio.draw(base, method, SETTINGS)


def test_two_adapters_of_one_name_are_both_there(tiny_base_folder, adapter, tmp_path):
    other = tmp_path / adapter.name
    other.write_bytes(adapter.read_bytes())
    assert len(Studio([str(tiny_base_folder)], [str(adapter), str(other)]).adapters) == 2


@pytest.fixture
def run(tmp_path, tiny_base_folder, adapter):
    folder = tmp_path / "runs" / "mine"
    (folder / "export").mkdir(parents=True)
    (folder / "pictures").mkdir()
    (folder / "config.yaml").write_text(f"model: {{base: {json.dumps(str(tiny_base_folder))}}}\n")
    (folder / "export" / "adapter.safetensors").write_bytes(adapter.read_bytes())
    for name in ("before_after.png", "pictures/0000100.png", "pictures/0000200.png"):
        Image.new("RGB", (8, 8), "red").save(folder / name)
    row = {"name": "first", "nfe": 50, "seconds": 0.1, "distance": 0.0}
    (folder / "before_after.json").write_text(json.dumps({"rows": [row]}))
    return folder


def test_a_run_brings_its_base_its_adapter_and_its_pictures(run, tiny_base_folder):
    studio = Studio([], [], [run])
    assert studio.bases == [str(tiny_base_folder)] and list(studio.adapters) == ["mine"]
    (read,) = studio.runs
    assert [title for title, _ in read.pictures] == ["before and after", "step 200", "step 100"]
    assert read.rows == [("first", 50, 0.1, 0.0)]


def test_a_folder_that_is_no_run_is_named(run, tmp_path):
    with pytest.raises(ConfigError, match=r"--run.*has no config\.yaml"):
        Studio([], [], [tmp_path])
    (run / "pictures" / "0000100.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"0000100\.png"):
        Studio([], [], [run])


def test_a_base_is_needed():
    with pytest.raises(ConfigError, match="--base"):
        Studio([])
