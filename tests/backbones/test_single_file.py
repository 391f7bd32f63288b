"""One .safetensors file in the original layout, as model sites share them: the same base as the folder, to the bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sunlab.backbones import BACKBONES, Files
from sunlab.backbones.pretrained import chosen, load_base, outline_base
from sunlab.backbones.sd.original_layout import original
from sunlab.errors import ConfigError, DataError

UNET = "model.diffusion_model."


def states(folder):
    found = {}
    for path in sorted(folder.glob("*/*.safetensors")):
        found.setdefault(path.parent.name, {}).update(load_file(path))
    return found


@pytest.fixture(scope="session")
def tensors(folders):
    def of(family):
        unet, vae = (json.loads((folders[family] / name / "config.json").read_text()) for name in ("unet", "vae"))
        return original(states(folders[family]), unet, vae)

    return of


@pytest.mark.parametrize("family", ["sd15", "sd21", "sdxl"])
def test_it_is_the_folder(family, folders, tensors, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(tensors(family), file)
    base = load_base(file, family=str(folders[family]))
    folder = load_base(folders[family])
    for ours, theirs in ((base.backbone.unet, folder.backbone.unet), (base.autoencoder.vae, folder.autoencoder.vae),
                         (base.text.model, folder.text.model)):  # fmt: skip
        mine, wanted = ours.state_dict(), theirs.state_dict()
        assert mine.keys() == wanted.keys() and all(torch.equal(mine[k], v) for k, v in wanted.items())
    one, other = base.encode(["a pizza", ""]), folder.encode(["a pizza", ""])
    torch.testing.assert_close(one.tokens, other.tokens)
    assert base.backbone.prediction_type == folder.backbone.prediction_type
    assert base.fingerprint() != folder.fingerprint() and base.weights["unet"] == (file,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_its_type(dtype, folders, tensors, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(tensors("sd15"), file)
    base = load_base(file, family=str(folders["sd15"]), dtype=dtype)
    assert {p.dtype for part in (base.backbone, base.text, base.autoencoder) for p in part.parameters()} == {dtype}


def recognised(shapes, metadata):
    """The configuration that is chosen for a file with these tensors."""
    files = Files(Path("file.safetensors"), None, {}, shapes, metadata)
    return BACKBONES.get(chosen(files, None)[0]).factory.configuration_of(files).name


@pytest.mark.parametrize("family", ["sd15", "sd21", "sd21_base", "sdxl"])
def test_a_full_size_file_is_recognised_by_its_shapes(family, outlines):
    base = outlines(family)
    named = {"unet": base.backbone.unet.state_dict(), "vae": base.autoencoder.vae.state_dict()}
    named |= {f"text_encoder{'_2' if i else ''}": model.state_dict() for i, (_, model) in enumerate(base.text.parts())}
    shapes = {k: tuple(v.shape) for k, v in original(named, base.backbone.unet.config, base.autoencoder.vae.config).items()}
    kind = {"sd21": "stable-diffusion-v2-768-v", "sd21_base": "stable-diffusion-v2-512"}.get(family, "anything")
    assert recognised(shapes, {"modelspec.architecture": kind}) == family
    if family.startswith("sd21"):
        with pytest.raises(ConfigError, match=r"model\.family=sd21 .* or model\.family=sd21_base"):
            recognised(shapes, {})
        assert recognised({**shapes, "v_pred": (0,)}, {}) == "sd21"


def test_marks_of_v_prediction_from_pure_noise(folders, tensors, tmp_path):
    marks = {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])}
    save_file({**tensors("sdxl"), **marks}, tmp_path / "v.safetensors")
    backbone = load_base(tmp_path / "v.safetensors", family=str(folders["sdxl"])).backbone
    assert backbone.prediction_type == "v_prediction" and float(backbone.path.alphas_cumprod[-1]) == 0
    outline = outline_base(tmp_path / "v.safetensors", family=str(folders["sdxl"])).backbone
    assert outline.prediction_type == "v_prediction"


def broken(kind, named):
    name = f"{UNET}out.2.weight"
    if kind == "missing":
        return {k: v for k, v in named.items() if k != name}
    if kind == "shape":
        return {**named, name: torch.zeros(3, 8, 3, 3)}
    if kind == "encoder":
        return {k: v for k, v in named.items() if not k.startswith("cond_stage_model")}
    if kind == "lora":
        return {"unet.down_blocks.0.lora_A.weight": torch.zeros(2, 2)}
    return {**named, f"{UNET}input_blocks.0.0.weight": torch.zeros(8, 9, 3, 3)}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"lacks model\.diffusion_model\.out\.2\.weight;"),
        ("shape", r"out\.2\.weight \[4, 8, 3, 3\] \(it has \[3, 8, 3, 3\]\)"),
        ("encoder", r"lacks cond_stage_model\.transformer.* more;"),
        ("lora", "is it a LoRA or an adapter"),
        ("inpainting", "takes 9 channels"),
    ],
)
def test_what_is_no_whole_base_is_refused_by_name(kind, message, folders, tensors, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(broken(kind, tensors("sd15")), file)
    family = None if kind in ("lora", "inpainting") else str(folders["sd15"])
    with pytest.raises(DataError, match=rf"(?s)model\.safetensors: .*{message}"):
        load_base(file, family=family)


def test_a_cut_file_is_refused(folders, tensors, tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(tensors("sd15"), file)
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match=r"model\.safetensors: damaged"):
        load_base(file, family=str(folders["sd15"]))
    with pytest.raises(ConfigError, match=r"model\.family: 'sd9' is none of .*sd15"):
        load_base(file, family="sd9")
