"""Which of an adapter's jumps lose the content? The guided teacher makes some of them in its place:

python tools/swap_jumps.py --config configs/emoji/evaluate.yaml --adapter SUN=emoji/sun_msc.safetensors
python tools/swap_jumps.py --config configs/emoji/evaluate.yaml --adapter SUN=... --patterns aaaa gaaa aaag

A pattern has a letter for each step, from noise on: `a`, one pass with the adapter; `g`, the base with classifier-free
guidance, two passes. All steps are the adapter's own solver's. The default patterns hand over once, from one to the other.
Pairs, metrics, w and pictures are those of `evaluate` in the configuration; its variants are not drawn.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from sunlab.app.compose import base_options, own_device, settle
from sunlab.app.evaluate import build_method, build_pairs, build_protocol, check_judges
from sunlab.backbones.base import BaseModel
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.config.load import load_config
from sunlab.config.schema import Accelerated
from sunlab.diffusion.guidance import NetworkEvaluations
from sunlab.diffusion.prediction import Denoiser, Prediction
from sunlab.errors import ConfigError, SunlabError
from sunlab.evaluation.methods import Method
from sunlab.evaluation.protocol import evaluate_base
from sunlab.evaluation.report import table_of
from sunlab.pipelines.draw import Bind, with_guidance
from sunlab.pipelines.flow_scheduler import FLOW_SOLVERS
from sunlab.progress import Lines
from sunlab.types import SAME, Conditioning

ADAPTER, GUIDED = "a", "g"


@dataclass(frozen=True)
class Swapped(Method):
    """An adapter's method, in which the guided base makes some of the steps.

    Attributes:
        pattern: a letter for each step, `a` or `g`.
    """

    pattern: str = ""

    def identity(self, base: str) -> str:
        own = super().identity(base)
        return sha256(f"{own} {self.pattern}".encode()).hexdigest()[:16] if GUIDED in self.pattern else own

    @contextmanager
    def bound(self, base: BaseModel) -> Iterator[Bind]:
        with super().bound(base) as bind:
            guided = with_guidance(base)

            def both(positive: Conditioning, negative: Conditioning, w: Tensor, nfe: NetworkEvaluations) -> Denoiser:
                binds = {ADAPTER: bind, GUIDED: guided}
                made = {letter: binds[letter](positive, negative, w, nfe) for letter in set(self.pattern)}

                def denoise(x: Tensor, t: Tensor) -> Prediction:
                    time = float(t.flatten()[0])
                    step = next(i for i, start in enumerate(self.sampling.grid) if abs(start - time) < SAME)
                    return made[self.pattern[step]](x, t)

                return denoise

            yield both


def handing_over(steps: int) -> list[str]:
    """The patterns that change once at most, that of the adapter alone first, that of the guided base alone last."""
    first = [GUIDED * n + ADAPTER * (steps - n) for n in range(steps)]
    return [*first, *(ADAPTER * n + GUIDED * (steps - n) for n in range(steps - 1, -1, -1))]


def swapped(name: str, file: str, patterns: Sequence[str], steps: int, guidance: float, base: BaseModel) -> list[Swapped]:
    """A method for each pattern. Raises `ConfigError` for one of another length or with other letters."""
    for pattern in patterns:
        if len(pattern) != steps or set(pattern) - {ADAPTER, GUIDED}:
            raise ConfigError(f"--patterns: {pattern!r} must have {steps} letters, each {ADAPTER} or {GUIDED}")
    method = build_method(Accelerated(name=name, adapter=file, steps=steps), guidance, base)
    if method.solver["name"] not in FLOW_SOLVERS:
        raise ConfigError(f"{file}: its solver {method.solver['name']} does not evaluate the network once a step")
    own = {field: getattr(method, field) for field in Method.__dataclass_fields__}
    return [Swapped(**{**own, "name": f"{name} {pattern}"}, pattern=pattern) for pattern in patterns]


def report(asked: argparse.Namespace) -> str:
    """Of the command's arguments, the printed table. Raises `SunlabError` for a file or setting that cannot be used."""
    quiet()
    loaded = settle(load_config(asked.config, asked.overrides), own_device())
    config = loaded.config
    alone = Accelerated(adapter=asked.adapter[0].rpartition("=")[2], steps=asked.steps)  # for the rows without an adapter
    settings = replace(config.evaluate, control=None, timed=1, variants=[alone])
    config = replace(config, evaluate=settings)
    request, (extractor, _) = build_pairs(config), check_judges(config)
    base = load_base(config.model.base, **base_options(config)).freeze().to(own_device())
    protocol = build_protocol(config, base, request, extractor)
    patterns = asked.patterns or handing_over(asked.steps)
    methods: list[Method] = []
    for given in asked.adapter:
        name, _, file = given.rpartition("=")
        methods += swapped(name or Path(file).stem, file, patterns, asked.steps, settings.guidance, base)
    protocol = replace(protocol, variants=methods)
    progress = Lines("swap_jumps", len(protocol.methods) * len(request), unit="pictures")
    progress.begin()
    folder = Path(settings.pictures or Path(config.run.dir) / config.run.name / "pictures")
    result = evaluate_base(config.model.base, base, protocol, folder, batch=settings.batch, progress=progress)
    header, *rows = table_of(result, extractor.label)
    columns = [i for i, title in enumerate(header) if "picture" not in title and "speed-up" not in title]
    lines = [[row[i] for i in columns] for row in (header, *rows)]
    cells = [lines[0], ["---"] * len(columns), *lines[1:]]
    return "\n".join(["", *(f"| {' | '.join(line)} |" for line in cells)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", action="append", required=True, metavar="FILE", help="of `sunlab evaluate`")
    parser.add_argument("--adapter", action="append", required=True, metavar="[NAME=]FILE", help="can be repeated")
    parser.add_argument("--steps", type=int, default=4, help="of every pattern")
    parser.add_argument("--patterns", nargs="+", help="in place of the default ones")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="over the configuration")
    asked = parser.parse_args()
    try:
        with torch.no_grad():
            print(report(asked))
    except SunlabError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
