"""`sunlab.plug(pipe, "adapter.safetensors")`: an adapter in a diffusers pipeline of somebody's own."""

from pathlib import Path
from typing import Any

from sunlab.errors import ConfigError
from sunlab.export import load_adapter, read_adapter
from sunlab.pipelines.plugged import Plug, Plugged, network, plugged_class
from sunlab.pipelines.schedulers import scheduler_for


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
    if isinstance(pipe, Plugged):
        raise ConfigError(f"{pipe._sunlab.file} is plugged into this pipeline; call sunlab.unplug(pipe) first")
    _check_pipeline(pipe)
    unet = network(pipe)
    scheduler = scheduler_for(read_adapter(file).header, pipe.scheduler, str(file))
    active = _active_loras(unet)
    adapter, header = load_adapter(file, unet)
    _activate_beside(unet, adapter, active)
    state = Plug(adapter, header, str(file), unet, pipe.scheduler)
    pipe.scheduler = scheduler
    pipe._sunlab = state
    pipe.__class__ = plugged_class(type(pipe))
    return pipe


def unplug(pipe: Any) -> Any:
    """Restore the pipeline to the bit: processors, scheduler, class. Returns it.

    Raises:
        ConfigError: nothing is plugged in, or its LoRA is fused into the weights.
    """
    if not isinstance(pipe, Plugged):
        raise ConfigError("no adapter of sunlab's is plugged into this pipeline")
    state: Plug = pipe._sunlab
    if state.fused():
        raise ConfigError("the adapter is a LoRA that has been fused into the weights; call pipe.unfuse_lora() first")
    state.adapter.detach()
    pipe.__class__ = type(pipe).__mro__[2]  # after ours, and `Plugged`
    pipe.scheduler = state.scheduler
    del pipe._sunlab
    return pipe


def _check_pipeline(pipe: Any) -> None:
    properties = ("do_classifier_free_guidance", "cross_attention_kwargs")
    missing = [name for name in properties if not isinstance(getattr(type(pipe), name, None), property)]
    missing += [name for name in ("encode_prompt", "unet", "scheduler") if not hasattr(pipe, name)]
    if missing or not hasattr(network(pipe), "attn_processors"):
        raise ConfigError(
            f"{type(pipe).__name__}: an adapter plugs into diffusers' Stable Diffusion pipelines with a U-Net (text-to-image, "
            f"image-to-image, inpainting, ControlNet); this one has no {', '.join(missing) or 'attention processors'}"
        )


def _active_loras(unet: Any) -> list[str]:
    return list(unet.active_adapters()) if getattr(unet, "peft_config", {}) else []


def _activate_beside(unet: Any, adapter: Any, active: list[str]) -> None:
    """peft's `add_adapter` leaves the new LoRA alone active: bring back those that were."""
    from peft.tuners.lora import LoraLayer

    if adapter.spec["name"] != "lora" or not active:
        return
    layers = [module for module in unet.modules() if isinstance(module, LoraLayer)]
    if any(layer.merged for layer in layers):
        adapter.detach()
        raise ConfigError(
            "a LoRA is fused into this pipeline's weights and still loaded, which would silence the adapter, itself a LoRA; "
            "call pipe.unload_lora_weights() first (what is fused stays fused)"
        )
    for layer in layers:
        layer.set_adapter([*active, "sunlab"], inference_mode=True)
