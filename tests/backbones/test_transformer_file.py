"""A transformer from a single file, the rest of the base from a folder: the same base as from the folder alone."""

import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_pixart import tiny_pixart

from sunlab.backbones.base import BACKBONES
from sunlab.backbones.pretrained import load_base
from sunlab.backbones.sd3.tiny import write_tiny
from sunlab.errors import DataError

WEIGHTS = "diffusion_pytorch_model.safetensors"
MAKE = {
    "pixart": tiny_pixart,
    "sana": BACKBONES.get("sana").factory.write_tiny,
    "sd3": lambda folder: write_tiny(folder, t5=False),
}


@pytest.fixture(scope="module", params=MAKE)
def parted(request, tmp_path_factory):
    """Family, its whole folder, a folder without the transformer's weights, and the file of those."""
    root = tmp_path_factory.mktemp(request.param)
    MAKE[request.param](root / "whole")
    shutil.copytree(root / "whole", root / "rest")
    (root / "rest" / "transformer" / WEIGHTS).rename(root / "alone.safetensors")
    return request.param, root / "whole", root / "rest", root / "alone.safetensors"


def test_it_is_the_base_of_the_folder(parted):
    family, whole, rest, file = parted
    wanted, found = load_base(whole).freeze(), load_base(file, family=str(rest)).freeze()
    assert found.backbone.identity() == wanted.backbone.identity()
    words = ["a red apple", ""]
    assert torch.equal(found.encode(words).tokens, wanted.encode(words).tokens)
    assert found.weights["transformer"] == (file,) and type(found.backbone) is BACKBONES.get(family).factory


def test_what_is_refused(parted, tmp_path):
    family, _, rest, file = parted
    with pytest.raises(DataError, match=rf"{family}: a single file holds its transformer alone; set model\.family"):
        load_base(file)
    tensors = load_file(file)
    tensors.pop(next(name for name in tensors if name.endswith(("attn.to_q.weight", "attn2.to_q.weight"))))
    save_file(tensors, tmp_path / "cut.safetensors")
    save_file({"blocks.0.weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, said in (("cut", "lacks transformer_blocks.*to_q.weight"), ("other", "")):
        with pytest.raises(DataError, match=rf"{name}\.safetensors: {said}"):
            load_base(tmp_path / f"{name}.safetensors", family=str(rest))


def original_names(state):
    """Stable Diffusion 3's own names, under the prefix that model sites' files have."""
    renamed, last = {}, max(int(name.split(".")[1]) for name in state if name.startswith("transformer_blocks"))
    ends = {
        "norm1.linear": "x_block.adaLN_modulation.1", "norm1_context.linear": "context_block.adaLN_modulation.1",
        "ff.net.0.proj": "x_block.mlp.fc1", "ff.net.2": "x_block.mlp.fc2", "ff_context.net.0.proj": "context_block.mlp.fc1",
        "ff_context.net.2": "context_block.mlp.fc2", "attn.to_out.0": "x_block.attn.proj",
        "attn.to_add_out": "context_block.attn.proj", "attn2.to_out.0": "x_block.attn2.proj",
        "attn.norm_q": "x_block.attn.ln_q", "attn.norm_k": "x_block.attn.ln_k", "attn2.norm_q": "x_block.attn2.ln_q",
        "attn2.norm_k": "x_block.attn2.ln_k", "attn.norm_added_q": "context_block.attn.ln_q",
        "attn.norm_added_k": "context_block.attn.ln_k",
    }  # fmt: skip
    joined = {
        "attn.to_{}": "x_block.attn.qkv",
        "attn2.to_{}": "x_block.attn2.qkv",
        "attn.add_{}_proj": "context_block.attn.qkv",
    }
    heads = {"pos_embed.proj": "x_embedder.proj", "time_text_embed.timestep_embedder.linear_1": "t_embedder.mlp.0",
             "time_text_embed.timestep_embedder.linear_2": "t_embedder.mlp.2", "context_embedder": "context_embedder",
             "time_text_embed.text_embedder.linear_1": "y_embedder.mlp.0", "proj_out": "final_layer.linear",
             "time_text_embed.text_embedder.linear_2": "y_embedder.mlp.2",
             "norm_out.linear": "final_layer.adaLN_modulation.1"}  # fmt: skip
    renamed["pos_embed"] = state["pos_embed.pos_embed"]
    for name, tensor in state.items():
        path, _, kind = name.rpartition(".")
        if path in heads:
            swapped = torch.cat(tensor.chunk(2)[::-1]) if path == "norm_out.linear" else tensor
            renamed[f"{heads[path]}.{kind}"] = swapped
        elif path.startswith("transformer_blocks"):
            _, block, end = path.split(".", 2)
            if end in ends:
                swap = end == "norm1_context.linear" and int(block) == last
                renamed[f"joint_blocks.{block}.{ends[end]}.{kind}"] = torch.cat(tensor.chunk(2)[::-1]) if swap else tensor
            for pattern, theirs in joined.items():
                if end == pattern.format("q"):
                    parts = [state[f"transformer_blocks.{block}.{pattern.format(which)}.{kind}"] for which in "qkv"]
                    renamed[f"joint_blocks.{block}.{theirs}.{kind}"] = torch.cat(parts)
    return {f"model.diffusion_model.{name}": tensor.contiguous().clone() for name, tensor in renamed.items()}


@pytest.mark.parametrize("parted", ["sd3"], indirect=True)
def test_the_authors_names_are_converted(parted, tmp_path):
    _, whole, rest, file = parted
    save_file(original_names(load_file(file)), tmp_path / "original.safetensors")
    found = load_base(tmp_path / "original.safetensors", family=str(rest)).freeze()
    assert found.backbone.identity() == load_base(whole).backbone.identity()
