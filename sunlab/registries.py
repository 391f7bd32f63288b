"""One table of every kind of component, for `sunlab list`, the check of a configuration, and plugins."""

from importlib import import_module

from registry import Registry

# kind -> the module that holds its registry beside its contract, and the registry's name there
KINDS: dict[str, tuple[str, str]] = {
    "adapters": ("sunlab.adapters.base", "ADAPTERS"),
    "alignments": ("sunlab.evaluation.base", "ALIGNMENTS"),
    "backbones": ("sunlab.backbones.base", "BACKBONES"),
    "callbacks": ("sunlab.callbacks.base", "CALLBACKS"),
    "controls": ("sunlab.evaluation.control", "CONTROLS"),
    "distances": ("sunlab.losses.distances", "DISTANCES"),
    "extractors": ("sunlab.evaluation.base", "EXTRACTORS"),
    "filters": ("sunlab.data.filters.base", "FILTERS"),
    "launchers": ("sunlab.sweep.launchers", "LAUNCHERS"),
    "loggers": ("sunlab.loggers.base", "LOGGERS"),
    "losses": ("sunlab.losses.base", "LOSSES"),
    "metrics": ("sunlab.evaluation.base", "METRICS"),
    "negatives": ("sunlab.data.negatives", "NEGATIVES"),
    "solvers": ("sunlab.solvers.base", "SOLVERS"),
    "sources": ("sunlab.data.base", "SOURCES"),
    "stages": ("sunlab.data.pipeline", "STAGES"),
    "tasks": ("sunlab.app.tasks", "TASKS"),
    "weightings": ("sunlab.losses.weighting", "WEIGHTINGS"),
}


def registry_of(kind: str) -> Registry:
    """The registry of a kind. Raises `KeyError` for an unknown kind."""
    module, name = KINDS[kind]
    return getattr(import_module(module), name)
