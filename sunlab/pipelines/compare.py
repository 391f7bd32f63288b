"""The same prompts, negative prompts and seeds through several samplers."""

from collections.abc import Sequence
from dataclasses import dataclass

from sunlab.backbones.base import BaseModel
from sunlab.pipelines.draw import Bind, Drawn, Request, draw
from sunlab.solvers import Sampler


@dataclass(frozen=True)
class Variant:
    """One way to draw.

    Attributes:
        name: of its row.
        sampling, bind, w: see `draw`.
    """

    name: str
    sampling: Sampler
    bind: Bind
    w: float


def draw_all(base: BaseModel, variants: Sequence[Variant], request: Request, *, batch: int = 64) -> list[Drawn]:
    """The request drawn with every variant."""
    base.encode(request.prompts)  # remembered: the text encoder is left out of all timings alike
    base.encode(request.negatives, negative=True)
    return [draw(base, v.sampling, v.bind, request, w=v.w, batch=batch) for v in variants]
