"""Configuration: files and overrides become a checked tree of plain values. Config is data; runtime objects are
arguments. Open `schema.py` for the keys, then `load.py` for the way from files to a `LoadedConfig`."""
