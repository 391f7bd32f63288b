"""The files of a trajectory dataset: safetensors with a header that says how the teacher made the trajectories."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from sunlab.draws import starting_noise
from sunlab.errors import DataError
from sunlab.files import replacing

VERSION = 2  # 1 had whole times, 999 ... -1
TENSORS = ("states", "times", "seeds", "guidance")
GUIDED = "guided"  # a tensor that not every file has


@dataclass(frozen=True)
class TrajectoryHeader:
    """The metadata of a trajectory file.

    Attributes:
        teacher: hash of the teacher's weights.
        guidance: [low, high] that the guidance scales were drawn from.
        solver, steps, spacing: of the teacher's grid.
        noise: "seeded": the noise at the first time is drawn again from each sample's seed; "stored": it is in the file.
        keys, prompts, negatives: N each.
        version: of this format.
    """

    teacher: str
    guidance: tuple[float, float]
    solver: str
    steps: int
    spacing: str
    noise: Literal["seeded", "stored"]
    keys: tuple[str, ...]
    prompts: tuple[str, ...]
    negatives: tuple[str, ...]
    version: int = VERSION


def write_trajectories(
    path: str | Path,
    *,
    states: Tensor,
    times: Tensor,
    seeds: Tensor,
    guidance: Tensor,
    header: TrajectoryHeader,
    guided: Tensor | None = None,
) -> Path:
    """Write one file of a trajectory dataset, atomically. Name files `trajectories-00000.safetensors` and up.

    Args:
        path: the file.
        states: (N, T, C, H, W), or (N, T, C, F, H, W) of videos, the first at the noise; kept as float16.
        times: (T,) float64 in [0, 1], descending.
        seeds: (N,) int64.
        guidance: (N,) float32, the scale w of each.
        header: with N keys, prompts and negatives. With noise "seeded" the first state is left out of the file.
        guided: the guided teacher's v at each state but the last (N, T - 1, C, H, W), kept as float16; None: not stored.

    Raises:
        DataError: lengths that differ, times that do not fall, non-finite states, or a first state that is not
            `starting_noise(seeds)` though the header says "seeded".
        StorageError: the file cannot be written.
    """
    path, count = Path(path), len(states)
    lengths = [len(seeds), len(guidance), len(header.keys), len(header.prompts), len(header.negatives)]
    if states.ndim < 3 or any(length != count for length in lengths) or len(times) != states.shape[1]:
        raise DataError(f"{path}: states {tuple(states.shape)}, {len(times)} times, and {lengths} do not belong together")
    if not times.is_floating_point() or not bool((times.diff() < 0).all() and times[0] <= 1 and times[-1] >= 0):
        raise DataError(f"{path}: times must fall within [0, 1], got {times.tolist()}")
    if header.noise == "seeded":
        if not torch.equal(states[:, 0].float().cpu(), starting_noise(seeds.tolist(), states.shape[2:])):
            raise DataError(f"{path}: the first states are not the noise of their seeds; write them with noise 'stored'")
        states = states[:, 1:]
    if guided is not None and guided.shape != (count, len(times) - 1, *states.shape[2:]):
        raise DataError(f"{path}: guided predictions {tuple(guided.shape)} and {len(times)} times do not belong together")
    halves = {"states": states} if guided is None else {"states": states, GUIDED: guided}
    halves = {name: tensor.to("cpu", torch.float16).contiguous() for name, tensor in halves.items()}
    if not all(bool(tensor.isfinite().all()) for tensor in halves.values()):
        raise DataError(f"{path}: states are not finite in float16; look at the teacher's guidance scale")
    tensors = {
        **halves,
        "times": times.to("cpu", torch.float64),
        "seeds": seeds.to("cpu", torch.int64),
        "guidance": guidance.to("cpu", torch.float32),
    }
    with replacing(path) as temporary:
        save_file(tensors, temporary, {name: json.dumps(value) for name, value in asdict(header).items()})
    return path


def _header(values: dict[str, Any]) -> TrajectoryHeader:
    """Raises `ValueError` or `TypeError` where a value is not of its kind: the file may come from anyone."""
    texts = {name: tuple(values[name]) for name in ("keys", "prompts", "negatives") if isinstance(values[name], list)}
    words = [*(text for column in texts.values() for text in column), values["teacher"], values["solver"], values["spacing"]]
    low, high = map(float, values["guidance"])
    if len(texts) != 3 or not all(isinstance(word, str) for word in words) or values["noise"] not in ("seeded", "stored"):
        raise ValueError("a header of another kind")
    steps, version = int(values["steps"]), int(values["version"])
    return TrajectoryHeader(**{**values, **texts, "guidance": (low, high), "steps": steps, "version": version})


def open_trajectories(path: Path) -> tuple[Any, TrajectoryHeader]:
    """The open file, its tensors unread, and its header. Raises `DataError` if it is no trajectory file."""
    try:
        file = safe_open(path, framework="pt")
        metadata = file.metadata() or {}
        header = _header({field.name: json.loads(metadata[field.name]) for field in fields(TrajectoryHeader)})
        sizes = {name: tuple(file.get_slice(name).get_shape()) for name in TENSORS}
        predicted = tuple(file.get_slice(GUIDED).get_shape()) if holds_guided(file) else None
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a trajectory file ({error!r}); make it again") from error
    times = sizes["times"][0] - (header.noise == "seeded") if sizes["times"] else -1
    lengths = {sizes["states"][:1], sizes["seeds"], sizes["guidance"]}
    lengths |= {(len(header.keys),), (len(header.prompts),), (len(header.negatives),)}
    if header.version not in (1, VERSION) or len(lengths) != 1 or len(sizes["states"]) < 3 or sizes["states"][1] != times:
        raise DataError(f"{path}: version {header.version} with {sizes}, expected {VERSION}; make the trajectories again")
    if predicted not in (None, (*sizes["seeds"], sizes["times"][0] - 1, *sizes["states"][2:])):
        raise DataError(f"{path}: guided predictions {predicted} beside {sizes}; make the trajectories again")
    return file, header


def holds_guided(file: Any) -> bool:
    """Whether an open file has the guided predictions."""
    return GUIDED in file.keys()  # noqa: SIM118 -- no mapping


def times_of(file: Any) -> Tensor:
    """The times of an open file (T,), float64 in [0, 1]; whole steps i of version 1 are (i + 1) / 1000."""
    times: Tensor = file.get_tensor("times")
    return times if times.is_floating_point() else (times.double() + 1) / 1000
