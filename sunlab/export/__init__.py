"""Adapters to and from safetensors: our file, which describes itself, and the layouts that other programs read. Open
`file.py` first; `convert.py` writes the other layouts."""

from sunlab.export.file import FORMAT, AdapterFile, read_adapter, save_adapter
from sunlab.export.load import fill, load_adapter, plug_untrained

__all__ = ["FORMAT", "AdapterFile", "fill", "load_adapter", "plug_untrained", "read_adapter", "save_adapter"]
