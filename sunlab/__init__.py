"""sunlab: a laboratory for few-step diffusion adapters.

Importing the package is cheap: what needs torch is imported on first use.
"""

from importlib import import_module
from typing import Any

from sunlab import renamed

__version__ = "0.2.0"

_LAZY = {
    "AdapterModule": "sunlab.modules.adapter",
    "AutoencoderModule": "sunlab.modules.autoencoder",
    "load_base": "sunlab.backbones.pretrained",
    "plug": "sunlab.pipelines.plug",
    "unplug": "sunlab.pipelines.plug",
    "StudentModule": "sunlab.modules.student",
    "TeacherModule": "sunlab.modules.teacher",
    "load_config": "sunlab.config.load",
}
__all__ = ["__version__", *_LAZY]


renamed.install()


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'sunlab' has no attribute {name!r}")
