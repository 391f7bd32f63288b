"""Adapter files: the round trip, and every way in which a file can be unusable."""

import json
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sunlab.adapters.lora import LoRA
from sunlab.adapters.sun import SUN
from sunlab.app.sample import sample_grid
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.diffusion.grid import grid
from sunlab.errors import DataError
from sunlab.export import load_adapter, read_adapter, save_adapter
from sunlab.export.seal import pack
from sunlab.losses.cfg import CFG
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.student import StudentModule
from sunlab.solvers import Sampler
from sunlab.solvers.dpmpp_2m import DPMpp2M
from sunlab.types import Conditioning

HEADER = {"guidance": [2.0, 4.0], "solver": "ddim", "times": [999, 499, -1]}


def plugged(folder: Path, adapter):
    """A U-Net with the adapter in it, its parameters moved off their initial values."""
    unet = load_base(folder).freeze().backbone.unet
    adapter.attach(UNetLayers(unet))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in adapter.trainable():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return unet


def ask(unet, adapter):
    g = torch.Generator().manual_seed(0)
    x, positive, negative = (torch.randn(1, *shape, generator=g) for shape in ((4, 8, 8), (77, 16), (77, 16)))
    state = adapter.state(Conditioning(positive), Conditioning(negative), torch.tensor([3.0]))
    with torch.no_grad():
        return UNetLayers(unet).run(state, x, 500, encoder_hidden_states=positive, return_dict=False)[0]


@pytest.fixture
def unet(tiny_base):
    return tiny_base.freeze().backbone.unet


@pytest.fixture(scope="module")
def file(tiny_base_folder, tmp_path_factory):
    adapter = SUN(extra_positive=False)
    plugged(tiny_base_folder, adapter)
    return save_adapter(tmp_path_factory.mktemp("adapter") / "sun.safetensors", adapter, HEADER)


def rewritten(file, path, *, header=None, **tensors):
    """A copy with other tensors (None: left out) and header, its checksum right."""
    state = {**load_file(file), **tensors}
    state = {k: v for k, v in state.items() if v is not None}
    with safe_open(file, "pt") as opened:
        described = json.loads(opened.metadata()["sunlab"]) | (header or {})
    path.write_bytes(pack(state, {k: v for k, v in described.items() if v is not None}))
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    "adapter", [SUN(), SUN(extra_positive=False, scale=False), LoRA(rank=2, alpha=4.0)], ids=["sun", "plain", "lora"]
)
def test_round_trip(adapter, dtype, tiny_base_folder, unet, tmp_path):
    first = plugged(tiny_base_folder, adapter)
    path = save_adapter(tmp_path / "a.safetensors", adapter, HEADER, dtype=dtype)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    loaded, header = load_adapter(path, UNetLayers(unet))
    assert dict(loaded.spec) == dict(adapter.spec) and header["guidance"] == [2.0, 4.0]
    for name, tensor in adapter.tensors().items():
        assert torch.equal(loaded.tensors()[name], tensor.detach().to(dtype).float())
    assert not any(p.requires_grad for p in loaded.parameters())
    torch.testing.assert_close(ask(unet, loaded), ask(first, adapter), atol=1e-6 if dtype is torch.float32 else 5e-3, rtol=0)
    adapter.detach()


def test_damaged_bytes(file, tmp_path):
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    (tmp_path / "x.safetensors").write_bytes(data)
    with pytest.raises(DataError, match=r"x\.safetensors: damaged"):
        read_adapter(tmp_path / "x.safetensors")


@pytest.mark.parametrize("keep", [0, 7, 100, 4000, -1])
def test_a_file_cut_short(file, tmp_path, keep):
    (tmp_path / "x.safetensors").write_bytes(file.read_bytes()[:keep])
    with pytest.raises(DataError, match=r"x\.safetensors: not a readable safetensors"):
        read_adapter(tmp_path / "x.safetensors")


def test_foreign_files(file, tmp_path):
    path = tmp_path / "x.safetensors"
    with pytest.raises(DataError, match="no such adapter file"):
        read_adapter(path)
    path.write_text("hello")
    with pytest.raises(DataError, match="not a readable safetensors"):
        read_adapter(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="no header of sunlab's"):
        read_adapter(path)
    save_file({"a": torch.zeros(1)}, path, {"sunlab": "[1, 2]"})
    with pytest.raises(DataError, match="no header of sunlab's"):
        read_adapter(path)
    with pytest.raises(DataError, match="format 99, this version reads 2"):
        read_adapter(rewritten(file, path, header={"format": 99}))
    with pytest.raises(DataError, match="does not say which adapter"):
        read_adapter(rewritten(file, path, header={"adapter": None}))


def test_a_tensor_missing_or_too_many_or_misshapen(file, unet, tmp_path):
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k_neg.weight"
    path, found = tmp_path / "x.safetensors", dict(unet.attn_processors)
    assert name in load_file(file)
    for wrong, message in (
        ({name: None}, rf"x\.safetensors: lacks {name};"),
        ({"strange.weight": torch.zeros(1).half()}, r": holds unknown strange\.weight; is it whole"),
        ({name: torch.zeros(8, 3).half()}, rf"{name} has shape \(8, 3\), this network needs \(8, 16\)"),
    ):
        with pytest.raises(DataError, match=message):
            load_adapter(rewritten(file, path, **wrong), UNetLayers(unet))
        assert unet.attn_processors == found  # nothing stays plugged in
    load_adapter(file, UNetLayers(unet))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(file, tmp_path, value):
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k_neg_alpha"
    wrong = load_file(file)[name]
    wrong[1] = value
    with pytest.raises(DataError, match=f"{name} has values that are not finite"):
        read_adapter(rewritten(file, tmp_path / "x.safetensors", **{name: wrong}))


def test_a_file_names_no_plugin_to_import(file, unet, tmp_path):
    for wrong in ({"name": "os.system"}, {"name": "sun", "plugin": "evil.py"}):
        with pytest.raises((DataError, ValueError), match=r"x\.safetensors"):
            load_adapter(rewritten(file, tmp_path / "x.safetensors", header={"adapter": wrong}), UNetLayers(unet))


@pytest.mark.parametrize("kind", ["sun", "lora"])
def test_what_a_module_exports_is_what_sample_draws_with(kind, tiny_base_folder, tmp_path):
    """Solver, grid and guidance are found in the header, whatever was trained."""
    base = load_base(tiny_base_folder)
    path = base.backbone.path
    options = {"student": Sampler(DPMpp2M(path), grid(2)), "guidance": (2.0, 6.0)}
    if kind == "sun":
        module = AdapterModule(base, SUN(), CFG(), **options)
    else:
        module = StudentModule(base, CFG(), lora=LoRA(rank=2), **options)
    (path,) = module.export(tmp_path)
    header = read_adapter(path).header
    assert header["guidance"] == [2.0, 6.0] and header["solver"] == "dpmpp_2m" and header["times"] == [1.0, 0.5, 0.0]
    ignored = pytest.warns(UserWarning, match="takes no negative prompt") if kind == "lora" else nullcontext()
    with ignored:
        out = sample_grid(prompts=["a pizza"], negatives=["red"], count=1, steps=2, base=str(tiny_base_folder),
                          adapter=str(path), out=tmp_path / "grid.png")  # fmt: skip
    assert out.is_file()
