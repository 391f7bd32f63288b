"""The model card of an adapter file, written from its header."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sunlab.adapters import Adapter
from sunlab.export.schedulers import settings_of

FIRST_LINES = "---\nlibrary_name: diffusers\ntags: [few-step, adapter, "


def model_card(header: Mapping[str, Any], adapter: Adapter, name: str, layout: str) -> str:
    """README.md of the file `name` in `layout`, which holds `adapter`."""
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
        "trained at guidance": _range(header.get("guidance")),
        "training": _training(header.get("training")),
        "made with": header.get("sunlab") and f"sunlab {header['sunlab']}",
        "layout of this file": layout,
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items() if value is not None)
    return (
        f"{FIRST_LINES}{spec['name']}]\n---\n\n# {name}\n\n"
        f"A few-step adapter: one U-Net pass a step, no classifier-free guidance.\n\n| | |\n|---|---|\n{table}\n\n"
        f"## Use\n\n```python\n{_use(header, adapter, name, layout)}\n```\n"
    )


def _range(guidance: Sequence[float] | None) -> str | None:
    if guidance is None:
        return None
    low, high = guidance
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _training(summary: Mapping[str, Any] | None) -> str | None:
    passes = ("teacher", "student", "backward")
    if summary is None or not {"loss", "steps", *passes} <= summary.keys():
        return json.dumps(dict(summary), sort_keys=True) if summary else None
    spent = ", ".join(f"{name} {summary[name]:,}" for name in passes)
    return f"{summary['steps']:,} steps, loss {summary['loss']}; NFE: {spent}"


def _use(header: Mapping[str, Any], adapter: Adapter, name: str, layout: str) -> str:
    family = (header.get("base") or {}).get("family")
    pipeline = "StableDiffusionXLPipeline" if family == "sdxl" else "StableDiffusionPipeline"
    load = f'pipe = {pipeline}.from_pretrained("BASE")  # the adapter\'s base, or any fine-tune of it'
    call = ['"a red apple"', f"num_inference_steps={header.get('steps') or 4}"]
    if layout in ("sunlab", "published"):
        if adapter.uses_negative:
            call.insert(1, 'negative_prompt="green"')
        if adapter.steered:
            call.append(f"guidance_scale={sum(header.get('guidance') or (3.0, 3.0)) / 2:g}")
        lines = ["import sunlab", f"from diffusers import {pipeline}", "", load, f'sunlab.plug(pipe, "{name}")']
    else:
        scheduler, settings = settings_of(str(header.get("solver", "ddim")))
        call.append("guidance_scale=1.0")
        arguments = "".join(f"\n    {key}={value!r}," for key, value in settings.items())
        lines = [f"from diffusers import {scheduler}, {pipeline}", "", load]
        lines += [f'pipe.load_lora_weights(".", weight_name="{name}")']
        lines += [f"pipe.scheduler = {scheduler}.from_config(\n    pipe.scheduler.config,{arguments}\n)"]
    return "\n".join([*lines, f"image = pipe({', '.join(call)}).images[0]"])
