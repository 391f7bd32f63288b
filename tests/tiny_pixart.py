"""A small base of PixArt's class with random weights."""

import json
from pathlib import Path

import torch
from tiny_bases import ASSETS

WORDS = ("a", "red", "apple", "pizza", "large", "tiger", "green")
VP = {"_class_name": "DPMSolverMultistepScheduler", "beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02,
      "num_train_timesteps": 1000, "prediction_type": "epsilon", "timestep_spacing": "trailing"}  # fmt: skip
FLOW = {"_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True, "flow_shift": 2.0,
        "num_train_timesteps": 1000, "prediction_type": "flow_prediction"}  # fmt: skip


def tiny_pixart(folder: Path, kind: str = "Sigma") -> Path:
    """A diffusers folder: two blocks, latents (4, 8, 8), pictures of 32 pixels, T5 text of at most 20 tokens.

    Args:
        kind: `Sigma` and `Alpha` predict noise and a variance; Alpha takes sizes, as diffusers' pipeline passes them at
            128 latents, in patches of 16; `flow` is Sigma with rectified flow.
    """
    from diffusers import AutoencoderKL, PixArtTransformer2DModel
    from transformers import T5Config, T5EncoderModel, T5TokenizerFast

    name = "Alpha" if kind == "Alpha" else "Sigma"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformer = PixArtTransformer2DModel(
            num_attention_heads=2, attention_head_dim=12, in_channels=4, out_channels=4 if kind == "flow" else 8,
            num_layers=2, cross_attention_dim=24, caption_channels=16, use_additional_conditions=kind == "Alpha",
            **({"sample_size": 128, "patch_size": 16} if kind == "Alpha" else {"sample_size": 8}),
        )  # fmt: skip
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8), down_block_types=("DownEncoderBlock2D",) * 3, layers_per_block=1,
            norm_num_groups=4, sample_size=32, up_block_types=("UpDecoderBlock2D",) * 3, latent_channels=4,
            scaling_factor=0.13025,
        )  # fmt: skip
        text = T5EncoderModel(T5Config(
            d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=2, vocab_size=64, feed_forward_proj="gated-gelu",
        ))  # fmt: skip
    for part, where in ((transformer, "transformer"), (vae, "vae"), (text, "text_encoder")):
        part.save_pretrained(folder / where)
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -3.0), *((f"▁{word}", -1.0) for word in WORDS)]
    T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=20).save_pretrained(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(FLOW if kind == "flow" else VP))
    index = json.loads((ASSETS / "families" / "pixart_sigma" / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "_class_name": f"PixArt{name}Pipeline"}))
    return folder
