"""The model card of an adapter file, written from its header."""

import json
from collections.abc import Mapping
from typing import Any

SCHEDULERS = {"ddim": "DDIMScheduler", "dpmpp_2m": "DPMSolverMultistepScheduler", "lcm": "LCMScheduler"}
"""Our solver -> diffusers' class of the same method."""

FIRST_LINES = "---\nlibrary_name: diffusers\ntags: [few-step, adapter, "


def model_card(header: Mapping[str, Any], name: str, layout: str) -> str:
    """README.md of the file `name` in `layout`."""
    spec, base = header["adapter"], header.get("base") or {}
    rows = {
        "kind": spec["name"],
        "parameters": ", ".join(f"{k}: {json.dumps(v)}" for k, v in spec.items() if k not in ("name", "targets")),
        "base family": base.get("family"),
        "cross-attention shapes (SHA-256)": base.get("cross_attention"),
        "prediction": header.get("prediction_type"),
        "solver": header.get("solver"),
        "spacing": header.get("spacing"),
        "steps": header.get("steps"),
        "times": header.get("times"),
        "guidance": header.get("guidance"),
        "training": header.get("training") and json.dumps(header["training"], sort_keys=True),
        "made with": header.get("sunlab") and f"sunlab {header['sunlab']}",
        "layout of this file": layout,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value is not None)
    return (
        f"{FIRST_LINES}{spec['name']}]\n---\n\n# {name}\n\n"
        f"A few-step adapter: one U-Net pass a step, no classifier-free guidance.\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Use\n\n```python\n{_use(header, name, layout)}\n```\n"
    )


def _use(header: Mapping[str, Any], name: str, layout: str) -> str:
    steps = header.get("steps") or 4
    if layout in ("sunlab", "published"):
        return (
            f'import sunlab\n\nsunlab.plug(pipe, "{name}")\n'
            f'image = pipe("a red apple", negative_prompt="green", num_inference_steps={steps}).images[0]'
        )
    scheduler = SCHEDULERS.get(str(header.get("solver")), "DDIMScheduler")
    return (
        f"from diffusers import {scheduler}\n\n"
        f'pipe.load_lora_weights(".", weight_name="{name}")\n'
        f'pipe.scheduler = {scheduler}.from_config(pipe.scheduler.config, timestep_spacing="trailing")\n'
        f'image = pipe("a red apple", num_inference_steps={steps}, guidance_scale=1.0).images[0]'
    )
