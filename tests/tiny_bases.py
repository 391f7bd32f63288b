"""Bases of every family, small: the shipped configurations with fewer channels, random weights, the lab's tokenizer."""

import json
import shutil
from pathlib import Path

import torch

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "sunlab" / "assets"
TOKENIZER = ROOT / "configs" / "emoji" / "model" / "tokenizer"
TEXT = {"sd15": (16,), "sd21": (16,), "sd21_base": (16,), "sdxl": (16, 24)}  # widths of the text encoders


def tiny_configs(family: str, folder: Path) -> Path:
    """A folder of configurations without weights: latents (4, 8, 8), pictures of 32 pixels."""
    shutil.copytree(ASSETS / "families" / family, folder)
    widths = TEXT[family]
    words = len(json.loads((TOKENIZER / "vocab.json").read_text()))
    for number, width in enumerate(widths):
        end = f"_{number + 1}" if number else ""
        shutil.copytree(TOKENIZER, folder / f"tokenizer{end}", dirs_exist_ok=True)
        _change(
            folder / f"text_encoder{end}", hidden_size=width, intermediate_size=32, num_attention_heads=2,
            num_hidden_layers=3, projection_dim=width, vocab_size=words,
        )  # fmt: skip
    unet = json.loads((folder / "unet" / "config.json").read_text())
    blocks = len(unet["block_out_channels"])
    small = {"attention_head_dim": 2, "block_out_channels": [8, 8, 16, 16][:blocks], "layers_per_block": 1}
    if family == "sdxl":
        small |= {"transformer_layers_per_block": [1, 1, 2], "addition_time_embed_dim": 8}
        small["projection_class_embeddings_input_dim"] = widths[-1] + 6 * 8
    _change(folder / "unet", sample_size=8, cross_attention_dim=sum(widths), norm_num_groups=4, **small)
    _change(
        folder / "vae", block_out_channels=[8, 8, 8], down_block_types=["DownEncoderBlock2D"] * 3, layers_per_block=1,
        norm_num_groups=4, sample_size=32, up_block_types=["UpDecoderBlock2D"] * 3,
    )  # fmt: skip
    return folder


def tiny_base(family: str, folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """A diffusers folder with random weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    tiny_configs(family, folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {name: kind.from_config(kind.load_config(folder / name))
                 for name, kind in (("unet", UNet2DConditionModel), ("vae", AutoencoderKL))}  # fmt: skip
        for name, kind in (("text_encoder", CLIPTextModel), ("text_encoder_2", CLIPTextModelWithProjection)):
            if (folder / name).is_dir():
                parts[name] = kind(CLIPTextConfig.from_pretrained(folder / name))
    for name, part in parts.items():
        torch.nn.Module.to(part, dtype).save_pretrained(folder / name)
    return folder


def open_pipeline(folder: Path, **parts: object):
    """The pipeline of diffusers' that the folder's model_index.json names, without progress bars."""
    from diffusers import DiffusionPipeline

    pipe = DiffusionPipeline.from_pretrained(folder, local_files_only=True, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def tiny_clip(folder: Path) -> Path:
    """A CLIPModel of random weights with the lab's tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    tower["projection_dim"] = 5
    tokenizer = CLIPTokenizer.from_pretrained(TOKENIZER)
    words = {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    vision = {**tower, "image_size": 16, "patch_size": 8}
    config = CLIPConfig(text_config={**tower, **words}, vision_config=vision, projection_dim=5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _change(part: Path, **values) -> None:
    file = part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
