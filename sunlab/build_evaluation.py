"""The composition root of `sunlab evaluate`: from a checked configuration to the protocol, and the report."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from registry import load_plugins
from sunlab.build import base_options, build_sampling, plug
from sunlab.config.load import LoadedConfig
from sunlab.config.schema import Accelerated, Config, Sampler
from sunlab.data.base import Pool, Source
from sunlab.errors import ConfigError
from sunlab.evaluation.extractors import Extractor
from sunlab.evaluation.files import write_report
from sunlab.evaluation.methods import Method
from sunlab.evaluation.pairs import lines_of, random_pairs
from sunlab.evaluation.protocol import Protocol, evaluate_base
from sunlab.export import read_adapter
from sunlab.memory import keep_freed_memory
from sunlab.pipelines.base import BaseModel, asset, load_base, quiet
from sunlab.pipelines.draw import Request
from sunlab.registries import registry_of


def evaluate(loaded: LoadedConfig, *, pictures: Path | None = None) -> Path:
    """Draw before and after on every base and write the report; what is drawn already is kept. The run's folder.

    Args:
        pictures: their folder, which several evaluations may share; None: `pictures` in the run's.

    Raises:
        ConfigError: nothing to compare, an adapter file that is not there, or an extractor that is not installed.
        DataError: an unusable adapter file, or one of another base.
    """
    keep_freed_memory()
    quiet()
    config = loaded.config
    load_plugins(config.plugins)
    folder, asked = Path(config.run.dir) / config.run.name, config.evaluate
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not asked.variants:
        raise ConfigError("evaluate.variants: nothing to compare; give a list of name, adapter, solver, steps, guidance")
    request, extractor = build_pairs(config), plug("extractors", asked.extractor)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(loaded.to_yaml())
    results = []
    for name in asked.bases or [config.model.base]:
        base = load_base(name, **base_options(config)).freeze().to(device)
        protocol = build_protocol(config, base, request, extractor)
        results.append(evaluate_base(name, base, protocol, pictures or folder / "pictures", batch=asked.batch))
    facts = {"title": config.run.name, "extractor": extractor.label, "seed": asked.seed, "device": device}
    write_report(folder, results, request, {**facts, "torch": str(torch.__version__)})
    return folder


def build_protocol(config: Config, base: BaseModel, request: Request, extractor: Extractor) -> Protocol:
    """The teacher, its references and the variants, over one base."""
    asked = config.evaluate
    solver = solver_spec(asked.before.solver)
    label = f"{solver['name']} {{}} steps, CFG {asked.guidance:g}"
    before = Method(label.format(asked.before.steps), build_sampling(asked.before, base), asked.guidance, solver)
    longer = build_sampling(replace(asked.before, steps=asked.reference_steps), base)
    return Protocol(
        request=request,
        before=before,
        solver_error=replace(before, name=label.format(asked.reference_steps), sampling=longer),
        other_seed=replace(before, name=f"{before.name}, other seeds", same_seeds=False),
        variants=[build_method(config, number, base) for number in range(len(asked.variants))],
        metrics=[partial(plug, "metrics", metric) for metric in asked.metrics],
        extractor=extractor,
        subsets=asked.subsets,
        control=asked.control,
        timed=asked.timed,
        shown=asked.shown,
    )


def solver_spec(request: Any) -> dict[str, Any]:
    """A solver's name with all its parameters."""
    spec = registry_of("solvers").check(request)
    return {"name": spec.name, **spec.parameters}


def build_method(config: Config, number: int, base: BaseModel) -> Method:
    """The way to draw that `evaluate.variants` names; what it leaves open is the adapter's own."""
    asked: Accelerated = config.evaluate.variants[number]
    file = None if asked.adapter is None else asset(asked.adapter)
    if file is not None and not file.is_file():
        raise ConfigError(
            f"evaluate.variants.{number}.adapter: {asked.adapter} is neither a file nor one inside the package"
        )
    own = read_adapter(file).header.get("solver", "ddim") if file is not None else "dpmpp_2m"
    solver = solver_spec(asked.solver or own)
    sampling = build_sampling(Sampler(solver=solver, steps=asked.steps), base)
    w = config.evaluate.guidance if asked.guidance is None else asked.guidance
    return Method(asked.name, sampling, w, solver, file)


def build_pairs(config: Config) -> Request:
    """The evaluation's random pairs of prompts and negative prompts, with a seed each."""
    asked = config.evaluate
    source: Source | None = None if asked.prompt_file else plug("sources", asked.prompts)
    prompts = lines_of(asked.prompt_file or "", "evaluate.prompt_file") if source is None else source.prompts(1_000_000)
    pool = Pool(prompts, source.keywords(4096) if source is not None else ())
    listed = lines_of(asked.negative_file, "evaluate.negative_file") if asked.negative_file else None
    sampler = plug("negatives", {"name": "pool", "prompts": listed} if listed else asked.negatives)
    return random_pairs(prompts, lambda random, prompt: sampler(random, prompt, pool), asked.count, seed=asked.seed)
