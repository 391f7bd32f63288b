"""A small base of Stable Diffusion 3 or 3.5 for tests: the packaged configurations with fewer channels, random weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.sd.tokenizer import ASSETS, END, LENGTH, vocabulary

JOINT, CLIPS = 48, (16, 24)
"""Text width of the transformer, widths of the CLIPs."""
WORDS = ("a", "red", "apple", "pizza", "large", "tiger", "green")


def write_tiny(folder: Path, family: str = "sd35_medium", *, t5: bool = True, dtype: torch.dtype = torch.float32) -> Path:
    """Write a diffusers folder with random weights: three blocks, latents (16, 8, 8), pictures of 32 pixels. In
    `sd35_medium` keys are normalised and the first two blocks have `attn2`."""
    from diffusers import AutoencoderKL, SD3Transformer2DModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer, T5Config, T5EncoderModel

    shutil.copytree(ASSETS / "families" / family, folder, dirs_exist_ok=True)
    letters = vocabulary([])
    words: Any = CLIPTokenizer(vocab=letters, merges=[], pad_token=END, model_max_length=LENGTH)
    dual = {"dual_attention_layers": [0, 1]} if family == "sd35_medium" else {}
    _change(
        folder / "transformer", num_layers=3, attention_head_dim=8, num_attention_heads=2, caption_projection_dim=16,
        joint_attention_dim=JOINT, pooled_projection_dim=sum(CLIPS), pos_embed_max_size=8, sample_size=8, **dual,
    )  # fmt: skip
    _change(
        folder / "vae", block_out_channels=[8, 8, 8], down_block_types=["DownEncoderBlock2D"] * 3, layers_per_block=1,
        norm_num_groups=4, sample_size=32, up_block_types=["UpDecoderBlock2D"] * 3,
    )  # fmt: skip
    for end, width in zip(("", "_2"), CLIPS, strict=True):
        words.save_pretrained(folder / f"tokenizer{end}")
        _change(
            folder / f"text_encoder{end}", hidden_size=width, intermediate_size=32, num_attention_heads=2,
            num_hidden_layers=3, projection_dim=width, vocab_size=len(letters), bos_token_id=len(letters) - 2,
            eos_token_id=len(letters) - 1,
        )  # fmt: skip
    if t5:
        t5_tokenizer(folder / "tokenizer_3")
        _change(folder / "text_encoder_3", d_model=JOINT, d_ff=32, d_kv=8, num_heads=2, num_layers=2, vocab_size=64)
    else:
        shutil.rmtree(folder / "text_encoder_3")
        index = json.loads((folder / "model_index.json").read_text())
        index |= {"text_encoder_3": [None, None], "tokenizer_3": [None, None]}
        (folder / "model_index.json").write_text(json.dumps(index))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts: dict[str, Any] = {name: kind.from_config(kind.load_config(folder / name))
                 for name, kind in (("transformer", SD3Transformer2DModel), ("vae", AutoencoderKL))}  # fmt: skip
        for name in ("text_encoder", "text_encoder_2"):
            parts[name] = CLIPTextModelWithProjection(CLIPTextConfig.from_pretrained(folder / name))
        if t5:
            parts["text_encoder_3"] = T5EncoderModel(T5Config.from_pretrained(folder / "text_encoder_3"))
        for module in parts["transformer"].modules():  # norms of keys and queries that are not all the same
            if type(module).__name__ == "RMSNorm":
                torch.nn.init.uniform_(module.weight, 0.5, 1.5)
    for name, part in parts.items():
        torch.nn.Module.to(part, dtype).save_pretrained(folder / name)
    return folder


def t5_tokenizer(folder: Path) -> None:
    """Write T5's kind of tokenizer, with the words of `WORDS`."""
    from transformers import T5TokenizerFast

    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -3.0), *((f"▁{word}", -1.0) for word in WORDS)]
    tokenizer: Any = T5TokenizerFast  # built from a vocabulary
    tokenizer(vocab=pieces, extra_ids=0).save_pretrained(folder)


def _change(part: Path, **values: Any) -> None:
    file = part / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
