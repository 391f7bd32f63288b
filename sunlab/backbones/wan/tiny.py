"""A Wan base that is small enough for tests, with random weights."""

from pathlib import Path
from typing import Any

import torch

from sunlab.backbones.sd3.tiny import t5_tokenizer


def write_tiny(folder: Path) -> Path:
    """Two blocks and latents of 4 channels. `WanPipeline.from_pretrained` opens the folder."""
    from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
    from transformers import AutoTokenizer, UMT5Config, UMT5EncoderModel

    t5_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer: Any = WanTransformer3DModel(
            in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=12, num_layers=2, ffn_dim=32,
            text_dim=16, freq_dim=16, rope_max_seq_len=32,
        )  # fmt: skip
        vae = AutoencoderKLWan(
            base_dim=4, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, temperal_downsample=[False, True, True],
            latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 2.0, 0.5, 1.0],
        )  # fmt: skip
        text = UMT5EncoderModel(UMT5Config(vocab_size=64, d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=2))
        with torch.no_grad():
            for name, parameter in transformer.named_parameters():
                if "norm" in name:  # ones at first, which would hide a missing norm
                    parameter.uniform_(0.5, 1.5)
    scheduler = UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    tokenizer: Any = AutoTokenizer.from_pretrained(folder / "tokenizer")
    WanPipeline(tokenizer, text, vae, scheduler, transformer).save_pretrained(folder)
    return folder
