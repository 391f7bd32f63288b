"""What a diffusers pipeline does differently while an adapter is plugged in."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from sunlab.adapters import Adapter
from sunlab.adapters.processors import below
from sunlab.backbones.sd.attention import STATE
from sunlab.errors import ConfigError
from sunlab.pipelines.heeded import scale_of, unheeded
from sunlab.pipelines.schedulers import check_scheduler
from sunlab.types import Conditioning


@dataclass
class Plug:
    """An adapter in a pipeline.

    Attributes:
        header, file: of the adapter.
        unet: that the adapter is in.
        scheduler, own: the pipeline's own scheduler and class, set aside.
        with_lora: the adapter is, or has, a LoRA in the U-Net's layers.
        w: the guidance scale of the generation that is going on, None between generations.
        state: the adapter's, of every U-Net pass of this generation.
        handed: whether the pipeline has read it since, to pass it on.
        aside: the adapter is out of the U-Net for a moment.
    """

    adapter: Adapter
    header: Mapping[str, Any]
    file: str
    unet: Any
    scheduler: Any
    own: type
    with_lora: bool = False
    w: float | None = None
    state: Any = None
    handed: bool = False
    aside: bool = False

    def fused(self) -> bool:
        return any("sunlab" in (getattr(m, "merged_adapters", None) or ()) for m in self.unet.modules())

    def check(self, pipe: Any) -> None:
        """Raise `ConfigError` where something that was changed since plugging would draw wrongly."""
        if network(pipe) is not self.unet:
            raise ConfigError("pipe.unet was replaced since plugging; call sunlab.unplug(pipe) first, then plug again")
        check_scheduler(pipe.scheduler, self.header, self.scheduler)
        if self.with_lora and not self.fused():
            self._check_lora()
        ours = [type(p).__module__.startswith("sunlab.") for p in self.unet.attn_processors.values()]
        if self.adapter.spec["name"] != "lora" and not all(ours):
            raise ConfigError(
                "the U-Net's attention processors were replaced since plugging; call sunlab.unplug(pipe), and plug again"
            )

    def _check_lora(self) -> None:
        if "sunlab" not in getattr(self.unet, "peft_config", {}):
            raise ConfigError(
                "the adapter's LoRA was taken out since plugging, as pipe.unload_lora_weights() does with all; call "
                "sunlab.unplug(pipe), and plug again (had it been fused before, load the pipeline anew)"
            )
        if any(getattr(m, "disable_adapters", False) is True for m in self.unet.modules()):
            raise ConfigError(
                "the adapter's LoRA was switched off since plugging, as pipe.disable_lora() does with all; call "
                "pipe.enable_lora(), and switch others off by pipe.set_adapters(['sunlab'])"
            )
        if "sunlab" not in (active := self.unet.active_adapters()):
            names = [*active, "sunlab"]
            raise ConfigError(f"the adapter's LoRA was switched off since plugging; call pipe.set_adapters({names})")

    def begin(self, given: Mapping[str, Any]) -> None:
        """A generation starts; `given` are the arguments that the caller stated."""
        w = given.get("guidance_scale")
        negative = any(given.get(f"negative_prompt{end}") is not None for end in ("", "_2", "_embeds"))
        prompt = "negative_prompt" if negative else None
        for sentence in unheeded(self.adapter, self.header, scale="guidance_scale", w=w, negative=prompt):
            warnings.warn(sentence, stacklevel=3)
        if given.get("guidance_rescale"):
            warnings.warn("guidance_rescale has no effect: there is no second pass to rescale to", stacklevel=3)
        self.w = scale_of(self.adapter, self.header, w)

    def bind(self, positive: Tensor, negative: Tensor) -> None:
        """The prompts are encoded: positive and negative (B, L, d)."""
        assert self.w is not None
        for part in (self.adapter, *(part for p in self.unet.attn_processors.values() for part in below(p))):
            if isinstance(part, nn.Module):
                part.to(positive.device, self.unet.dtype)  # they are no submodules of the U-Net, which may have moved
        guidance = torch.full((len(positive),), self.w, device=positive.device)
        self.adapter.switch(True)
        self.handed = False
        self.state = self.adapter.state(Conditioning(positive), Conditioning(negative), guidance)

    def end(self) -> None:
        self.w, self.state = None, None


class Plugged:
    """Mixed in before the pipeline's own class."""

    _sunlab: Plug
    scheduler: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own: Any = super()
        state = self._sunlab
        state.check(self)
        bound = inspect.signature(own.__call__).bind(*args, **kwargs)
        if not bound.arguments.keys() & {"num_inference_steps", "timesteps", "sigmas"} and "steps" in state.header:
            bound.arguments["num_inference_steps"] = state.header["steps"]
        state.begin(bound.arguments)
        try:
            drawn = own.__call__(*bound.args, **bound.kwargs)
            if state.state is not None and not state.handed:
                raise ConfigError(
                    f"{type(self).__name__} hands its U-Net no cross_attention_kwargs, so the adapter had no part"
                )
            return drawn
        finally:
            state.end()

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline as it was found: neither the adapter is written nor its scheduler."""
        own: Any = super()
        state = self._sunlab
        if state.with_lora:
            raise ConfigError("the adapter's LoRA would be saved with the U-Net; call sunlab.unplug(pipe) first")
        ours, self.scheduler = self.scheduler, state.scheduler
        try:
            return own.save_pretrained(*args, **kwargs)
        finally:
            self.scheduler = ours

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """As the pipeline has it; within a generation the negative embeddings go to the adapter, not into a second pass."""
        own: Any = super()
        if self._sunlab.w is None:
            return own.encode_prompt(*args, **kwargs)
        bound = inspect.signature(own.encode_prompt).bind(*args, **kwargs)
        bound.apply_defaults()
        given = bound.arguments
        given["do_classifier_free_guidance"] = True
        prompt = given["prompt"]
        many = isinstance(prompt, list) or (prompt is None and len(given["prompt_embeds"]) > 1)
        for key in ("negative_prompt", "negative_prompt_2"):
            if many and isinstance(given.get(key), str):  # one for all
                given[key] = [given[key]] * (len(prompt) if prompt is not None else len(given["prompt_embeds"]))
        positive, negative, *pooled = own.encode_prompt(*bound.args, **bound.kwargs)
        self._sunlab.bind(positive, negative)
        return (positive, None, *((pooled[0], None) if pooled else ()))

    def prepare_ip_adapter_image_embeds(self, *args: Any, **kwargs: Any) -> Any:
        """As the pipeline has it; within a generation, an even number of rows were made for guidance, and their negative
        half, which is for a second pass, is left out."""
        own: Any = super()
        bound = inspect.signature(own.prepare_ip_adapter_image_embeds).bind(*args, **kwargs)
        given = bound.arguments
        if self._sunlab.w is not None and (embeds := given.get("ip_adapter_image_embeds")) is not None:
            given["ip_adapter_image_embeds"] = [each if len(each) % 2 else each.chunk(2)[1] for each in embeds]
        return own.prepare_ip_adapter_image_embeds(*bound.args, **bound.kwargs)

    @property
    def do_classifier_free_guidance(self) -> bool:
        return False  # one pass a step

    @property
    def cross_attention_kwargs(self) -> Any:
        given = super().cross_attention_kwargs  # type: ignore[misc]
        state = self._sunlab.state
        self._sunlab.handed = True
        return given if state is None else {**(given or {}), STATE: state}

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """The adapter taken out while diffusers puts other processors in, then composed with those."""
        state = self._sunlab
        if state.aside or state.adapter.spec["name"] == "lora":  # diffusers' methods call each other; LoRA is no processor
            yield
            return
        if state.with_lora:  # which detaching would lose
            raise ConfigError("not with this adapter plugged in; call sunlab.unplug(pipe) first, and plug it in again after")
        state.adapter.detach()
        state.aside = True
        try:
            yield
        finally:
            state.aside = False
            state.adapter.attach(state.unet)


def _beside(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        with self._aside():
            return getattr(super(Plugged, self), name)(*args, **kwargs)

    return method


for _name in (
    "load_ip_adapter", "unload_ip_adapter", "set_ip_adapter_scale", "enable_attention_slicing", "disable_attention_slicing",
    "enable_xformers_memory_efficient_attention", "disable_xformers_memory_efficient_attention", "fuse_qkv_projections",
    "unfuse_qkv_projections",
):  # fmt: skip
    setattr(Plugged, _name, _beside(_name))


def is_plugged(pipe: Any) -> bool:
    return isinstance(pipe, Plugged)


@cache
def plugged_class(own: type) -> type:
    """The pipeline's class with `Plugged` before it, under the same name, so that saving and `from_pipe` know it."""
    return type(own.__name__, (Plugged, own), {"__module__": own.__module__, "__qualname__": own.__qualname__})


def network(pipe: Any) -> Any:
    """The pipeline's U-Net, out of the wrap of `torch.compile`."""
    return getattr(pipe.unet, "_orig_mod", pipe.unet)
