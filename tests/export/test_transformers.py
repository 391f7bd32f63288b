"""Adapter files of transformers: LoRAs in diffusers' own loader, the header's family and path, the card, older files."""

import json

import diffusers
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_pixart import tiny_pixart

from sunlab.adapters import ADAPTERS
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import write_tiny
from sunlab.errors import DataError
from sunlab.export import load_adapter, save_adapter
from sunlab.export.convert import export_adapter
from sunlab.export.seal import pack
from sunlab.export.shapes import describe_base

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
LORA = {"name": "lora", "rank": 2, "alpha": 4.0, "targets": ("to_q", "to_k", "to_out.0")}
WITHOUT = {"text_encoder_3": None, "tokenizer_3": None}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    write_tiny(root / "sd3", t5=False)
    BACKBONES.get("sana").factory.write_tiny(root / "sana")
    tiny_pixart(root / "pixart", "flow")
    return root


def made(folder, spec, path):
    """A base, an attached adapter off its initial values, and its file."""
    base, adapter = load_base(folder).freeze(), ADAPTERS.build(spec)
    adapter.attach(base.backbone)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in adapter.tensors().values():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    header = {"solver": "ddim", "steps": 2, "base": describe_base(base.backbone), "prediction_type": "flow"}
    return base, adapter, save_adapter(path, adapter, header, dtype=torch.float32)


@pytest.mark.parametrize(("family", "pipeline"), [("sd3", "StableDiffusion3Pipeline"), ("sana", "SanaPipeline")])
def test_a_lora_in_diffusers_own_loader(family, pipeline, folders, tmp_path):
    base, adapter, file = made(folders / family, LORA, tmp_path / "a.safetensors")
    out = tmp_path / "pytorch_lora_weights.safetensors"
    _, card = export_adapter(file, layout="diffusers", out=out)
    assert f"{pipeline}.from_pretrained" in card.read_text() and "FlowMatchEulerDiscreteScheduler" in card.read_text()
    pipe = getattr(diffusers, pipeline).from_pretrained(folders / family, **(WITHOUT if family == "sd3" else {}))
    pipe.load_lora_weights(tmp_path, weight_name=out.name)
    prompts = base.encode(["a pizza", "green"])
    x = torch.randn(2, *base.backbone.sample_shape, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.9, 0.4], dtype=torch.float64)
    with torch.no_grad():
        wanted = base.backbone.predict(x, t, prompts, adapter.state(prompts, None, torch.ones(2)))
        plain = base.backbone.predict(x, t, prompts)
        base.backbone.transformer = pipe.transformer
        torch.testing.assert_close(base.backbone.predict(x, t, prompts), wanted, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(wanted, plain, atol=1e-2)


def test_layouts_that_do_not_exist_for_it_are_refused(folders, tmp_path):
    _, _, file = made(folders / "pixart", LORA, tmp_path / "a.safetensors")
    for layout, said in (("kohya", "layout 'kohya' is that of U-Nets"), ("diffusers", "PixArt pipelines load no LoRAs")):
        with pytest.raises(DataError, match=said):
            export_adapter(file, layout=layout, out=tmp_path / "out" / "b.safetensors")


def test_the_header_names_family_and_path_and_both_are_compared(folders, tmp_path):
    base, adapter, file = made(folders / "pixart", "sun", tmp_path / "a.safetensors")
    with safe_open(file, "pt") as opened:
        stated = json.loads(opened.metadata()["sunlab"])["base"]
    assert stated["backbone"] == "pixart" and stated["path"] == {"name": "RectifiedFlow", "steps": 1000, "shift": 2.0}
    adapter.detach()
    for wrong, said in (({"backbone": "sana"}, "'sana', this network is of 'pixart'"), ({"path": {"name": "DiscreteVP"}},
                        "path 'DiscreteVP', this network is of 'RectifiedFlow'")):  # fmt: skip
        other = save_adapter(tmp_path / "b.safetensors", adapter, {"base": {**stated, **wrong}}, dtype=torch.float32)
        with pytest.raises(DataError, match=said):
            load_adapter(other, base.backbone)


def test_a_file_of_before_without_biases_loads(folders, tmp_path):
    """The layers' own biases are copied at first and kept in the file; those that a file does not have are zero."""
    base = load_base(folders / "sana").freeze()
    sun = ADAPTERS.build("sun")
    sun.attach(base.backbone)
    own = base.backbone.transformer.transformer_blocks[0].attn2.to_v.bias
    path = "transformer_blocks.0.attn2.to_v_neg.bias"
    assert torch.equal(sun.tensors()[path], own) and bool(own.any())
    file = save_adapter(tmp_path / "a.safetensors", sun, {"base": describe_base(base.backbone)}, dtype=torch.float32)
    sun.detach()
    with safe_open(file, "pt") as opened:
        header = json.loads(opened.metadata()["sunlab"])
    header["base"] = {key: header["base"][key] for key in ("family", "cross_attention")}
    weights = {name: tensor for name, tensor in load_file(file).items() if not name.endswith(".bias")}
    (tmp_path / "b.safetensors").write_bytes(pack(weights, header))
    old, _ = load_adapter(tmp_path / "b.safetensors", base.backbone)
    assert not bool(old.tensors()[path].any())
    assert torch.equal(old.tensors()[path.replace("bias", "weight")], weights[path.replace("bias", "weight")])
