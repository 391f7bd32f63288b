"""Former names of configuration keys, components, modules and classes, each with what took its place.

Nothing here keeps an old name working: whoever uses one gets an error that says the new one.
"""

import sys
from collections.abc import Callable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import NoReturn

KEYS = {
    "budget.passes": "budget.nfe",
    "autoencoder": "parameters of the task, as in task: {name: autoencoder, crop: 32}",
}
"""Dotted key of a configuration -> the new one."""

COMPONENTS = {
    ("backbones", "diffusers_unet"): "sd or sdxl; model.backbone: null takes the family of the files",
}
"""(kind, former name) of a component -> its name."""

MODULES = {
    "sunlab.build": "sunlab.app.fit, and sunlab.app.compose for its parts",
    "sunlab.build_evaluation": "sunlab.app.evaluate",
    "sunlab.build_latents": "sunlab.app.latents",
    "sunlab.build_run": "sunlab.app.sweep_run",
    "sunlab.build_submit": "sunlab.app.submit",
    "sunlab.build_sweep": "sunlab.app.sweep",
    "sunlab.build_trainer": "sunlab.app.trainer",
    "sunlab.data.bank": "sunlab.data.trajectories",
    "sunlab.data.bankfile": "sunlab.data.trajectory_file",
    "sunlab.data.cache": "sunlab.data.latents",
    "sunlab.data.captions": "sunlab.data.fields",
    "sunlab.data.paths": "sunlab.data.urls",
    "sunlab.diffusion.schedule": "sunlab.diffusion.path, where times are floats in [0, 1]",
    "sunlab.diffusion.timesteps": "sunlab.diffusion.grid, and BoundSampler.integrate for solve with between",
    "sunlab.dry_run": "sunlab.app.dry_run",
    "sunlab.encoders": "sunlab.backbones.text and sunlab.backbones.sd.autoencoder",
    "sunlab.evaluation.alignment": "sunlab.evaluation.base",
    "sunlab.evaluation.clip_score": "sunlab.evaluation.clip",
    "sunlab.evaluation.effnet": "sunlab.evaluation.imagenet",
    "sunlab.evaluation.extractors": "sunlab.evaluation.base",
    "sunlab.evaluation.files": "sunlab.evaluation.page",
    "sunlab.evaluation.foreseen": "sunlab.evaluation.measures",
    "sunlab.evaluation.frechet": "sunlab.evaluation.sets",
    "sunlab.evaluation.inception": "sunlab.evaluation.imagenet",
    "sunlab.evaluation.intervals": "sunlab.evaluation.statistics",
    "sunlab.evaluation.kernel": "sunlab.evaluation.sets",
    "sunlab.evaluation.rival": "sunlab.evaluation.statistics",
    "sunlab.evaluation.sections": "sunlab.evaluation.report",
    "sunlab.evaluation.strength": "sunlab.evaluation.matrix",
    "sunlab.parent": "sunlab.distributed.parent",
    "sunlab.pipelines.base": "sunlab.load_base, and sunlab.backbones.pretrained for the rest",
    "sunlab.pipelines.convert": "sunlab.backbones.convert",
    "sunlab.pipelines.families": "sunlab.backbones.sd.family and sunlab.backbones.sdxl.family",
    "sunlab.pipelines.locate": "sunlab.backbones.locate",
    "sunlab.pipelines.outline": "sunlab.backbones.pretrained",
    "sunlab.pipelines.sample": "sunlab.app.sample",
    "sunlab.ranks": "sunlab.distributed.ranks",
    "sunlab.signals": "sunlab.distributed.signals",
    "sunlab.solvers.euler": "sunlab.solvers.ddim",
    "sunlab.testing.plug": "sunlab.testing.component",
    "sunlab.torture": "tools/fault_injection",
    "sunlab.watch": "sunlab.distributed.watch",
}
"""Former module -> where its contents are."""

NAMES = {
    "sunlab.losses.Flow": "sunlab.losses.BoundSampler",
    "sunlab.losses.Terms": "sunlab.losses.LossOutput",
    "sunlab.solvers.Sampling": "sunlab.solvers.Sampler",
    "sunlab.testing.PlugContract": "sunlab.testing.ComponentContract",
}
"""Former name in a module that still exists -> the new one."""


def refuse_former(module: str) -> Callable[[str], NoReturn]:
    """A module's `__getattr__`: raises `ImportError` for a former name, `AttributeError` for any other."""

    def refuse(name: str) -> NoReturn:
        if new := NAMES.get(f"{module}.{name}"):
            raise ImportError(f"{module}.{name} is now {new}", name=module)
        raise AttributeError(f"module {module!r} has no attribute {name!r}")

    return refuse


class FormerModules(MetaPathFinder):
    """The last finder to be tried: raises `ModuleNotFoundError` with the new name for a module that was moved."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if new := MODULES.get(fullname):
            raise ModuleNotFoundError(f"{fullname} was moved: use {new}", name=fullname)
        return None


def install() -> None:
    """Once for the process, by `import sunlab`."""
    if not any(isinstance(finder, FormerModules) for finder in sys.meta_path):
        sys.meta_path.append(FormerModules())
