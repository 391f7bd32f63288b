"""Everything that a run imports, imported once, before ranks are forked."""

import importlib
from pathlib import Path

LATE = ("torch._dynamo", "torch.distributed.algorithms.ddp_comm_hooks", "torch.nn.parallel.distributed")
"""What torch imports with the first training step."""


def warm(base: Path) -> None:
    """Import it; no thread is started and no gradient computed, which a fork would not survive."""
    import torch

    from sunlab.app import evaluate, fit, latents, trajectories  # noqa: F401
    from sunlab.backbones.pretrained import load_base, quiet
    from sunlab.registries import registry_of

    torch.set_num_threads(1)
    quiet()
    registry_of("losses").names()
    for module in LATE:
        importlib.import_module(module)
    load_base(base, fresh=("vae", "unet", "text_encoder"))
