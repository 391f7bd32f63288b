"""`sunlab.plug(pipe, "adapter.safetensors")`: attach an adapter to a diffusers pipeline."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from sunlab import hub
from sunlab.adapters.strength import Strength
from sunlab.backbones.attention import NetworkLayers
from sunlab.backbones.base import BACKBONES
from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import ConfigError
from sunlab.export import attach_untrained, load_adapter, read_adapter
from sunlab.export.load import adapter_of, fitted
from sunlab.packaged import asset
from sunlab.pipelines.attachment import Attachment, network, receive_state, withhold_state
from sunlab.pipelines.generation import running
from sunlab.pipelines.plugged import is_plugged, plugged_class
from sunlab.pipelines.schedulers import scheduler_for

OTHER_PASSES = ("do_perturbed_attention_guidance", "get_views")
"""Attributes of pipelines that build their own batches for the U-Net: perturbed attention, panoramas."""


def plug(
    pipe: Any,
    file: str | Path | None = None,
    *,
    weight_name: str | None = None,
    revision: str | None = None,
    scale: float = 1.0,
    lora_scale: float = 1.0,
    over: str | Mapping[str, Any] | None = None,
    compat: bool = False,
) -> Any:
    """Attach an adapter file to a diffusers pipeline of a family in `BACKBONES`, and return the pipeline.

    Sets the scheduler, the spacing and shift of its times, the default number of steps and one pass a step from the file's
    header.
    The pipeline's own `negative_prompt` then acts in that one pass. Text-to-image, image-to-image, inpainting and
    ControlNet; style LoRAs may be loaded, fused or not, before or after; an IP-Adapter likewise. Threads may draw through
    copies of the pipeline, each with a scheduler of its own.

    Args:
        pipe: for instance a StableDiffusionPipeline, changed in place until `unplug(pipe)`.
        file: in our layout or the authors': a path, or a hub id `owner/name`, whose only .safetensors file is fetched;
            None: `over` alone, with the pipeline's own scheduler and steps.
        weight_name: the file of the repository, where it holds several.
        revision: of the repository: a branch, tag or commit.
        scale: factor on the offset that the adapter adds to its attention layers, P' - N' of SUN: how strong the guidance
            is. 1: as trained. A steered adapter also follows the `guidance_scale` of each call.
        lora_scale: factor on the update of the adapter's LoRA (`lora`, `sun_lora`).
        over: an adapter without training that stacks on the file's, `nag` or `vsf`: its name, or a mapping with `name` and
            parameters.
        compat: the arithmetic of the authors' released code (arXiv 2312.08887), where a picture depends on its batch.

    Raises:
        ConfigError: an adapter is attached already, a pipeline that is not of this family, processors of another library
            that this adapter cannot be composed with, `compat` for an adapter that is not SUN's, neither `file` nor
            `over`, or a scale that is not finite or that this adapter has no use for.
        DataError: a damaged file, or an adapter of another base; the pipeline is left as it was.
        StorageError: a hub id that is not in the cache and cannot be fetched.
    """
    file = _on_the_hub(file, weight_name, revision) if weight_name or revision else file
    if is_plugged(pipe):
        raise ConfigError(f"{pipe._sunlab.file} is plugged into this pipeline; call sunlab.unplug(pipe) first")
    _check_pipeline(pipe)
    layers = layers_of_network(network(pipe))
    if any(layer.extended for layer in layers.text_attention().values()):
        raise ConfigError(
            "an adapter of sunlab's is in this network already, plugged in through another pipeline that shares it; "
            "call sunlab.unplug on that one first (what from_pipe makes of a plugged pipeline is not plugged itself)"
        )
    stacked = None if over is None else {"name": over} if isinstance(over, str) else over
    strength = Strength(scale, lora_scale)
    header: Mapping[str, Any] = {}
    if file is None:
        if stacked is None:
            raise ConfigError("give the adapter's file, or over='nag' for an adapter without training")
        if compat:
            raise ConfigError("compat=True is for files of SUN's; omit it")
        adapter, scheduler = attach_untrained(stacked, layers), pipe.scheduler
        try:
            strength.check(adapter)
        except ConfigError:
            adapter.detach()
            raise
    else:
        read = fitted(read_adapter(file), layers)
        if compat:
            read = replace(read, header={**read.header, "adapter": _compatible(read.header["adapter"])})
        strength.check(adapter_of(read, over=stacked))
        scheduler = scheduler_for(read.header, pipe.scheduler, str(file))
        adapter, header = load_adapter(read, layers, over=stacked)
    hooks: tuple[Any, ...] = (receive_state(layers, running),)
    if isinstance(controlnet := getattr(pipe, "controlnet", None), nn.Module):
        hooks += (withhold_state(controlnet, layers.key),)
    place = str(adapter.spec["name"] if file is None else file)
    pipe._sunlab = Attachment(adapter, header, place, layers, pipe.scheduler, type(pipe), hooks, strength)
    pipe.scheduler = scheduler
    own: Any = type(pipe)
    pipe.__class__ = plugged_class(own)
    return pipe


def unplug(pipe: Any) -> Any:
    """Restore the pipeline to the bit: processors, scheduler, class. Returns it.

    Raises:
        ConfigError: no adapter is attached.
    """
    if not is_plugged(pipe):
        raise ConfigError("no adapter of sunlab's is plugged into this pipeline")
    attachment: Attachment = pipe._sunlab
    attachment.adapter.detach()
    for hook in attachment.hooks:
        hook.remove()
    pipe.__class__ = attachment.own
    pipe.scheduler = attachment.scheduler
    del pipe._sunlab
    return pipe


def _on_the_hub(file: str | Path | None, weight_name: str | None, revision: str | None) -> str:
    """The hub id with file and revision. Raises `ConfigError` for a path, which has neither."""
    place = hub.parse(str(file))
    if place is None or asset(str(file)).exists():
        raise ConfigError(f"weight_name and revision are for a hub id (owner/name), {str(file)!r} is none; omit them")
    return str(replace(place, file=weight_name or place.file, revision=revision or place.revision))


def _compatible(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The adapter's parameters with `compat`, in the adapter below it too. Raises `ConfigError` if there is none."""
    inner = spec.get("inner")
    if isinstance(inner, Mapping):
        return {**spec, "inner": _compatible(inner)}
    if "compat" not in spec:
        raise ConfigError(
            f"compat=True: the arithmetic of SUN's released code, which {spec['name']!r} does not use; omit it"
        )
    return {**spec, "compat": True}


def layers_of_network(network: Any) -> NetworkLayers:
    """The network as the family that knows its class attaches adapters to it; a U-Net if none does."""
    families = (BACKBONES.get(name).factory.adaptable(network) for name in BACKBONES.names())
    return next((layers for layers in families if layers is not None), UNetLayers(network))


def _check_pipeline(pipe: Any) -> None:
    layers = layers_of_network(network(pipe))
    properties = ("do_classifier_free_guidance", layers.key) if layers.handed else ()
    if any(hasattr(type(pipe), name) for name in OTHER_PASSES):
        raise ConfigError(
            f"{type(pipe).__name__} makes several passes of its own out of one, which an adapter cannot follow; plug into "
            "the plain pipeline instead, for instance StableDiffusionPipeline.from_pipe(pipe)"
        )
    missing = [name for name in properties if not isinstance(getattr(type(pipe), name, None), property)]
    missing += [name for name in ("encode_prompt", "scheduler") if not hasattr(pipe, name)]
    if missing or not hasattr(network(pipe), "attn_processors"):
        raise ConfigError(
            f"{type(pipe).__name__}: an adapter plugs into diffusers' pipelines of the families "
            f"{', '.join(BACKBONES.names())} (text-to-image, image-to-image, inpainting, ControlNet); this one has no "
            f"{', '.join(missing) or 'attention processors'}"
        )
