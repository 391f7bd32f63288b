"""Adapters to and from safetensors: sunlab's file with its header, and the layouts of other programs. Open
`file.py` first; `convert.py` writes the other layouts."""

from sunlab.export.file import FORMAT, AdapterFile, read_adapter, save_adapter
from sunlab.export.load import attach_untrained, begin_with, fill, load_adapter

__all__ = ["FORMAT", "AdapterFile", "attach_untrained", "begin_with", "fill", "load_adapter", "read_adapter", "save_adapter"]
