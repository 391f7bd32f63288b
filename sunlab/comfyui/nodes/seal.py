"""The reader of sealed safetensors files. In an installed package this file is a copy of sunlab's."""

from sunlab.export.seal import unpack, verify

__all__ = ["unpack", "verify"]
