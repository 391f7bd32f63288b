"""`sunlab.plug(pipe, "adapter.safetensors")`: an adapter in a diffusers pipeline of somebody's own."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sunlab.adapters.processors import Processor
from sunlab.errors import ConfigError
from sunlab.export import load_adapter, read_adapter
from sunlab.export.load import fitted
from sunlab.pipelines.plugged import Plug, is_plugged, network, plugged_class
from sunlab.pipelines.schedulers import scheduler_for

OTHER_PASSES = ("do_perturbed_attention_guidance", "get_views")
"""What tells the pipelines that build batches of their own for the U-Net: perturbed attention, panoramas."""


def plug(pipe: Any, file: str | Path) -> Any:
    """Plug an adapter file into a diffusers pipeline of a Stable Diffusion family, and return the pipeline.

    Sets the scheduler, its trailing spacing, the default number of steps and one U-Net pass a step from the file's header.
    The pipeline's own `negative_prompt` then acts in that one pass. Text-to-image, image-to-image, inpainting and
    ControlNet; style LoRAs may be loaded, fused or not, before or after; an IP-Adapter likewise.

    Args:
        pipe: for instance a StableDiffusionPipeline, changed in place until `unplug(pipe)`.
        file: in our layout or the authors'.

    Raises:
        ConfigError: something is plugged in already, a pipeline that is not of this family, or processors of another
            adapter that this one cannot be composed with.
        DataError: a damaged file, or an adapter of another base; the pipeline is left as it was.
    """
    if is_plugged(pipe):
        raise ConfigError(f"{pipe._sunlab.file} is plugged into this pipeline; call sunlab.unplug(pipe) first")
    _check_pipeline(pipe)
    unet = network(pipe)
    if _is_taken(unet):
        raise ConfigError(
            "an adapter of sunlab's is in this U-Net already, plugged in through another pipeline that shares it; "
            "call sunlab.unplug on that one first (what from_pipe makes of a plugged pipeline is not plugged itself)"
        )
    read = fitted(read_adapter(file), unet)
    scheduler = scheduler_for(read.header, pipe.scheduler, str(file))
    active = _others(unet, read.header["adapter"])
    adapter, header = load_adapter(read, unet)
    for layer in _lora_layers(unet) if active else ():
        layer.set_adapter([*active, "sunlab"], inference_mode=True)
    pipe._sunlab = Plug(adapter, header, str(file), unet, pipe.scheduler, type(pipe), with_lora=_has_lora(unet))
    pipe.scheduler = scheduler
    own: Any = type(pipe)
    pipe.__class__ = plugged_class(own)
    return pipe


def unplug(pipe: Any) -> Any:
    """Restore the pipeline to the bit: processors, scheduler, class. Returns it.

    Raises:
        ConfigError: nothing is plugged in, or its LoRA is fused into the weights.
    """
    if not is_plugged(pipe):
        raise ConfigError("no adapter of sunlab's is plugged into this pipeline")
    state: Plug = pipe._sunlab
    if state.fused():
        raise ConfigError("the adapter's LoRA has been fused into the weights; call pipe.unfuse_lora() first")
    state.adapter.detach()
    pipe.__class__ = state.own
    pipe.scheduler = state.scheduler
    del pipe._sunlab
    return pipe


def _check_pipeline(pipe: Any) -> None:
    properties = ("do_classifier_free_guidance", "cross_attention_kwargs")
    if any(hasattr(type(pipe), name) for name in OTHER_PASSES):
        raise ConfigError(
            f"{type(pipe).__name__} makes several passes of its own out of one, which an adapter cannot follow; plug into "
            "the plain pipeline instead, for instance StableDiffusionPipeline.from_pipe(pipe)"
        )
    missing = [name for name in properties if not isinstance(getattr(type(pipe), name, None), property)]
    missing += [name for name in ("encode_prompt", "unet", "scheduler") if not hasattr(pipe, name)]
    if missing or not hasattr(network(pipe), "attn_processors"):
        raise ConfigError(
            f"{type(pipe).__name__}: an adapter plugs into diffusers' Stable Diffusion pipelines with a U-Net "
            "(text-to-image, image-to-image, inpainting, ControlNet); this one has no "
            f"{', '.join(missing) or 'attention processors'}"
        )


def _is_taken(unet: Any) -> bool:
    return _has_lora(unet) or any(isinstance(processor, Processor) for processor in unet.attn_processors.values())


def _has_lora(unet: Any) -> bool:
    return "sunlab" in getattr(unet, "peft_config", {})


def _others(unet: Any, spec: Mapping[str, Any]) -> list[str]:
    """The LoRAs that are active, where the adapter has one itself: peft's `add_adapter` leaves the new one alone active, so
    they are to be brought back. Raises `ConfigError` where one is fused."""
    if not any("rank" in part for part in (spec, spec.get("inner") or {})) or not getattr(unet, "peft_config", {}):
        return []
    if any(layer.merged for layer in _lora_layers(unet)):
        raise ConfigError(
            "a LoRA is fused into this pipeline's weights and still loaded, which does not go with an adapter that has a "
            "LoRA of its own; call pipe.unload_lora_weights() first (what is fused stays fused)"
        )
    return list(unet.active_adapters())


def _lora_layers(unet: Any) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for module in unet.modules() if isinstance(module, LoraLayer)]
