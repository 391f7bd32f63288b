"""The authors' layout, against a file made here from the published names, on an SD 1.5 U-Net that takes no memory."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from sunlab.adapters.sun import SUN
from sunlab.backbones.attention import Layer
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.cli.main import main
from sunlab.errors import ConfigError, DataError
from sunlab.export import read_adapter
from sunlab.export.convert import export_adapter, named_by_layer
from sunlab.export.published import number, place
from sunlab.export.shapes import families, family_of, layers_of
from sunlab.testing.toy_backbone import toy_base

WIDTHS = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] * 3 + [640] * 3 + [320] * 3 + [1280]  # down, up, mid


def published(widths=WIDTHS, text=768):
    """Tensors by the published names, each filled with its own number."""
    tensors = {}
    for k, h in enumerate(widths):
        i = 2 * k + 1
        for end in ("to_k_neg", "to_v_neg", "to_k_extra_pos", "to_v_extra_pos"):
            tensors[f"{i}.{end}.weight"] = torch.full((h, text), float(i), dtype=torch.float16)
        for end in ("to_k_neg_alpha", "to_k_neg_beta", "to_k_extra_pos_alpha", "to_k_extra_pos_beta"):
            tensors[f"{i}.{end}"] = torch.full((h,), float(i), dtype=torch.float16)
    return tensors


@pytest.fixture(scope="module")
def layers():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    return layers_of(UNetLayers(unet))


@pytest.fixture(scope="module")
def tensors():
    return published()


@pytest.fixture(scope="module")
def file(tensors, tmp_path_factory):
    path = tmp_path_factory.mktemp("published") / "sun_adapter.safetensors"
    save_file(tensors, path)
    return path


def test_the_published_numbers(tensors, file):
    assert len(tensors) == 128 and sum(t.numel() for t in tensors.values()) == 38_388_480
    read = read_adapter(file)
    assert read.layout == "published" and read.header["adapter"]["extra_positive"] and read.header["steps"] == 4
    assert abs(file.stat().st_size - 76.8e6) < 0.1e6


def test_every_tensor_is_placed_where_the_processors_are(tensors, layers):
    """Number i is the U-Net's i-th attention processor."""
    assert family_of(layers) == "sd1" and list(layers) == list(dict(families())["sd1"])
    placed = place(tensors, layers, "file")
    assert len(placed) == 128
    for k, path in enumerate(layers):
        for end in ("to_k_neg.weight", "to_v_extra_pos.weight", "to_k_neg_alpha", "to_k_extra_pos_beta"):
            assert float(placed[f"{path}.{end}"].flatten()[0]) == 2 * k + 1
    assert float(placed["mid_block.attentions.0.transformer_blocks.0.attn2.to_v_neg.weight"][0, 0]) == 31


def test_inspected_it_is_told_what_the_file_does_not_say(file, capsys):
    assert main(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert "layout published, 128 tensors, 38,388,480 parameters" in out and "the file has no header" in out
    assert "sunlab.plug(pipe, FILE, compat=True)" in out
    assert '"family": "sd1"' in out


def test_there_and_back(file, tensors, layers, tmp_path):
    again = number(place(tensors, layers, "file"), read_adapter(file).header, "file")
    assert again.keys() == tensors.keys() and all(torch.equal(again[k], tensors[k]) for k in tensors)
    ours, card = export_adapter(file, layout="sunlab", out=tmp_path / "ours" / "a.safetensors")
    header = read_adapter(ours).header
    assert header["base"]["family"] == "sd1" and "sunlab.plug(pipe" in card.read_text()
    theirs, _ = export_adapter(ours, layout="published", out=tmp_path / "theirs" / "b.safetensors")
    written = load_file(theirs)
    assert written.keys() == tensors.keys() and all(torch.equal(written[k], tensors[k]) for k in tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("7.to_k_neg_beta"), "missing 7.to_k_neg_beta"),
        (lambda t: t.update({"33.to_k_neg_beta": torch.zeros(320).half()}), "unknown 33.to_k_neg_beta"),
        (
            lambda t: t.update({"3.to_v_neg.weight": torch.zeros(320, 1024).half()}),
            r"3.to_v_neg.weight has shape \(320, 1024\)",
        ),
        (lambda t: t.update({"3.to_v_neg.weight": torch.zeros(320, 768)}), "3.to_v_neg.weight is torch.float32"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(change, message, tensors, layers):
    changed = dict(tensors)
    change(changed)
    with pytest.raises(DataError, match=message):
        place(changed, layers, "file")


def test_the_file_itself_is_checked(tensors, tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({**tensors, "5.to_k_neg_alpha": torch.full((640,), float("nan"), dtype=torch.float16)}, path)
    with pytest.raises(DataError, match=r"5\.to_k_neg_alpha has values that are not finite"):
        read_adapter(path)
    save_file({**tensors, "5.to_k_neg_alpha": torch.ones(640)}, path)
    with pytest.raises(DataError, match=r"5.to_k_neg_alpha is torch.float32"):
        read_adapter(path)
    save_file({"1.to_k_neg_alpha": torch.ones(320).half()}, path)
    with pytest.raises(DataError, match="no tensor ends in"):
        read_adapter(path)


def test_another_order_of_the_blocks_is_settled_by_the_shapes(layers):
    """Numbered down, mid, up, as the blocks are run: the shapes fit that order alone."""
    run = [320] * 2 + [640] * 2 + [1280] * 2 + [1280] + [1280] * 3 + [640] * 3 + [320] * 3
    placed = place(published(run), layers, "file")
    assert float(placed["mid_block.attentions.0.transformer_blocks.0.attn2.to_k_neg_alpha"][0]) == 13


def test_two_orders_that_both_fit_are_refused():
    paths = ("down_blocks.0", "up_blocks.1", "mid_block")
    same = {f"{p}.attentions.0.transformer_blocks.0.attn2": Layer(8, 4, 2) for p in paths}
    with pytest.raises(DataError, match="ambiguous"):
        place(published([8, 8, 8], 4), same, "file")


def test_another_base_is_refused(tensors, tmp_path):
    with pytest.raises(DataError, match="does not fit a U-Net of the family 'sdxl': it is of 'sd1'"):
        place(tensors, dict(families())["sdxl"], "file")
    with pytest.raises(DataError, match="'sdxl': missing 31"):
        place({k: v for k, v in tensors.items() if not k.startswith("31.")}, dict(families())["sdxl"], "file")
    save_file(published([8, 8], 4), tmp_path / "x.safetensors")
    with pytest.raises(DataError, match="does not fit"):
        named_by_layer(read_adapter(tmp_path / "x.safetensors"))


def test_a_network_that_is_no_unet_is_refused(tensors):
    with pytest.raises(DataError, match="U-Nets"):
        place(tensors, layers_of(toy_base().backbone), "file")


def test_other_adapters_have_no_place_in_it(file, tmp_path):
    spec = {"name": "sun", "negative": True, "normalise": False, "scale": True}
    with pytest.raises(DataError, match="'normalise': False"):
        number({}, {"adapter": spec}, "file")
    with pytest.raises(DataError, match=r"made for v_prediction, which the published layout cannot say.*--layout sunlab"):
        number({}, {"adapter": SUN().spec, "prediction_type": "v_prediction"}, "file")
    with pytest.raises(DataError, match=r"kind 'sun'.*sunlab\.plug"):
        export_adapter(file, layout="kohya", out=tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match="no layout 'civitai'"):
        export_adapter(file, layout="civitai", out=tmp_path / "x.safetensors")
    (tmp_path / "README.md").write_text("# mine")
    with pytest.raises(ConfigError, match="no model card"):
        export_adapter(file, layout="sunlab", out=tmp_path / "x.safetensors")
