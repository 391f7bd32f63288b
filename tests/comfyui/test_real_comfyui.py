"""The nodes in real ComfyUI code against `sunlab.plug` in diffusers: the same tiny random weights, latents within 1e-4.

`COMFYUI=path` names a checkout of ComfyUI whose requirements are installed; without it these tests are skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from adapter_files import write
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from safetensors.torch import load_file, save_file

import sunlab
from sunlab.comfyui.install import install

COMFYUI = os.environ.get("COMFYUI")
pytestmark = [
    pytest.mark.skipif(not COMFYUI, reason="COMFYUI names no checkout of ComfyUI"),
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # in diffusers
]
CROSS, PLAIN = "CrossAttn{}Block2D", "{}Block2D"
UNETS = {
    "sd": {
        "block_out_channels": (32, 64, 64, 64), "cross_attention_dim": 24, "attention_head_dim": 2,
        "down_block_types": (CROSS.format("Down"),) * 3 + (PLAIN.format("Down"),),
        "up_block_types": (PLAIN.format("Up"),) + (CROSS.format("Up"),) * 3,
    },
    "sdxl": {
        "block_out_channels": (32, 64, 64), "cross_attention_dim": 40, "attention_head_dim": (2, 4, 4),
        "down_block_types": (PLAIN.format("Down"),) + (CROSS.format("Down"),) * 2,
        "up_block_types": (CROSS.format("Up"),) * 2 + (PLAIN.format("Up"),), "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2, 3), "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 16 + 6 * 256,
    },
}  # fmt: skip
COMMON = {"image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32, "use_spatial_transformer": True}
CONFIGS = {
    "sd": {
        **COMMON, "num_res_blocks": [2] * 4, "channel_mult": [1, 2, 2, 2], "transformer_depth": [1] * 6 + [0] * 2,
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1, "context_dim": 24, "num_heads": 2,
        "num_head_channels": -1, "use_linear_in_transformer": False, "adm_in_channels": None,
    },
    "sdxl": {
        **COMMON, "num_res_blocks": [2] * 3, "channel_mult": [1, 2, 2], "transformer_depth": [0, 0, 2, 2, 3, 3],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 3, 3, 3], "transformer_depth_middle": 3, "context_dim": 40,
        "num_heads": -1, "num_head_channels": 16, "use_linear_in_transformer": True, "num_classes": "sequential",
        "adm_in_channels": 16 + 6 * 256,
    },
}  # fmt: skip
KEYS = {
    "sd": [("input", n) for n in (1, 2, 4, 5, 7, 8)] + [("output", n) for n in range(3, 12)] + [("middle", 0)],
    "sdxl": [("input", n, i) for n in (4, 5) for i in range(2)] + [("input", n, i) for n in (7, 8) for i in range(3)]
    + [("output", n, i) for n in range(3) for i in range(3)] + [("output", n, i) for n in (3, 4, 5) for i in range(2)]
    + [("middle", 0, i) for i in range(3)],
}  # fmt: skip
"""ComfyUI's keys of the cross-attention layers, in the order of diffusers' processors."""
SAMPLERS = {"euler": "ddim", "dpmpp_2m": "dpmpp_2m"}
CASES = [
    {"name": "euler", "base": "sd", "sampler": "euler", "steps": 4, "batch": 2},
    {"name": "dpmpp_2m", "base": "sd", "sampler": "dpmpp_2m", "batch": 1, "steps": 6},
    {"name": "v_prediction", "base": "sd", "sampler": "euler", "steps": 4, "batch": 1, "prediction_type": "v_prediction"},
    {"name": "sun_w", "base": "sd", "sampler": "euler", "steps": 4, "batch": 1, "kind": "sun_w", "guidance": 2.5},
    {"name": "no_norm", "base": "sd", "sampler": "euler", "steps": 4, "batch": 1, "spec": {"normalise": False}},
    {"name": "ip_adapter", "base": "sd", "sampler": "euler", "steps": 4, "batch": 3, "ip_scale": 0.7},
    {
        "name": "ip_adapter_first",
        "base": "sd",
        "sampler": "euler",
        "steps": 4,
        "batch": 1,
        "ip_scale": 0.7,
        "ip_first": True,
    },
    {"name": "masks", "base": "sd", "sampler": "euler", "steps": 4, "batch": 2, "masks": True},
    {"name": "unload", "base": "sd", "sampler": "euler", "steps": 4, "batch": 1, "unload": True},
    {"name": "float8", "base": "sd", "sampler": "euler", "steps": 4, "batch": 1, "dtype": "float8_e4m3fn"},
    {"name": "sdxl_batch", "base": "sdxl", "sampler": "euler", "steps": 4, "batch": 3},
    {"name": "sdxl_ip_adapter", "base": "sdxl", "sampler": "dpmpp_2m", "steps": 4, "batch": 1, "ip_scale": 0.5},
]


def random(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def unet_of(base, dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(sample_size=16, layers_per_block=2, **UNETS[base]).eval()
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(parameter.to(dtype))  # what float8 weights hold
    return unet


def pipeline(base, unet, sampler, prediction_type):
    schedule = {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": prediction_type,
    }
    schedule |= {"steps_offset": 1}
    scheduler = (
        DDIMScheduler(**schedule, clip_sample=False) if sampler == "euler" else DPMSolverMultistepScheduler(**schedule)
    )
    if base == "sd":
        pipe = StableDiffusionPipeline(
            vae=None, text_encoder=None, tokenizer=None, unet=unet, scheduler=scheduler, safety_checker=None,
            feature_extractor=None, image_encoder=None, requires_safety_checker=False,
        )  # fmt: skip
    else:
        pipe = StableDiffusionXLPipeline(
            vae=None, text_encoder=None, text_encoder_2=None, tokenizer=None, tokenizer_2=None, unet=unet,
            scheduler=scheduler, add_watermarker=False,
        )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ip_weights(unet):
    state = {"image_proj": {"proj.weight": random(4 * unet.config.cross_attention_dim, 8, seed=20),
                            "proj.bias": torch.zeros(4 * unet.config.cross_attention_dim),
                            "norm.weight": torch.ones(unet.config.cross_attention_dim),
                            "norm.bias": torch.zeros(unet.config.cross_attention_dim)}, "ip_adapter": {}}  # fmt: skip
    cross = [name.removesuffix(".processor") for name in unet.attn_processors if "attn2" in name]
    for number, path in enumerate(cross):
        width = unet.get_submodule(path).inner_dim
        for i, part in enumerate("kv"):
            weight = random(width, unet.config.cross_attention_dim, seed=30 + 2 * number + i) * 0.2
            state["ip_adapter"][f"{2 * number + 1}.to_{part}_ip.weight"] = weight
    return state


def draw_in_diffusers(case, folder, tensors):
    """Writes the case's adapter and inputs; returns the latents that `sunlab.plug` draws."""
    base, name, seed = case["base"], case["name"], 100 * CASES.index(case)
    unet = unet_of(base, getattr(torch, case.get("dtype", "float32")))
    if "dtype" not in case:
        tensors.update({f"{base}/{key}": value.clone() for key, value in unet.state_dict().items()})
    paths = [path.removesuffix(".processor") for path in unet.attn_processors if "attn2" in path]
    attn = {path: unet.get_submodule(path) for path in paths}
    layers = {path: (a.inner_dim, a.cross_attention_dim, a.heads) for path, a in attn.items()}
    prediction, solver = case.get("prediction_type", "epsilon"), SAMPLERS[case["sampler"]]
    file = folder / "models" / "sun" / f"{name}.safetensors"
    write(file, layers, kind=case.get("kind", "sun"), spec=case.get("spec", {}), seed=seed, solver=solver,
          prediction_type=prediction, steps=case["steps"])  # fmt: skip
    width, n = unet.config.cross_attention_dim, case["batch"]
    inputs = {"positive": random(n, 6, width, seed=seed + 1), "negative": random(n, 6, width, seed=seed + 2),
              "noise": random(n, 4, 16, 24, seed=seed + 3)}  # fmt: skip
    if case.get("masks"):
        inputs["positive"] = inputs["positive"][:, :3].repeat(1, 2, 1)
    if base == "sdxl":
        inputs["pooled"] = random(n, 16, seed=seed + 4)
    pipe, more = pipeline(base, unet, case["sampler"], prediction), {}
    if "ip_scale" in case:
        state = ip_weights(unet)
        unet._load_ip_adapter_weights([state])
        pipe.set_ip_adapter_scale(case["ip_scale"])
        embeds = random(1, 1, 8, seed=seed + 5)  # of one picture, which diffusers repeats over the batch
        more["ip_adapter_image_embeds"] = [embeds]
        inputs["ip_tokens"] = unet.encoder_hid_proj.image_projection_layers[0](embeds[:, 0]).detach()
        inputs |= {f"ip/{key}": value for key, value in state["ip_adapter"].items()}
        case["ip_keys"] = [(key, 2 * i + 1) for i, key in enumerate(KEYS[base])]
    if base == "sdxl":
        more |= {
            "pooled_prompt_embeds": inputs["pooled"],
            "negative_pooled_prompt_embeds": torch.zeros_like(inputs["pooled"]),
        }
    if "guidance" in case:
        more["guidance_scale"] = case["guidance"]
    tensors.update({f"{name}/{key}": value.contiguous() for key, value in inputs.items()})
    sunlab.plug(pipe, file)
    return pipe(
        prompt_embeds=inputs["positive"], negative_prompt_embeds=inputs["negative"], latents=inputs["noise"], height=128,
        width=192, num_inference_steps=case["steps"], output_type="latent", **more,
    ).images  # fmt: skip


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Latents by case: of diffusers, of ComfyUI, and the sizes of ComfyUI's batches, step by step."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "models" / "sun").mkdir(parents=True)
    (folder / "custom_nodes").mkdir()
    install(folder / "custom_nodes")
    tensors, expected = {}, {}
    for case in CASES:
        expected[case["name"]] = draw_in_diffusers(case, folder, tensors)
    (folder / "bases.json").write_text(json.dumps(CONFIGS))
    (folder / "cases.json").write_text(json.dumps(CASES))
    save_file({key: value.clone().contiguous() for key, value in tensors.items()}, folder / "tensors.safetensors")
    script = Path(__file__).with_name("draw_in_comfyui.py")
    env = {**os.environ, "PYTHONPATH": str(COMFYUI), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(folder)]
    done = subprocess.run(command, env=env, cwd=folder, text=True, capture_output=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return expected, load_file(folder / "drawn.safetensors"), json.loads((folder / "report.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_latents_are_those_of_diffusers(drawn, case):
    expected, found, report = drawn
    name = case["name"]
    difference = float((found[name] - expected[name]).abs().max())
    print(f"{name}: largest difference {difference:.1e}, latents up to {float(expected[name].abs().max()):.1f}")
    assert expected[name].std() > 0.1
    assert difference < 1e-4
    entries = 2 if case.get("masks") else 1
    assert report[name] == [entries * case["batch"]] * case["steps"]  # one pass a step
