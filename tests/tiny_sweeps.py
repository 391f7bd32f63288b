"""Sweep files over the tiny base, whose runs train for three steps and are compared on three pictures."""

import json
from pathlib import Path

PLUGINS = Path(__file__).parent / "plugins"
MEANS = str(PLUGINS / "means.py")
SMALL = {
    "trainer.log_every_n_steps": 1,
    "evaluate.count": 3,
    "evaluate.batch": 4,
    "evaluate.control": None,
    "evaluate.timed": 1,
    "evaluate.shown": 2,
    "evaluate.reference_steps": 3,
    "evaluate.before.steps": 2,
    "evaluate.extractor": "means_of_the_tests",
    "evaluate.metrics": ["paired_l2"],
}


def write_sweep(path: Path, config: Path, shards: str, **keys: object) -> Path:
    """A sweep file with these keys over a configuration and the shards of its prompts."""
    overrides = {
        **SMALL,
        "plugins": [MEANS],
        "evaluate.prompts": {"name": "shards", "urls": [shards]},
        **keys.pop("overrides", {}),
    }
    path.write_text(json.dumps({"config": [str(config)], "seeds": [0], **keys, "overrides": overrides}))  # YAML too
    return path
