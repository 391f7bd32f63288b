"""The JSON Schema of configuration files, by which editors complete and check YAML."""

import json
from collections.abc import Sequence
from typing import Literal

from registry import load_plugins
from sunlab.config.json_schema import json_schema as schema_of_files
from sunlab.config.schema import Config
from sunlab.sweep.spec import Sweep


def json_schema(files: Literal["run", "sweep"] = "run", *, plugins: Sequence[str] = ()) -> str:
    """The schema (draft 2020-12) as JSON text.

    Args:
        files: of configurations of a run, or of sweep files.
        plugins: files or modules whose components it shall contain too.

    Raises:
        RegistryError: a plugin cannot be imported.
    """
    load_plugins(plugins)
    return json.dumps(schema_of_files(Sweep if files == "sweep" else Config), indent=2)
