"""The value objects that stages hand to each other.

Symbols: B batch, C latent channels, H and W latent height and width, L text tokens, d text width, T times of a grid.
Times are floats in [0, 1], float64: t = 1 is noise, t = 0 is clean (see `sunlab.diffusion.path`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.transfer import sent

if TYPE_CHECKING:
    from sunlab.draws import Draws

PredictionType = Literal["epsilon", "v_prediction", "sample", "flow"]
SAME = 1e-9  # two times that are nearer than this are one


@dataclass(frozen=True)
class Conditioning:
    """Encoded prompts.

    Attributes:
        tokens: the text encoder's hidden states (B, L, d).
        pooled: the pooled embedding (B, p), for bases that take one (SDXL).
        added: further conditions by the network's names for them (SDXL's `time_ids`), each (B, ...).
        mask: (B, L) bool, False at padding that the network does not attend to; None: it attends to every token.
        words: (B, L) bool, False at padding that the network attends to like any token (CLIP's); None: there is none, or it
            is not known.
    """

    tokens: Tensor
    pooled: Tensor | None = None
    added: Mapping[str, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    words: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def map(self, function) -> Conditioning:  # noqa: ANN001
        pooled, mask, words = (None if each is None else function(each) for each in (self.pooled, self.mask, self.words))
        return Conditioning(function(self.tokens), pooled, {k: function(v) for k, v in self.added.items()}, mask, words)

    def __getitem__(self, index) -> Conditioning:  # noqa: ANN001
        return self.map(lambda tensor: tensor[index])

    @staticmethod
    def cat(parts: Sequence[Conditioning]) -> Conditioning:
        """Along the batch. All parts must have the same fields; `words` are dropped unless all have them."""

        def joined(rows: Sequence[Tensor | None]) -> Tensor | None:
            return None if rows[0] is None else torch.cat([row for row in rows if row is not None])

        return Conditioning(
            torch.cat([part.tokens for part in parts]),
            joined([part.pooled for part in parts]),
            {k: torch.cat([part.added[k] for part in parts]) for k in parts[0].added},
            joined([part.mask for part in parts]),
            None if any(part.words is None for part in parts) else joined([part.words for part in parts]),
        )


@dataclass(frozen=True)
class Trajectory:
    """States of guided teacher trajectories, as a trajectory dataset stores them.

    Attributes:
        states: (B, T, C, H, W), the first is the noise that the trajectory starts from.
        times: (T,), descending, float64.
        grid: the same times on the host; () reads them from `times`.
        guided: the guided teacher's prediction at each state but the last, as v (B, T - 1, C, H, W), or None: not stored.
    """

    states: Tensor
    times: Tensor
    grid: tuple[float, ...] = ()
    guided: Tensor | None = None

    def __post_init__(self) -> None:
        if not self.times.is_floating_point():
            raise TypeError(f"times are floats in [0, 1], got {self.times.dtype}; a whole step i of 1000 is (i + 1) / 1000")
        if not self.grid:
            object.__setattr__(self, "grid", tuple(self.times.tolist()))

    def require(self, times: Sequence[float]) -> None:
        """Raise `ConfigError` if a state is not stored at one of `times`."""
        missing = [t for t in times if not any(abs(t - stored) < SAME for stored in self.grid)]
        if missing:
            raise ConfigError(
                f"data.source: its trajectories have no state at t = {missing}, they were stored at {list(self.grid)}; set "
                "student.steps and student.shift (or the loss's segments) to its own, or make a trajectory dataset with "
                "this configuration"
            )

    def at(self, time: Tensor) -> Tensor:
        """The states at `time` (B,), (B, C, H, W). NaN at a time that is not stored: no device is waited for to find out, so
        call `require` with all times first."""
        return self._at(time, self.states)

    def guided_at(self, time: Tensor) -> Tensor | None:
        """The guided teacher's v at `time` (B,), (B, C, H, W), NaN as in `at`; None where none is stored."""
        return None if self.guided is None else self._at(time, self.guided)

    def map(self, function: Callable[[Tensor], Tensor]) -> Trajectory:
        """`function` of all that has a row for each sample."""
        guided = None if self.guided is None else function(self.guided)
        return replace(self, states=function(self.states), guided=guided)

    @staticmethod
    def cat(parts: Sequence[Trajectory]) -> Trajectory:
        """Along the batch; of the same times, and all with `guided` or none."""
        guided = [part.guided for part in parts if part.guided is not None]
        if len(guided) not in (0, len(parts)):
            raise TypeError("some trajectories have the guided predictions and others not")
        states = torch.cat([part.states for part in parts])
        return replace(parts[0], states=states, guided=torch.cat(guided) if guided else None)

    def _at(self, time: Tensor, stored: Tensor) -> Tensor:
        times = self.times[: stored.shape[1]].to(time.device)
        gap, index = (times[None, :] - time[:, None]).abs().min(dim=1)
        found = stored[torch.arange(len(time), device=time.device), index]
        return torch.where((gap < SAME).reshape(-1, *[1] * (found.dim() - 1)), found, torch.nan)


@dataclass(frozen=True)
class Samples:
    """A batch as the data hand it over, before any encoder.

    Attributes:
        keys: B sample keys, unique in an epoch.
        prompts, negatives: B prompts each.
        seeds: B seeds, functions of (seed, epoch, key), for all draws of this step.
        images: (B, 3, H, W) uint8, or None.
        crops: (B, 6) int64, original height and width, top and left of the crop, its height and width in pixels (the order
            of SDXL's `time_ids`), or None.
        latents: (B, C, h, w) scaled latents, or None.
        tokens, pooled: the prompts' embeddings (B, L, d) and (B, p), where they were computed ahead, or None. They are those
            of the captions: a prompt that was dropped ("") has its own.
        mask, words: of these tokens (B, L) bool, see `Conditioning`, or None.
        trajectory: stored teacher states, or None.
        guidance: the guidance scale w of each stored trajectory (B,), or None.
        bases: the number in `model.bases` of the network that each sample is for, all the same, or None: any.
    """

    keys: tuple[str, ...]
    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    seeds: tuple[int, ...]
    images: Tensor | None = None
    crops: Tensor | None = None
    latents: Tensor | None = None
    tokens: Tensor | None = None
    pooled: Tensor | None = None
    mask: Tensor | None = None
    words: Tensor | None = None
    trajectory: Trajectory | None = None
    guidance: Tensor | None = None
    bases: tuple[int, ...] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str) -> Samples:
        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else sent(tensor, device)

        path = self.trajectory
        return replace(
            self,
            images=move(self.images),
            crops=move(self.crops),
            latents=move(self.latents),
            tokens=move(self.tokens),
            pooled=move(self.pooled),
            mask=move(self.mask),
            words=move(self.words),
            guidance=move(self.guidance),
            trajectory=path and replace(path.map(lambda rows: sent(rows, device)), times=sent(path.times, device)),
        )


@dataclass(frozen=True)
class Batch:
    """A batch as the losses see it.

    Attributes:
        positive, negative: encoded prompts.
        guidance: guidance scale w of each sample (B,).
        draws: the batch's random numbers.
        shape: of a latent, (C, H, W) or for video (C, F, H, W).
        latents: clean scaled latents x_0 (B, *shape), or None where only prompts are known.
        trajectory: stored teacher states, or None.
    """

    positive: Conditioning
    negative: Conditioning
    guidance: Tensor
    draws: Draws
    shape: tuple[int, ...]
    latents: Tensor | None = None
    trajectory: Trajectory | None = None

    def __len__(self) -> int:
        return len(self.guidance)

    def required_latents(self, key: str, remedy: str) -> Tensor:
        """`latents`. Raises `ConfigError` if the data have none. Args: key, what needs them; remedy, another way."""
        if self.latents is None:
            raise ConfigError(
                f"{key} needs images or latents, and this data.source has none: give a source that has (shards, latents), "
                f"or {remedy}"
            )
        return self.latents
