"""The model card of an adapter file, written from its header."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from sunlab.adapters import Adapter
from sunlab.backbones.base import BACKBONES
from sunlab.export.schedulers import settings_of

MARK = "few-step"  # a tag of every card


@dataclass(frozen=True)
class Publication:
    """What a card states of an adapter on the Hub.

    Attributes:
        repo: `owner/name` of the adapter.
        base: `owner/name` of the pretrained model.
        licence: its identifier on the Hub, as `apache-2.0`.
        prompts: pairs of a prompt and a negative prompt, the first of which the lines of the card draw.
        results: a Markdown table of what was measured, or nothing.
        picture: the name of a picture beside the card, or nothing.
    """

    repo: str
    base: str
    licence: str
    prompts: Sequence[tuple[str, str]]
    results: str = ""
    picture: str = ""


def is_card(text: str) -> bool:
    """Whether a README.md is a card of sunlab's."""
    front, end, _ = text.partition("\n---\n")
    return front.startswith("---\n") and bool(end) and MARK in front


def model_card(
    header: Mapping[str, Any], adapter: Adapter, name: str, layout: str, publication: Publication | None = None
) -> str:
    """README.md of the file `name` in `layout`, which holds `adapter`."""
    spec, base = header["adapter"], header.get("base") or {}
    rows = {
        "kind": spec["name"],
        "parameters": ", ".join(f"{k}: {json.dumps(v)}" for k, v in spec.items() if k not in ("name", "targets")),
        "base family": base.get("family"),
        "cross-attention shapes (SHA-256)": base.get("cross_attention"),
        "path": (base.get("path") or {}).get("name"),
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
    front = yaml.safe_dump(_metadata(spec["name"], adapter, layout, publication), sort_keys=False, allow_unicode=True)
    parts = [f"---\n{front}---\n\n# {name if publication is None else publication.repo}"]
    if publication is not None and publication.picture:
        parts.append(f"![before and after]({publication.picture})")
    parts.append("A few-step adapter: one evaluation of the network a step, no classifier-free guidance.")
    parts.append(f"## Use\n\n```python\n{_use(header, adapter, name, layout, publication)}\n```")
    if publication is not None and publication.results:
        parts.append(f"## Measured\n\n{publication.results.strip()}")
    return "\n\n".join([*parts, f"## The file\n\n| | |\n|---|---|\n{table}"]) + "\n"


def _metadata(kind: str, adapter: Adapter, layout: str, publication: Publication | None) -> dict[str, Any]:
    """The card's front matter, by the Hub's names."""
    ours = layout in ("sunlab", "published")
    tags = [MARK, "adapter", "text-to-image", kind, *([] if ours else ["lora"])]
    found = {"library_name": "sunlab" if ours else "diffusers", "pipeline_tag": "text-to-image", "tags": tags}
    if publication is None:
        return found
    widget: list[dict[str, Any]] = []
    for prompt, negative in publication.prompts:
        widget.append({"text": prompt})
        if negative and adapter.uses_negative:
            widget[-1]["parameters"] = {"negative_prompt": negative}
    relation = {"base_model": publication.base, "base_model_relation": "adapter"}
    return {"license": publication.licence, **relation, **found, "widget": widget}


def _range(guidance: Sequence[float] | None) -> str | None:
    if guidance is None:
        return None
    low, high = guidance
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _training(summary: Mapping[str, Any] | None) -> str | None:
    passes = ("teacher", "student", "backward")
    if summary is None or "loss" not in summary or any(type(summary.get(name)) is not int for name in ("steps", *passes)):
        return json.dumps(dict(summary), sort_keys=True) if summary else None
    spent = ", ".join(f"{name} {summary[name]:,}" for name in passes)
    told = f"{summary['steps']:,} steps, loss {summary['loss']}; NFE: {spent}"
    after = summary.get("after")
    return f"{told}; after {_training(after)}" if isinstance(after, Mapping) else told


def _use(header: Mapping[str, Any], adapter: Adapter, name: str, layout: str, publication: Publication | None = None) -> str:
    """Lines that draw a picture with the adapter."""
    pipeline, flow = _pipeline(header.get("base") or {})
    base = "BASE" if publication is None else publication.base
    prompt, negative = ("a red apple", "green") if publication is None else publication.prompts[0]
    load = f'pipe = {pipeline}.from_pretrained("{base}")  # the adapter\'s base, or any fine-tune of it'
    call = [_quoted(prompt), f"num_inference_steps={header.get('steps') or 4}"]
    if layout in ("sunlab", "published"):
        if adapter.uses_negative:
            call.insert(1, f"negative_prompt={_quoted(negative)}")
        if adapter.steered:
            call.append(f"guidance_scale={sum(header.get('guidance') or (3.0, 3.0)) / 2:g}")
        lines = ["import sunlab", f"from diffusers import {pipeline}", "", load]
        lines += [f'sunlab.plug(pipe, "{name}")' if publication is None else f'sunlab.plug(pipe, "{publication.repo}")']
    else:
        scheduler, settings = settings_of(str(header.get("solver", "ddim")), flow=flow)
        call.append("guidance_scale=1.0")
        arguments = "".join(f"\n    {key}={value!r}," for key, value in settings.items())
        lines = [f"from diffusers import {scheduler}, {pipeline}", "", load]
        place = "." if publication is None else publication.repo
        lines += [f'pipe.load_lora_weights("{place}", weight_name="{name}")']
        lines += [f"pipe.scheduler = {scheduler}.from_config(\n    pipe.scheduler.config,{arguments}\n)"]
    return "\n".join([*lines, f"image = pipe({', '.join(call)}).images[0]"])


def _pipeline(base: Mapping[str, Any]) -> tuple[str, bool]:
    """diffusers' class of the base's pipelines, and whether the base is of rectified flow. Files of before 0.3 state the
    family of published models alone."""
    families = {name: BACKBONES.get(name).factory for name in BACKBONES.names()}
    known = [family for family in families.values() if base.get("family") in family.known_layers()]
    factory = families.get(str(base.get("backbone"))) or (known[0] if known else families["sd"])
    path = (base.get("path") or {}).get("name")
    return factory.pipeline, path == "RectifiedFlow"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
