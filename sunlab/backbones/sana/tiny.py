"""A SANA base that is small enough for tests, with random weights. It has norms of queries and keys, as SANA 1.5."""

import json
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.sana.text import INSTRUCTION

BYTES = [f"<0x{number:02X}>" for number in range(256)]
SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


def write_tiny(folder: Path) -> Path:
    """Latents (4, 8, 8), pictures of 32 pixels. `SanaPipeline.from_pretrained` opens the folder."""
    from diffusers import AutoencoderDC, DPMSolverMultistepScheduler, SanaPipeline, SanaTransformer2DModel
    from transformers import Gemma2Config, Gemma2Model

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer: Any = SanaTransformer2DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=2,
            num_cross_attention_heads=4, cross_attention_head_dim=4, cross_attention_dim=16, caption_channels=8,
            sample_size=8, qk_norm="rms_norm_across_heads",
        )  # fmt: skip
        blocks = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in (
            ("block_types", ("ResBlock", "EfficientViTBlock", "EfficientViTBlock")), ("block_out_channels", (8, 8, 16)),
            ("layers_per_block", (1, 1, 1)), ("qkv_multiscales", ((), (5,), (5,))),
        )}  # fmt: skip
        vae = AutoencoderDC(
            latent_channels=4, attention_head_dim=4, scaling_factor=0.4, upsample_block_type="interpolate",
            downsample_block_type="conv", **blocks,
        )  # fmt: skip
        text = Gemma2Model(Gemma2Config(
            vocab_size=len(tokenizer), hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=4, query_pre_attn_scalar=4, max_position_embeddings=2048,
        ))  # fmt: skip
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                if "norm" in name:  # ones at first, which would hide a missing norm
                    parameter.uniform_(0.5, 1.5)
    scheduler = DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    SanaPipeline(tokenizer, text, vae, transformer, scheduler).save_pretrained(folder)
    return folder


def tiny_tokenizer() -> Any:
    """Gemma's kind of tokenizer, with the words of `INSTRUCTION` and single bytes."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import GemmaTokenizer

    words = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    words.normalizer = normalizers.Replace(" ", "▁")
    words.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer: Any = trainers.BpeTrainer(vocab_size=900, special_tokens=SPECIAL + BYTES, show_progress=False)
    words.train_from_iterator([INSTRUCTION], trainer)
    merges = [tuple(merge) for merge in json.loads(words.to_str())["model"]["merges"]]
    tokenizer: Any = GemmaTokenizer(vocab=words.get_vocab(), merges=merges)
    begin = tokenizer.bos_token
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, tokenizer.bos_token_id)]
    )
    return tokenizer
