"""The source "trajectories": a dataset of stored teacher trajectories, read by position."""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import accumulate
from random import Random
from typing import Any

import torch

from sunlab.data.base import SOURCES, Source
from sunlab.data.sample import Sample
from sunlab.data.trajectory_file import GUIDED, TrajectoryHeader, holds_guided, open_trajectories, times_of
from sunlab.data.urls import expand
from sunlab.draws import keyed_seed, starting_noise
from sunlab.errors import ConfigError, DataError
from sunlab.types import Trajectory


@SOURCES.register("trajectories")
class Trajectories(Source):
    """Trajectories of the guided teacher, stored once, so that training needs no teacher passes.

    Args:
        path: a folder with trajectories-00000.safetensors and up (bank-00000.safetensors before), or a file, glob or brace
            pattern; a relative one is looked up in the working directory, then in `sunlab/assets`.
        limit: only the first so many trajectories.

    Raises:
        DataError: nothing found, a file without trajectories, or files that were not made alike.
    """

    def __init__(self, *, path: str, limit: int | None = None):
        if limit is not None and limit < 1:
            raise ConfigError(f"limit of trajectories is {limit}: give at least 1, or null for all")
        self.paths = expand(path if path.endswith(".safetensors") else f"{path.rstrip('/')}/*-[0-9]*.safetensors")
        opened = [open_trajectories(path) for path in self.paths]
        self.headers = [header for _, header in opened]
        self._files: list[Any] | None = [file for file, _ in opened]
        self.times = times_of(self._files[0])
        self.holds_guided = holds_guided(self._files[0])
        for path_, file, header in zip(self.paths, self._files, self.headers, strict=True):
            alike = _making(header) == _making(self.headers[0]) and torch.equal(times_of(file), self.times)
            if not alike or holds_guided(file) != self.holds_guided:
                raise DataError(f"{path_} was not made as {self.paths[0]} was; keep them in folders of their own")
        self._ends = list(accumulate(len(header.keys) for header in self.headers))
        self._length = self._ends[-1] if limit is None else min(limit, self._ends[-1])

    @property
    def header(self) -> TrajectoryHeader:
        """Of the first file; all agree in teacher, guidance range, solver, steps and spacing."""
        return self.headers[0]

    holds_images = False

    def require_origin(self, *, teacher: Callable[[], str], encoders: Callable[[], str]) -> None:
        self.require_teacher(teacher())

    def require_teacher(self, teacher: str | None) -> None:
        """Raises `DataError` if the trajectories were not made by the teacher with this hash. None: any will do."""
        if teacher is not None and teacher != self.header.teacher:
            raise DataError(
                f"{self.paths[0]}: made by teacher {self.header.teacher}, this run's is {teacher}; "
                "make trajectories with this teacher, or set model.base to the other"
            )

    def __len__(self) -> int:
        return self._length

    @property
    def stored_nfe(self) -> int:
        """Two evaluations a guided step, by a solver of one step each."""
        return len(self) * self.header.steps * 2

    def __getitem__(self, index: int) -> Sample:
        """Trajectory `index` in the order of files: states (1, T, C, H, W) float32, the noise among them."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        header, row = self.headers[number], index - self._ends[number] + len(self.headers[number].keys)
        file = self._opened()[number]
        states = file.get_slice("states")[row : row + 1].float()
        if header.noise == "seeded":
            seed = file.get_slice("seeds")[row : row + 1].tolist()
            states = torch.cat([starting_noise(seed, states.shape[2:])[:, None], states], dim=1)
        guided = file.get_slice(GUIDED)[row : row + 1].float() if self.holds_guided else None
        return Sample(
            header.keys[row],
            header.prompts[row],
            trajectory=Trajectory(states, self.times, guided=guided),
            negative=header.negatives[row],
            guidance=float(file.get_slice("guidance")[row : row + 1]),
        )

    def read(self, *, seed: int, epoch: int, start: int, stop: int, skip: int = 0) -> Iterator[Sample]:
        order = list(range(len(self)))
        Random(keyed_seed(seed, epoch, "trajectories")).shuffle(order)
        for index in order[start + skip : stop]:
            yield self[index]

    def fingerprint(self) -> str:
        known = [(header.teacher, header.keys) for header in self.headers]
        return blake2b(repr((known, len(self))).encode(), digest_size=8).hexdigest()

    def identity(self) -> str:
        return self.fingerprint()

    def prompts(self, limit: int) -> tuple[str, ...]:
        prompts = [prompt for header in self.headers for prompt in header.prompts][: len(self)]
        return tuple(dict.fromkeys(prompts))[:limit]

    def _opened(self) -> list[Any]:
        if self._files is None:
            self._files = [open_trajectories(path)[0] for path in self.paths]
        return self._files

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_files": None}  # open files stay in their process


def _making(header: TrajectoryHeader) -> tuple[object, ...]:
    return header.teacher, header.guidance, header.solver, header.steps, header.spacing
