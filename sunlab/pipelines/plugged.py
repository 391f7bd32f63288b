"""What a diffusers pipeline does differently while an adapter is attached to it."""

import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from typing import Any

import torch

from sunlab.adapters.state import PassState
from sunlab.backbones.state import STATE, carry
from sunlab.diffusion.grid import grid_times
from sunlab.errors import ConfigError
from sunlab.pipelines.attachment import Attachment
from sunlab.pipelines.generation import GENERATION, Generation, begin, only_one
from sunlab.pipelines.schedulers import flow_matching, timesteps_of


class Plugged:
    """Mixed in before the pipeline's own class."""

    _sunlab: Attachment
    scheduler: Any

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        own: Any = super()
        attachment = self._sunlab
        attachment.check(self)
        bound = inspect.signature(own.__call__).bind(*args, **kwargs)
        given = bound.arguments
        if not given.keys() & {"num_inference_steps", "timesteps", "sigmas"} and "steps" in attachment.header:
            given["num_inference_steps"] = attachment.header["steps"]
        parameters = inspect.signature(own.__call__).parameters
        flow = "solver" in attachment.header and flow_matching(self.scheduler)
        shift = attachment.header.get("shift", 1.0)
        key = "sigmas" if flow else "timesteps"
        if shift != 1 and key not in parameters:
            raise ConfigError(
                f"{attachment.file} was trained at times shifted by {shift:g}, and {type(self).__name__} takes no {key}; "
                "draw with `sunlab sample` instead"
            )
        if (flow or shift != 1) and key in parameters and not given.keys() & {"timesteps", "sigmas"}:
            steps = given.get("num_inference_steps", parameters["num_inference_steps"].default)
            # as sigmas without the base's own shift, which the scheduler applies
            times = grid_times(steps, shift=shift)[:-1] if flow else timesteps_of(attachment.header, self.scheduler, steps)
            given[key] = list(times)
        if "joint_attention_kwargs" in parameters:  # a mapping of this call, which an IP-Adapter's images are added to
            given["joint_attention_kwargs"] = dict(given.get("joint_attention_kwargs") or {})
        with only_one(self, self.scheduler):
            generation = begin(self, attachment, given)
            if not hasattr(attachment.own, "do_classifier_free_guidance"):  # one pass a step: PixArt's compare the scale
                given["guidance_scale"] = 1.0
            token = GENERATION.set(generation)
            try:
                drawn = own.__call__(*bound.args, **bound.kwargs)
            finally:
                GENERATION.reset(token)
                carry(None)
        generation.check_acted()
        return drawn

    def save_pretrained(self, *args: Any, **kwargs: Any) -> Any:
        """The pipeline as it was found: neither the adapter is written nor its scheduler."""
        own: Any = super()
        ours, self.scheduler = self.scheduler, self._sunlab.scheduler
        try:
            return own.save_pretrained(*args, **kwargs)
        finally:
            self.scheduler = ours

    def encode_prompt(self, *args: Any, **kwargs: Any) -> Any:
        """As the pipeline has it. The first call of a generation, which is the pipeline's own, also encodes the negative
        prompt, for the adapter."""
        own: Any = super()
        generation = self._generation()
        if generation is None or generation.state is not None:
            return _encode(own, *args, **kwargs)
        bound = inspect.signature(own.encode_prompt).bind(*args, **kwargs)
        bound.apply_defaults()
        given, layers = bound.arguments, generation.attachment.layers
        if not generation.attachment.adapter.uses_negative:
            given["do_classifier_free_guidance"] = False
            positive, _, without = layers.encoded(_encode(own, *bound.args, **bound.kwargs))
            generation.bind(positive, None)
            return without
        self._check_negative(given)
        given["do_classifier_free_guidance"] = True
        prompt = given["prompt"]
        many = isinstance(prompt, list) or (prompt is None and len(given["prompt_embeds"]) > 1)
        for key in ("negative_prompt", "negative_prompt_2", "negative_prompt_3"):
            if many and isinstance(given.get(key), str):  # one for all
                given[key] = [given[key]] * (len(prompt) if prompt is not None else len(given["prompt_embeds"]))
        positive, negative, without = layers.encoded(_encode(own, *bound.args, **bound.kwargs))
        assert negative is not None
        if negative.mask is None:
            negative = replace(negative, words=self._words("negative_prompt", given, negative.tokens))
            positive = replace(positive, words=self._words("prompt", given, positive.tokens))
        generation.bind(positive, negative)
        return without

    def _words(self, key: str, given: dict[str, Any], tokens: torch.Tensor) -> torch.Tensor | None:
        """Which tokens of the prompts under `key` are no padding (rows, L); None where they are given as embeddings."""
        tokenizers = [getattr(self, name, None) for name in ("tokenizer", "tokenizer_2")]
        clip = next((tokenizer for tokenizer in tokenizers if tokenizer is not None), None)
        if given.get(f"{key}_embeds") is not None or clip is None:
            return None
        several = hasattr(self, "tokenizer_2")
        found = self._unpadded(clip, given.get(key), None if several else tokens.shape[1])
        if rest := tokens.shape[1] - found.shape[1]:  # Stable Diffusion 3's T5, or zeros without it
            t5 = getattr(self, "tokenizer_3", None) if getattr(self, "text_encoder_3", None) is not None else None
            more = found.new_zeros(len(found), rest)
            if t5 is not None:
                more = self._unpadded(t5, given.get(f"{key}_3") or given.get(key), rest)
            found = torch.cat([found, more], dim=1)
        return found.repeat_interleave(len(tokens) // len(found), 0).to(tokens.device)

    def _unpadded(self, tokenizer: Any, texts: str | list[str] | None, length: int | None = None) -> torch.Tensor:
        """Of one tokenizer (B, L), padded to `length`, by default the tokenizer's own."""
        texts = [texts or ""] if not isinstance(texts, list) else texts
        if hasattr(self, "maybe_convert_prompt"):  # textual inversion
            texts = [self.maybe_convert_prompt(text, tokenizer) for text in texts]
        rows = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
        return rows.attention_mask.bool()

    def _check_negative(self, given: dict[str, Any]) -> None:
        """Raise `ConfigError` where the negative prompt would need an encoder that the pipeline was loaded without."""
        if given.get("negative_prompt_embeds") is not None:
            return
        pairs = (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2"))
        if any(getattr(self, model, None) is not None and getattr(self, words, None) is not None for model, words in pairs):
            return
        zeros = getattr(self.config, "force_zeros_for_empty_prompt", False)  # type: ignore[attr-defined]
        if zeros and given.get("negative_prompt") is None:
            return
        raise ConfigError(
            "negative_prompt_embeds is missing: the adapter needs a negative prompt, at least the empty one, and this pipe "
            'has no text encoder; encode it in one that has, pipe.encode_prompt("", device, 1, False)[0], and pass it '
            "beside prompt_embeds"
        )

    def prepare_ip_adapter_image_embeds(self, *args: Any, **kwargs: Any) -> Any:
        """As the pipeline has it; within a generation, an even number of rows were made for guidance, and their negative
        half, which is for a second pass, is left out."""
        own: Any = super()
        bound = inspect.signature(own.prepare_ip_adapter_image_embeds).bind(*args, **kwargs)
        given = bound.arguments
        if self._generation() is not None and (embeds := given.get("ip_adapter_image_embeds")) is not None:
            given["ip_adapter_image_embeds"] = [each if len(each) % 2 else each.chunk(2)[1] for each in embeds]
        return own.prepare_ip_adapter_image_embeds(*bound.args, **bound.kwargs)

    @property
    def do_classifier_free_guidance(self) -> bool:
        return False  # one pass a step

    @property
    def cross_attention_kwargs(self) -> Any:
        """The caller's, and in a generation the state of its passes, which the U-Net's hook takes out again."""
        return self._with_state(super().cross_attention_kwargs)  # type: ignore[misc]

    @property
    def joint_attention_kwargs(self) -> Any:
        """Likewise, of pipelines with joint attention."""
        return self._with_state(super().joint_attention_kwargs)  # type: ignore[misc]

    @property
    def attention_kwargs(self) -> Any:
        """Likewise, of SANA's pipelines."""
        return self._with_state(super().attention_kwargs)  # type: ignore[misc]

    def _with_state(self, given: Any) -> Any:
        generation = self._generation()
        if generation is None or generation.state is None:
            return given
        generation.acted = True
        state, scale = generation.state, (given or {}).get("scale")
        if scale is not None and isinstance(state, PassState):  # as diffusers scales all LoRAs
            state = state.scaled(lora=scale)
        return {**(given or {}), STATE: state}

    def _generation(self) -> Generation | None:
        """The generation of this very pipeline that runs in this thread."""
        generation = GENERATION.get()
        return generation if generation is not None and generation.pipe is self else None

    @contextmanager
    def _detached(self) -> Iterator[None]:
        """The adapter detached while diffusers puts other processors in, then composed with those."""
        attachment = self._sunlab
        if attachment.aside:  # diffusers' methods call each other
            yield
            return
        attachment.adapter.detach()
        attachment.aside = True
        try:
            yield
        finally:
            attachment.aside = False
            attachment.adapter.attach(attachment.layers)


_encoding = threading.RLock()


def _encode(own: Any, *args: Any, **kwargs: Any) -> Any:
    """The pipeline's own encoded prompts. One thread at a time: copies of a pipeline share a tokenizer, which keeps the
    length to pad to, and SANA's prompts and negative prompts differ in it."""
    with _encoding:
        return own.encode_prompt(*args, **kwargs)


def _with_adapter_detached(name: str) -> Any:
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        if name == "fuse_qkv_projections" and self._sunlab.adapter.changes_weights:
            raise ConfigError("fused projections bypass the layers of this adapter's LoRA; call sunlab.unplug(pipe) first")
        with self._detached():
            return getattr(super(Plugged, self), name)(*args, **kwargs)

    return method


for _name in (
    "load_ip_adapter", "unload_ip_adapter", "set_ip_adapter_scale", "enable_attention_slicing", "disable_attention_slicing",
    "enable_xformers_memory_efficient_attention", "disable_xformers_memory_efficient_attention", "fuse_qkv_projections",
    "unfuse_qkv_projections",
):  # fmt: skip
    setattr(Plugged, _name, _with_adapter_detached(_name))


def is_plugged(pipe: Any) -> bool:
    return isinstance(pipe, Plugged)


@cache
def plugged_class(own: Any) -> type:
    """The pipeline's class with `Plugged` before it, under the same name, so that saving and `from_pipe` know it."""
    space: dict[str, Any] = {"__module__": own.__module__, "__qualname__": own.__qualname__}
    for name in ("from_pipe", "from_pretrained", "from_single_file"):  # they make pipelines without an adapter
        if hasattr(own, name):
            space[name] = staticmethod(getattr(own, name))
    if hasattr(own, "get_timesteps"):
        space["get_timesteps"] = _get_timesteps(own.get_timesteps)
    return type(own.__name__, (Plugged, own), space)


def _get_timesteps(own: Callable[..., Any]) -> Callable[..., Any]:
    def get_timesteps(self: Any, num_inference_steps: int, strength: float, *args: Any, **kwargs: Any) -> Any:
        timesteps, left = own(self, num_inference_steps, strength, *args, **kwargs)
        if len(timesteps) == 0:
            raise ConfigError(
                f"no step would run: {num_inference_steps} steps at strength={strength:g} leave none; raise strength to at "
                f"least {1 / num_inference_steps:g}, or num_inference_steps"
            )
        return timesteps, left

    return get_timesteps
