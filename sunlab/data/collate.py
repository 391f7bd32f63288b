"""`Sample`s -> `Samples`, and batches joined or cut along B."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from torch import Tensor

from sunlab.data.negatives import Drawn
from sunlab.data.sample import Sample
from sunlab.errors import DataError
from sunlab.types import Samples, Trajectory


def collate(samples: Sequence[Sample], drawn: Sequence[Drawn]) -> Samples:
    """A batch of B samples with what was drawn for each.

    Raises:
        DataError: where some samples have an image, latent or trajectory and others not, or their shapes differ.
    """
    trajectories = [sample.trajectory for sample in samples]
    _same(
        samples,
        "trajectory",
        [path and (tuple(path.states.shape), tuple(path.times.tolist()), path.guided is None) for path in trajectories],
    )
    crops = [sample.crop for sample in samples]
    _same(samples, "crop", [crop is not None for crop in crops])
    _same(samples, "guidance", [sample.guidance is not None for sample in samples])
    _same(samples, "base", [sample.base for sample in samples])
    first, bases = trajectories[0], tuple(sample.base for sample in samples if sample.base is not None)
    return Samples(
        keys=tuple(sample.key for sample in samples),
        prompts=tuple(one.prompt for one in drawn),
        negatives=tuple(one.negative for one in drawn),
        seeds=tuple(one.seed for one in drawn),
        images=_stack(samples, "image"),
        crops=None if crops[0] is None else torch.tensor(crops),
        latents=_stack(samples, "latent"),
        tokens=_stack(samples, "tokens"),
        pooled=_stack(samples, "pooled"),
        mask=_stack(samples, "mask"),
        words=_stack(samples, "words"),
        trajectory=first and Trajectory.cat([path for path in trajectories if path]),
        guidance=None if samples[0].guidance is None else torch.tensor([sample.guidance for sample in samples]),
        bases=bases or None,
    )


def join(parts: Sequence[Samples]) -> Samples:
    """Batches one after the other. Raises `DataError` where their shapes or fields differ."""
    if len(parts) == 1:
        return parts[0]
    try:
        return Samples(**{field.name: _cat([getattr(part, field.name) for part in parts]) for field in fields(Samples)})
    except (RuntimeError, TypeError) as error:
        raise DataError(f"samples {parts[0].keys[0]!r} and {parts[-1].keys[0]!r} differ in shape: {error}") from None


def cut(batch: Samples, start: int, stop: int) -> Samples:
    """The samples of `batch` from `start` to `stop` - 1, not copied."""
    rows = slice(start, stop)
    return Samples(**{field.name: _cut(getattr(batch, field.name), rows) for field in fields(Samples)})


def _stack(samples: Sequence[Sample], name: str) -> Tensor | None:
    tensors = [getattr(sample, name) for sample in samples]
    _same(samples, name, [None if tensor is None else tuple(tensor.shape) for tensor in tensors])
    return None if tensors[0] is None else torch.stack(tensors, out=_empty(len(tensors), tensors[0]))


def _same(samples: Sequence[Sample], name: str, shapes: Sequence[object]) -> None:
    for sample, shape in zip(samples, shapes, strict=True):
        if shape != shapes[0]:
            raise DataError(
                f"samples {samples[0].key!r} and {sample.key!r} of one batch differ in {name}: {shapes[0]} and {shape}; "
                "all samples of a source need one size (`sunlab doctor data` lists the sizes)"
            )


def _cat(values: Sequence):  # noqa: ANN202 -- of the fields' own types
    if isinstance(values[0], Tensor):
        return torch.cat(list(values), out=_empty(sum(map(len, values)), values[0][0]))
    if isinstance(values[0], Trajectory):
        return Trajectory.cat(values)
    return None if values[0] is None else sum(values, ())


def _empty(count: int, like: Tensor) -> Tensor:
    """Room for `count` tensors like this one. numpy takes huge pages for a large array; the first touch of as much memory in
    small pages costs more than the copy."""
    memory = torch.from_numpy(np.empty(count * like.nbytes, np.uint8))
    return memory.view(like.dtype).view(count, *like.shape)


def _cut(value, rows: slice):  # noqa: ANN001, ANN202
    if isinstance(value, Trajectory):
        return value.map(lambda tensor: tensor[rows])
    return None if value is None else value[rows]
