"""One table of every kind of plug, for `sunlab list`, the check of a configuration, and plugins."""

from importlib import import_module

from registry import Registry

# kind -> (the registry's module and name, the modules whose import registers the built-in plugs)
KINDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "adapters": ("sunlab.adapters.base", "ADAPTERS", ("sunlab.adapters.sun", "sunlab.adapters.lora")),
    "backbones": ("sunlab.backbones.base", "BACKBONES", ("sunlab.backbones.diffusers_unet",)),
    "callbacks": (
        "sunlab.callbacks.base",
        "CALLBACKS",
        (
            "sunlab.callbacks.ema",
            "sunlab.callbacks.loss_by_time",
            "sunlab.callbacks.sample_images",
            "sunlab.callbacks.throughput",
        ),
    ),
    "distances": ("sunlab.losses.distances", "DISTANCES", ()),
    "launchers": ("sunlab.sweep.launchers", "LAUNCHERS", ("sunlab.sweep.local",)),
    "losses": ("sunlab.losses.base", "LOSSES", ("sunlab.losses.msc", "sunlab.losses.cfg")),
    "metrics": ("sunlab.evaluation.base", "METRICS", ("sunlab.evaluation.paired",)),
    "negatives": ("sunlab.data.base", "NEGATIVES", ("sunlab.data.negatives",)),
    "solvers": (
        "sunlab.solvers.base",
        "SOLVERS",
        ("sunlab.solvers.ddim", "sunlab.solvers.dpmpp_2m", "sunlab.solvers.euler", "sunlab.solvers.heun"),
    ),
    "sources": ("sunlab.data.base", "SOURCES", ("sunlab.data.shards",)),
    "weightings": ("sunlab.losses.weighting", "WEIGHTINGS", ()),
}


def registry_of(kind: str) -> Registry:
    """The registry of a kind, its built-in plugs registered. Raises `KeyError` for an unknown kind."""
    module, name, plugs = KINDS[kind]
    for plug in plugs:
        import_module(plug)
    return getattr(import_module(module), name)
