"""Store a teacher's guided trajectories, so that training then costs one student pass a sample."""

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import torch

from sunlab.backbones.base import BaseModel
from sunlab.data.negatives import NegativeSampler, Pool
from sunlab.data.trajectory_file import TrajectoryHeader, holds_guided, open_trajectories, times_of, write_trajectories
from sunlab.diffusion.guidance import guided
from sunlab.diffusion.prediction import recorded
from sunlab.draws import Draws, keyed_seed, starting_noise
from sunlab.errors import ConfigError, DataError
from sunlab.progress import Lines
from sunlab.solvers import Sampler


class TrajectoryWriter:
    """Draws trajectories and writes them as shards.

    Args:
        base: the teacher, frozen.
        teacher: its solver and grid.
        stored: the times whose states are kept, (K + 1,); all of them times of the teacher's grid.
        prompts: one is drawn for each trajectory.
        negatives: likewise, from `pool`.
        guidance: [low, high] of w.
        describe: solver's name and spacing, for the header.
        seed: of every draw; a trajectory is a function of (seed, its index).
        predictions: whether the guided prediction at each stored state but the last is kept too, as v. The solver evaluates
            it there in any case; the files are twice as large.

    Raises:
        ConfigError: the teacher's grid does not contain the stored times.
    """

    def __init__(
        self,
        base: BaseModel,
        teacher: Sampler,
        stored: torch.Tensor,
        prompts: Sequence[str],
        negatives: NegativeSampler,
        pool: Pool,
        *,
        guidance: tuple[float, float],
        describe: dict[str, Any],
        seed: int = 0,
        predictions: bool = False,
    ):
        missing = sorted(set(stored.tolist()) - set(teacher.times.tolist()))
        if missing:
            raise ConfigError(
                f"teacher.steps: a grid of {teacher.steps} steps misses the times {missing} of the "
                "student's; choose a multiple of student.steps, and teacher.shift as student.shift"
            )
        if not prompts:
            raise ConfigError("data.source: it has no captions to draw trajectories for")
        self.base, self.teacher, self.stored, self.prompts = base, teacher, stored, prompts
        self.negatives, self.pool, self.guidance, self.describe, self.seed = negatives, pool, guidance, describe, seed
        self.predictions = predictions

    def shard(self, path: Path, start: int, stop: int, progress: Lines | None = None) -> Path:
        """Trajectories number start ... stop - 1, as one file. One that is there already is left alone; it is made again
        where it holds fewer of them.

        Args:
            progress: counts the trajectories, in parts by the solver's steps.

        Raises:
            DataError: a file is there that was made otherwise.
        """
        randoms = [Random(keyed_seed(self.seed, "bank", i)) for i in range(start, stop)]
        prompts = tuple(r.choice(self.prompts) for r in randoms)
        negatives = tuple(self.negatives(r, p, self.pool) for r, p in zip(randoms, prompts, strict=True))
        seeds = [keyed_seed(self.seed, "bank", i, "noise") for i in range(start, stop)]
        w = Draws(seeds, device=self.base.device).uniform("guidance", *self.guidance)
        header = TrajectoryHeader(
            teacher=self.base.fingerprint(),
            guidance=self.guidance,
            steps=self.teacher.steps,
            noise="seeded",
            keys=tuple(f"{i:08d}" for i in range(start, stop)),
            prompts=prompts,
            negatives=negatives,
            **self.describe,
        )
        progress = Lines("trajectories", None, unit="trajectories", enabled=False) if progress is None else progress
        if path.is_file() and _holds(path, header, self.stored, seeds, self.predictions):
            progress.skip(stop - start)
            return path
        states, guided = self._integrate(prompts, negatives, seeds, w, progress)
        numbers = torch.tensor(seeds)
        return write_trajectories(
            path, states=states, times=self.stored, seeds=numbers, guidance=w.cpu(), header=header, guided=guided
        )

    @torch.no_grad()
    def _integrate(
        self, prompts: Sequence[str], negatives: Sequence[str], seeds: Sequence[int], w: torch.Tensor, progress: Lines
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The states at the stored times, (N, K + 1, C, H, W), the noise first, and the guided v (N, K, C, H, W) at all but
        the last or None."""
        noise = starting_noise(seeds, self.base.backbone.sample_shape).to(self.base.device)
        one_pass = self.guidance == (1.0, 1.0)
        positive, negative = self.base.encode(prompts, exact=True), self.base.encode(negatives, negative=True, exact=True)
        denoise, made = recorded(guided(self.base.backbone, positive, negative, w, one_pass=one_pass))
        kept, found = [noise.cpu()], list[torch.Tensor]()
        wanted = set(self.stored.tolist())
        states = self.teacher.solver.states(denoise, noise, self.teacher.times)
        for (start, time), x in zip(pairwise(self.teacher.grid), states, strict=True):
            if self.predictions and start in wanted:
                found.append(made[0].v.cpu())  # a step's first evaluation is at the state that it starts from
            if time in wanted:
                kept.append(x.cpu())
            made.clear()
            progress.add(len(seeds) / self.teacher.steps)
        return torch.stack(kept, dim=1), torch.stack(found, dim=1) if self.predictions else None


def _holds(path: Path, header: TrajectoryHeader, times: torch.Tensor, seeds: Sequence[int], predictions: bool) -> bool:
    """Whether the file holds all that is wanted, not its beginning alone. Raises `DataError` where it was made otherwise."""
    file, found = open_trajectories(path)
    there = {**asdict(found), "times": times_of(file).tolist(), "seeds": file.get_tensor("seeds").tolist()}
    wanted = {**asdict(header), "version": found.version, "times": times.tolist(), "seeds": list(seeds)}
    there["predictions"], wanted["predictions"] = holds_guided(file), predictions
    for name in ("keys", "prompts", "negatives", "seeds"):  # one for each trajectory
        wanted[name] = wanted[name][: len(found.keys)]
    if differ := [name for name, value in wanted.items() if there[name] != value]:
        raise DataError(
            f"{path}: it is there already and was made with other {', '.join(differ)}; choose another folder, or delete it"
        )
    return len(found.keys) == len(header.keys)
