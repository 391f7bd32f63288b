"""Registries of named components with typed parameters, checked before anything heavy is imported. The package knows nothing
of sunlab or torch. Open `registry.py` first; `parameters.py` reads a component's parameters off its signature.

`API_VERSION` follows semantic versioning. A plugin may state the version that it was written for by a module-level
``SUNLAB_REGISTRY_API = "1.0"``; a plugin that asks for another major or a newer minor version is refused.
"""

from registry.errors import RegistryError, suggestion
from registry.parameters import Parameter, check_value, takes_also
from registry.plugins import API_VERSION, BrokenPlugin, broken_plugins, load_plugin, load_plugins
from registry.registry import Entry, Registry, Spec

__all__ = [
    "API_VERSION",
    "BrokenPlugin",
    "Entry",
    "Parameter",
    "Registry",
    "RegistryError",
    "Spec",
    "broken_plugins",
    "check_value",
    "load_plugin",
    "load_plugins",
    "suggestion",
    "takes_also",
]
