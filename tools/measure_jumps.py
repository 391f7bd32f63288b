"""How far does one jump miss, segment by segment? From the teacher's stored state x_t to its x_s at the segment's end:

sunlab data trajectories --config configs/emoji/trajectories.yaml --out data/stored --count 512 \
    'data.source.urls=[emoji/noto/test-*.tar.gz]'
python tools/measure_jumps.py emoji-sd --trajectories data/stored --adapter SUN=runs/sun/export/adapter.safetensors

In each cell the root mean square error in x_s, the mean over trajectories ± its standard error, and that mean as a share of
the one without an adapter ± the share's standard error. Beside the jumps, the error at the end of a whole rollout from the
noise, each step from where the last one led. Prompts, negative prompts and w are those of the trajectory dataset.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.data.trajectories import Trajectories
from sunlab.diffusion.grid import grid
from sunlab.diffusion.guidance import NetworkEvaluations
from sunlab.errors import DataError, SunlabError
from sunlab.evaluation.methods import Method
from sunlab.pipelines.draw import Bind, with_backbone, with_guidance
from sunlab.solvers import SOLVERS, Sampler
from sunlab.types import SAME

PLAIN = "no adapter, positive prompt only"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="the teacher of the trajectory dataset: a diffusers folder, or emoji-sd")
    parser.add_argument("--trajectories", required=True, help="folder of a trajectory dataset, best of held-out captions")
    parser.add_argument("--adapter", action="append", default=[], metavar="[NAME=]FILE", help="can be repeated")
    parser.add_argument(
        "--steps", type=int, default=4, help="of the student's trailing grid, whose times the trajectory dataset has"
    )
    parser.add_argument("--shift", type=float, default=1.0, help="of these times")
    parser.add_argument("--solver", default="ddim", help="that makes every jump")
    parser.add_argument("--count", type=int, help="only the first so many trajectories")
    parser.add_argument("--batch", type=int, default=64)
    asked = parser.parse_args()
    try:
        print(report(asked))
    except SunlabError as error:
        sys.exit(f"error: {error}")


def report(asked: argparse.Namespace) -> str:
    """Of the command's arguments, the printed table. Raises `SunlabError` for files that cannot be used together."""
    quiet()
    stored = Trajectories(path=asked.trajectories, limit=asked.count)
    base = load_base(asked.base).freeze()
    stored.require_teacher(base.fingerprint())
    base.to("cuda" if torch.cuda.is_available() else "cpu")
    path = base.backbone.path
    times = grid(asked.steps, shift=asked.shift, path=path)
    if missing := [t for t in times.tolist() if (stored.times - t).abs().min() > SAME]:
        raise DataError(
            f"{asked.trajectories}: it holds {stored.times.tolist()}, not {missing}; "
            f"make it with student.steps={asked.steps} student.shift={asked.shift:g} teacher.shift={asked.shift:g}"
        )
    sampling = Sampler(SOLVERS.build(asked.solver, path), times)
    measured = {
        name: errors(base, stored, sampling, binding, batch=asked.batch)
        for name, binding in methods(base, sampling, asked.adapter).items()
    }
    low, high = stored.header.guidance
    return "\n".join(
        [
            f"{len(stored)} trajectories of the {stored.header.steps}-step {stored.header.solver} teacher, "
            f"w {low:g} to {high:g}; jumps by {asked.solver}; "
            "root mean square error in x_s ± standard error (as a share of the first row's)\n",
            *table(measured, times.tolist()),
        ]
    )


def methods(base: BaseModel, sampling: Sampler, adapters: Sequence[str]) -> dict[str, AbstractContextManager[Bind]]:
    """Name of a row -> what binds the base to prompts; the first is the one without an adapter."""
    rows: dict[str, AbstractContextManager[Bind]] = {PLAIN: nullcontext(with_backbone(base.backbone))}
    for given in adapters:
        name, _, file = given.rpartition("=")
        rows[name or Path(file).parent.as_posix()] = Method(name, sampling, 1.0, {}, Path(file)).bound(base)
    return {**rows, "guided teacher": nullcontext(with_guidance(base))}


@torch.no_grad()
def errors(
    base: BaseModel, stored: Trajectories, sampling: Sampler, binding: AbstractContextManager[Bind], *, batch: int
) -> tuple[Tensor, float]:
    """Root mean square errors (N, S + 1), one a segment and that at the rollout's end, and NFE a jump."""
    rows, passes, asked = [], NetworkEvaluations(), 0
    with binding as bind:
        for positive, negative, w, states in batches(base, stored, sampling.times, batch):
            denoise = bind(base.encode(positive), base.encode(negative), w, passes)
            found, x, memory = [], states[0], None
            for (t, s), (x_t, x_s) in zip(pairwise(sampling.times.to(x.device)), pairwise(states), strict=True):
                t, s = t.expand(len(x)), s.expand(len(x))
                found.append(rms(sampling.solver.step(denoise, x_t, t, s)[0], x_s))
                x, memory = sampling.solver.step(denoise, x, t, s, memory)
                asked += 2 * len(x)
            rows.append(torch.stack([*found, rms(x, states[-1])], dim=1))
    return torch.cat(rows).double().cpu(), (passes.teacher + passes.student) / asked


def batches(
    base: BaseModel, stored: Trajectories, times: Tensor, size: int
) -> Iterator[tuple[list[str], list[str], Tensor, list[Tensor]]]:
    """Prompts, negative prompts, w (B,) and the states (B, C, H, W) at each of `times`."""
    for start in range(0, len(stored), size):
        samples = [stored[i] for i in range(start, min(start + size, len(stored)))]
        w = torch.tensor([float(sample.guidance or 1) for sample in samples], device=base.device)
        paths = [sample.trajectory for sample in samples if sample.trajectory is not None]
        states = [torch.cat([path.at(time[None]) for path in paths]).to(base.device) for time in times]
        yield [sample.prompt for sample in samples], [sample.negative or "" for sample in samples], w, states


def rms(x: Tensor, y: Tensor) -> Tensor:
    """(B,) of x, y (B, C, H, W)."""
    return (x - y).square().flatten(1).mean(1).sqrt()


def table(measured: Mapping[str, tuple[Tensor, float]], times: Sequence[float]) -> list[str]:
    """The lines of a Markdown table; shares are of the first row."""
    segments = [f"{t:g} to {s:g}" for t, s in pairwise(times)]
    lines = ["| | NFE a jump | " + " | ".join([*segments, "end of a rollout"]) + " |", "|---" * (len(segments) + 3) + "|"]
    first = next(iter(measured.values()))[0]
    for name, (values, passes) in measured.items():
        cells = []
        for value, plain in zip(values.T, first.T, strict=True):
            mean, error = mean_of(value)
            share, about = ratio_of(value, plain)
            cells.append(f"{mean:.4f} ± {error:.4f}" + ("" if values is first else f" ({share:.3f} ± {about:.3f})"))
        lines.append(f"| {name} | {passes:g} | " + " | ".join(cells) + " |")
    return lines


def mean_of(values: Tensor) -> tuple[float, float]:
    """Mean and standard error of values (N,)."""
    return float(values.mean()), float(values.std() / len(values) ** 0.5)


def ratio_of(values: Tensor, others: Tensor) -> tuple[float, float]:
    """mean(values) / mean(others), paired (N,), and its standard error to first order: that of the mean of
    (values - ratio others) / mean(others)."""
    ratio = float(values.mean() / others.mean())
    return ratio, mean_of((values - ratio * others) / others.mean())[1]


if __name__ == "__main__":
    main()
