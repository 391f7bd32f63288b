"""The same prompts, negative prompts and seeds through several samplers, and how near each comes to the first."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from sunlab.pipelines.base import BaseModel
from sunlab.pipelines.draw import Bind, Drawn, Request, draw
from sunlab.solvers import Sampling


@dataclass(frozen=True)
class Variant:
    """One way to draw.

    Attributes:
        name: of its row.
        sampling, bind, w: see `draw`.
    """

    name: str
    sampling: Sampling
    bind: Bind
    w: float


@dataclass(frozen=True)
class Row:
    """A variant beside the first one.

    Attributes:
        passes: U-Net passes a picture.
        seconds: a picture, in this run.
        speedup: of the first variant's seconds over these.
        distance: root mean squared difference of paired pictures in [0, 1], mean over pictures; its standard error.
    """

    name: str
    passes: float
    seconds: float
    speedup: float
    distance: float
    error: float
    images: Tensor


def draw_all(base: BaseModel, variants: Sequence[Variant], request: Request, *, batch: int = 64) -> list[Drawn]:
    """The request drawn with every variant."""
    base.encode([*request.prompts, *request.negatives])  # remembered: the text encoder is left out of all timings alike
    return [draw(base, v.sampling, v.bind, request, w=v.w, batch=batch) for v in variants]


def rows_of(variants: Sequence[Variant], drawn: Sequence[Drawn]) -> list[Row]:
    """Each variant measured against the first."""
    return [_row(v.name, d, drawn[0]) for v, d in zip(variants, drawn, strict=True)]


def _row(name: str, drawn: Drawn, reference: Drawn) -> Row:
    distances = paired_rmse(drawn.images, reference.images)
    return Row(
        name,
        drawn.passes,
        drawn.seconds,
        reference.seconds / drawn.seconds,
        float(distances.mean()),
        float(distances.std() / len(distances) ** 0.5) if len(distances) > 1 else float("nan"),
        drawn.images,
    )


def paired_rmse(a: Tensor, b: Tensor) -> Tensor:
    """Root mean squared difference of each pair (B,) of pictures (B, 3, H, W)."""
    return (a - b).square().flatten(1).mean(1).sqrt()
