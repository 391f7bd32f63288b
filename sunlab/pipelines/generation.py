"""One call of a pipeline with an adapter. Its state travels with the call, never on the pipeline."""

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.pipelines.attachment import Attachment
from sunlab.pipelines.effects import scale_of, without_effect
from sunlab.types import Conditioning


@dataclass
class Generation:
    """A call of a pipeline.

    Attributes:
        pipe: the very pipeline, not a copy.
        attachment: the adapter in it.
        w: the guidance scale.
        positive, negative: the prompts, once they are encoded.
        state: of the passes, once the prompts are encoded.
        acted: whether the pipeline has handed it on.
    """

    pipe: Any
    attachment: Attachment
    w: float
    positive: Conditioning | None = None
    negative: Conditioning | None = None
    state: Any = None
    acted: bool = False

    def bind(self, positive: Conditioning, negative: Conditioning | None) -> None:
        """The prompts are encoded."""
        device = positive.tokens.device
        self.attachment.move(device)
        self.positive, self.negative = positive, negative
        guidance = torch.full((len(positive if negative is None else negative),), self.w, device=device)
        state = self.attachment.adapter.state(positive, negative, guidance)
        self.state = self.attachment.strength.on(state)

    def change_negative(self, tokens: Tensor) -> None:
        """Set other embeddings (B, L, d) of the negative prompts, which keep their mask.

        Raises:
            ConfigError: they do not fit the mask.
        """
        mask = None if self.negative is None else self.negative.mask
        if mask is not None and mask.shape != tokens.shape[:2]:
            raise ConfigError(
                f"negative_prompt_embeds of shape {tuple(tokens.shape)} do not fit their mask {tuple(mask.shape)}; a "
                "callback must keep the number of rows and tokens"
            )
        assert self.positive is not None, "prompts are encoded before a step"
        self.bind(self.positive, Conditioning(tokens, mask=mask))

    def check_acted(self) -> None:
        """Raise `ConfigError` if the U-Net never got the state."""
        if self.acted or self.state is None:
            return
        if getattr(self.pipe, "_num_timesteps", None) == 0:
            raise ConfigError("no step ran: the steps, strength and denoising range that were given leave none")
        raise ConfigError(
            f"{type(self.pipe).__name__} hands its network no {self.attachment.layers.key}, so the adapter had no effect; "
            "use one of diffusers' own pipelines"
        )


GENERATION: ContextVar[Generation | None] = ContextVar("generation", default=None)
"""The generation that runs in this thread."""


def running(network: Any) -> Any:
    """The state of the generation in this thread if it is one of this network."""
    generation = GENERATION.get()
    if generation is None or generation.attachment.layers.network is not network:
        return None
    generation.acted = True
    return generation.state


def begin(pipe: Any, attachment: Attachment, given: dict[str, Any]) -> Generation:
    """A generation of `pipe` with the arguments that its caller gave; a callback in them is wrapped."""
    steps = given.get("num_inference_steps")
    if isinstance(steps, int) and steps < 1:
        raise ConfigError(f"num_inference_steps={steps}: no step would run; give at least 1")
    w = given.get("guidance_scale")
    negative = any(given.get(f"negative_prompt{end}") is not None for end in ("", "_2", "_3", "_embeds"))
    prompt = "negative_prompt" if negative else None
    for sentence in without_effect(attachment.adapter, attachment.header, scale="guidance_scale", w=w, negative=prompt):
        warnings.warn(sentence, stacklevel=3)
    if given.get("guidance_rescale"):
        warnings.warn("guidance_rescale has no effect: there is no second pass to rescale to", stacklevel=3)
    if given.get("skip_guidance_layers"):
        warnings.warn("skip_guidance_layers has no effect: there is no guidance whose layers could be skipped", stacklevel=3)
    generation = Generation(pipe, attachment, scale_of(attachment.adapter, attachment.header, w))
    if (callback := given.get("callback_on_step_end")) is not None:
        if (inputs := getattr(callback, "tensor_inputs", None)) is not None:  # diffusers' PipelineCallback
            given["callback_on_step_end_tensor_inputs"] = inputs
        given["callback_on_step_end"] = _with_negative(callback, generation)
    if (callback := given.get("callback")) is not None:
        given["callback"] = _outside(callback)
    return generation


def _outside(callback: Callable[..., Any]) -> Callable[..., Any]:
    """The callback, in which passes of the network are no part of the generation."""

    def on_step(*args: Any) -> None:
        token = GENERATION.set(None)
        try:
            callback(*args)
        finally:
            GENERATION.reset(token)

    return on_step


def _with_negative(callback: Callable[..., Any], generation: Generation) -> Callable[..., Any]:
    """The callback, which reads and sets `negative_prompt_embeds` of the generation; the pipeline itself has none."""
    key = "negative_prompt_embeds"

    def on_step_end(pipe: Any, step: int, t: Any, tensors: dict[str, Any]) -> Any:
        if key in tensors:
            tensors[key] = None if generation.negative is None else generation.negative.tokens
        out = callback(pipe, step, t, tensors)
        changed = out.get(key) if out else None
        if changed is not None and (generation.negative is None or changed is not generation.negative.tokens):
            generation.change_negative(changed)
        return out

    return on_step_end


_drawing: set[int] = set()
_lock = threading.Lock()


@contextmanager
def only_one(pipe: Any, scheduler: Any) -> Iterator[None]:
    """Raise `ConfigError` while the pipeline or its scheduler, both of which hold state, is drawing."""
    taken = {id(pipe), id(scheduler)}
    with _lock:
        if taken & _drawing:
            raise ConfigError(
                "this pipeline, or a copy that shares its scheduler, is drawing in another thread or callback; give each "
                "its own: mine = copy.copy(pipe); mine.scheduler = copy.deepcopy(pipe.scheduler)"
            )
        _drawing.update(taken)
    try:
        yield
    finally:
        with _lock:
            _drawing.difference_update(taken)
