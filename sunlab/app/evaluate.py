"""The composition root of `sunlab evaluate`: from a checked configuration to the protocol, and the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from registry import load_plugins
from sunlab.adapters.strength import Strength
from sunlab.app.compose import base_options, build_sampler, component, own_device, settle
from sunlab.backbones.base import BaseModel
from sunlab.backbones.locate import is_hub_id, locate
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.config.load import LoadedConfig
from sunlab.config.schema import Accelerated, Config, Evaluate, Sampler
from sunlab.data.base import Source
from sunlab.data.negatives import Pool
from sunlab.errors import BelowBar, ConfigError
from sunlab.evaluation.base import Alignment, Extractor, Metric
from sunlab.evaluation.control import NegativeControl
from sunlab.evaluation.matrix import Bar, Crossed, broken_bars, require_cells, require_measures, strength, universality
from sunlab.evaluation.measures import Foreseen, foreseen
from sunlab.evaluation.methods import Method
from sunlab.evaluation.page import write_report
from sunlab.evaluation.pairs import lines_of, random_pairs
from sunlab.evaluation.protocol import Protocol, evaluate_base
from sunlab.evaluation.seeds import over_seeds
from sunlab.export import read_adapter
from sunlab.export.file import locate_adapter
from sunlab.export.load import adapter_of
from sunlab.memory import keep_freed_memory
from sunlab.pipelines.draw import Request
from sunlab.progress import Lines
from sunlab.registries import registry_of


def evaluate(loaded: LoadedConfig, *, matrix: bool = False, pictures: Path | None = None) -> Path:
    """Draw before and after on every base and write the report; what is drawn already is kept. The run's folder.

    Args:
        matrix: cross the variants with `matrix.steps`, and hold the cells against `matrix.bars`.
        pictures: their folder where `evaluate.pictures` names none; None: `pictures` in the run's.

    Raises:
        ConfigError: nothing to compare, a base or adapter file that is not there, or an extractor that is not installed.
        DataError: an unusable adapter file, or one of another base.
        BelowBar: a cell of the matrix misses a bar; the report is written.
    """
    keep_freed_memory()
    quiet(online=any(map(is_hub_id, named(loaded.config))))
    device = own_device()
    loaded = settle(loaded, device)
    config = loaded.config
    load_plugins(config.plugins)
    folder, settings = Path(config.run.dir) / config.run.name, config.evaluate
    if not settings.variants:
        raise ConfigError("evaluate.variants: nothing to compare; give a list of name, adapter, solver, steps, guidance")
    bases = settings.bases or [config.model.base]
    _require_files(config, bases)
    lines, bars = (crossed(config), [Bar(**asdict(bar)) for bar in config.matrix.bars]) if matrix else ({}, [])
    require_cells(bars, list(lines), bases)
    if matrix:
        config = replace(config, evaluate=replace(settings, variants=list(lines.values())))
    request, (extractor, measured) = build_pairs(config), check_judges(config)
    if matrix:
        require_measures(bars, config.matrix.measure, measured)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(loaded.to_yaml())
    results, strengths = [], {}
    origin = _load(config, config.model.base).backbone.state_dict() if matrix else {}
    for name in bases:
        base = _load(config, name)
        if matrix:
            strengths[name] = strength(origin, base.backbone.state_dict())
        protocol = build_protocol(config, base.to(device), request, extractor)
        progress = Lines(f"evaluate {name}", len(protocol.methods) * len(request), unit="pictures")
        progress.begin()
        place = Path(settings.pictures) if settings.pictures else pictures or folder / "pictures"
        results.append(evaluate_base(name, base, protocol, place, batch=settings.batch, progress=progress))
    methods = {variant.name: variant.method for variant in config.evaluate.variants if variant.method}
    sections = over_seeds(results, methods, extractor.label)
    if matrix:
        made = universality(
            results,
            list(lines),
            strengths,
            measure=config.matrix.measure,
            origin=config.model.base,
            pairs=len(request),
            extractor=extractor.label,
        )
        sections.insert(0, made)
    facts = {"title": config.run.name, "extractor": extractor.label, "seed": settings.seed, "device": device}
    write_report(folder, results, request, {**facts, "torch": str(torch.__version__)}, sections)
    if broken := broken_bars(bars, list(lines), results):
        raise BelowBar("\n  ".join([f"{len(broken)} cells miss their bar; the report is in {folder}", *broken]))
    return folder


def crossed(config: Config) -> dict[Crossed, Accelerated]:
    """The lines of the matrix: each variant at each number of steps; then the base with guidance, at as many passes and at
    as many steps."""
    steps, settings = config.matrix.steps, config.evaluate
    lines = {}
    for variant in settings.variants:
        for count in steps:
            name = f"{variant.name}, {count} step{'s' * (count > 1)}"
            method = variant.method and f"{variant.method}, {count} step{'s' * (count > 1)}"
            lines[Crossed(name, variant.name, count)] = replace(variant, name=name, steps=count, method=method)
    if config.matrix.baselines:
        solver = solver_spec(settings.before.solver)
        for count in sorted({*steps, *(count // 2 for count in steps if count > 1)}):
            name = f"{solver['name']}, {count} step{'s' * (count > 1)}, CFG {settings.guidance:g}"
            lines[Crossed(name, solver["name"], count)] = Accelerated(name=name, solver=solver, steps=count)
    return lines


def named(config: Config) -> list[str]:
    """The bases and adapters that an evaluation draws with."""
    asked = config.evaluate
    return [*(asked.bases or [config.model.base]), *(v.adapter for v in asked.variants if v.adapter is not None)]


def _require_files(config: Config, bases: Sequence[str]) -> None:
    """Raise `ConfigError` before anything is drawn where a base or an adapter is not there."""
    for base in bases:
        locate(base)
    for number, variant in enumerate(config.evaluate.variants):
        _require_strength(variant, f"evaluate.variants.{number}.")
        if variant.shift is not None and variant.shift <= 0:
            raise ConfigError(f"evaluate.variants.{number}.shift: {variant.shift:g} is no shift; give a number above 0")
        if variant.adapter is not None and not locate_adapter(variant.adapter).is_file():
            raise ConfigError(
                f"evaluate.variants.{number}.adapter: {variant.adapter} is neither a file, nor one inside the package, "
                "nor a hub id"
            )


def _require_strength(variant: Accelerated, where: str) -> None:
    """Raise `ConfigError` where a scale has no effect on the variant's adapter."""
    strength = Strength(variant.scale, variant.lora_scale)
    if strength == Strength():
        return
    if variant.adapter is None and variant.over is None:
        raise ConfigError(f"{where}scale: for variants with an adapter; the base is guided by {where}guidance")
    if variant.adapter is None:
        strength.check(component("adapters", variant.over), where=where)
    elif locate_adapter(variant.adapter).is_file():
        over = {"name": variant.over} if isinstance(variant.over, str) else variant.over
        strength.check(adapter_of(read_adapter(variant.adapter), over=over), where=where)


def _load(config: Config, name: str) -> BaseModel:
    return load_base(name, **base_options(config)).freeze()


def build_judges(config: Config) -> tuple[list[Callable[[], Metric]], Alignment | None, NegativeControl | None]:
    """What makes each metric anew, the text alignment, and the negative control."""
    settings = config.evaluate
    metrics: list[Callable[[], Metric]] = [partial(component, "metrics", metric) for metric in settings.metrics]
    alignment = None if settings.alignment is None else component("alignments", settings.alignment)
    return metrics, alignment, None if settings.control is None else component("controls", settings.control)


def check_judges(config: Config) -> tuple[Extractor, Foreseen]:
    """The extractor, and what will be measured. Everything that looks at pictures runs once on noise, so that a missing
    package or file raises before anything is drawn or trained.

    Raises:
        ConfigError: a package or a file is missing.
    """
    extractor: Extractor = component("extractors", config.evaluate.extractor)
    extractor(torch.zeros(1, 3, 16, 16))
    return extractor, foreseen(*build_judges(config))


def build_protocol(config: Config, base: BaseModel, request: Request, extractor: Extractor) -> Protocol:
    """The teacher, its references and the variants, over one base."""
    settings = config.evaluate
    solver = solver_spec(settings.before.solver)
    label = f"{solver['name']} {{}} steps, CFG {settings.guidance:g}"
    before = Method(label.format(settings.before.steps), build_sampler(settings.before, base), settings.guidance, solver)
    longer = build_sampler(replace(settings.before, steps=settings.reference_steps), base)
    metrics, alignment, control = build_judges(config)
    return Protocol(
        request=request,
        before=before,
        solver_error=replace(before, name=label.format(settings.reference_steps), sampling=longer),
        other_seed=replace(before, name=f"{before.name}, other seeds", same_seeds=False),
        nothing=build_nothing(settings, base) if settings.nothing else [],
        variants=[build_method(variant, settings.guidance, base) for variant in settings.variants],
        metrics=metrics,
        extractor=extractor,
        alignment=alignment,
        subsets=settings.subsets,
        control=control,
        timed=settings.timed,
        shown=settings.shown,
        worst=settings.worst,
    )


def build_nothing(settings: Evaluate, base: BaseModel) -> list[Method]:
    """The base without adapter and without guidance, at the steps of each variant that takes one pass a step, by DDIM and by
    the teacher's solver."""
    one_pass = [variant for variant in settings.variants if variant.adapter is not None or variant.over is not None]
    solvers = {spec["name"]: spec for spec in map(solver_spec, ("ddim", settings.before.solver))}
    return [
        Method(
            f"no adapter, no guidance, {name} {steps} step{'s' * (steps > 1)}",
            build_sampler(Sampler(solver=solver, steps=steps), base),
            w=1.0,
            solver=solver,
        )
        for steps in sorted({variant.steps for variant in one_pass})
        for name, solver in solvers.items()
    ]


def solver_spec(request: Any) -> dict[str, Any]:
    """A solver's name with all its parameters."""
    spec = registry_of("solvers").check(request)
    return {"name": spec.name, **spec.parameters}


def build_method(settings: Accelerated, guidance: float, base: BaseModel) -> Method:
    """The way to draw that one of `evaluate.variants` names; what it leaves open is the adapter's own."""
    file = None if settings.adapter is None else locate_adapter(settings.adapter)
    header: Mapping[str, Any] = {"solver": "dpmpp_2m"} if file is None else read_adapter(file).header
    solver = solver_spec(settings.solver or header.get("solver", "ddim"))
    shift = header.get("shift", 1.0) if settings.shift is None else settings.shift
    sampling = build_sampler(Sampler(solver=solver, steps=settings.steps, shift=shift), base)
    w = guidance if settings.guidance is None else settings.guidance
    over = None if settings.over is None else {"name": settings.over} if isinstance(settings.over, str) else settings.over
    return Method(settings.name, sampling, w, solver, file, over, strength=Strength(settings.scale, settings.lora_scale))


def build_pairs(config: Config) -> Request:
    """The evaluation's random pairs of prompts and negative prompts, with a seed each."""
    settings = config.evaluate
    if settings.prompts is None and not settings.prompt_file:
        raise ConfigError("evaluate.prompts is not given: name a data source with captions, or set evaluate.prompt_file")
    source: Source | None = None if settings.prompt_file else component("sources", settings.prompts)
    prompts = lines_of(settings.prompt_file or "", "evaluate.prompt_file") if source is None else source.prompts(1_000_000)
    pool = Pool(prompts, source.keywords(4096) if source is not None else ())
    listed = lines_of(settings.negative_file, "evaluate.negative_file") if settings.negative_file else None
    sampler = component("negatives", {"name": "pool", "prompts": listed} if listed else settings.negatives)
    return random_pairs(prompts, lambda random, prompt: sampler(random, prompt, pool), settings.count, seed=settings.seed)
