"""The keys under `trainer:` are the arguments of `lightning.Trainer`, checked against its signature."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal, get_type_hints

from registry import Parameter, RegistryError, check_value, suggestion

PASSED = (
    "accelerator", "strategy", "devices", "num_nodes", "precision", "logger", "fast_dev_run", "max_epochs", "max_steps",
    "max_time", "limit_train_batches", "log_every_n_steps", "enable_progress_bar", "enable_model_summary",
    "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm", "deterministic", "benchmark", "profiler",
    "detect_anomaly", "sync_batchnorm", "enable_autolog_hparams",
)  # fmt: skip
"""Settings that do what Lightning documents."""
ELSEWHERE = {
    "callbacks": "give them as the configuration's own `callbacks:`",
    "default_root_dir": "files go to `run.dir`/`run.name`",
    "plugins": "they are Python objects, and the configuration's own `plugins:` are sunlab's",
}
"""Settings that a configuration gives under another key, or that only Python can give."""
NO_VALIDATION = "a training has no validation loop; use the callbacks sample_images and before_after, or sunlab evaluate"
ENDLESS = "the data are one endless stream"
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "limit_val_batches": ((None, 0), NO_VALIDATION),
    "limit_test_batches": ((None, 0), NO_VALIDATION),
    "limit_predict_batches": ((None, 0), NO_VALIDATION),
    "val_check_interval": ((None,), NO_VALIDATION),
    "check_val_every_n_epoch": ((None, 1), NO_VALIDATION),
    "num_sanity_val_steps": ((None, 0), NO_VALIDATION),
    "inference_mode": ((True,), NO_VALIDATION),
    "min_epochs": ((None, 0), "it would keep a run from stopping at a signal or a time limit; give trainer.max_steps"),
    "min_steps": ((None, 0), "it would keep a run from stopping at a signal or a time limit; give trainer.max_steps"),
    "overfit_batches": ((0,), f"{ENDLESS}, which never returns to its first batches; give data.source few samples"),
    "reload_dataloaders_every_n_epochs": ((0,), f"{ENDLESS}, and reloading would lose the position in it"),
    "use_distributed_sampler": ((False,), "sunlab deals streams of data to the ranks itself"),
    "enable_checkpointing": ((None, True), "a run resumes from its checkpoints; run.checkpoint_every writes fewer"),
    "barebones": ((False,), "it leaves out the checkpoints and logs of a run; tools/bench_training.py measures speed"),
    "model_registry": ((None,), "checkpoints are not uploaded; see sunlab export"),
}
"""Setting -> its values that change nothing, and why any other one is refused."""
SHARDED = ("fsdp", "deepspeed", "model_parallel")
"""Strategies, by the beginnings of their names, that divide the weights among the ranks."""
HALF = "the frozen weights' type is model.dtype, what is trained is float32; give auto, bf16-mixed, 16-mixed or 32-true"
WHOLE = {"16-true", "bf16-true", "64-true", "64", 64, "transformer-engine", "transformer-engine-float16"}
"""Precisions that would convert the whole module."""
Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed", "32", "16", "bf16", 32, 16] | None
"""Those that are taken; `auto` is resolved before Lightning sees it (`sunlab.precision`)."""


def parameters_of_the_trainer() -> dict[str, Parameter]:
    """What `trainer:` takes. Imports Lightning."""
    from lightning import Trainer

    hints = get_type_hints(Trainer.__init__) | {"logger": bool | None, "precision": Precision}
    found = inspect.signature(Trainer.__init__).parameters.values()
    return {p.name: Parameter(p.name, hints[p.name], p.default) for p in found if p.name in PASSED or p.name in REFUSED}


def trainer_problems(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(key, message) of every wrong key or type. Lightning is imported only where there is a key to check."""
    known = parameters_of_the_trainer() if values else {}
    found = []
    for key, value in values.items():
        if key in ELSEWHERE:
            found.append((key, f"not taken here; {ELSEWHERE[key]}"))
        elif key in REFUSED and value not in REFUSED[key][0]:
            found.append((key, f"{value!r} is not taken: {REFUSED[key][1]}"))
        elif key not in known:
            found.append((key, f"lightning.Trainer takes no such argument; {suggestion(key, known)}"))
        elif key == "strategy" and str(value).startswith(SHARDED):
            found.append((key, f"{value!r} divides the weights, which checkpoints and exports need whole; give ddp"))
        elif key == "precision" and isinstance(value, (str, int)) and value in WHOLE:
            found.append((key, f"{value!r} is not taken; {HALF}"))
        else:
            try:
                check_value(value, known[key].annotation, key=key)
            except RegistryError as error:
                found.append((key, str(error).removeprefix(f"{key}: ")))
    return found
