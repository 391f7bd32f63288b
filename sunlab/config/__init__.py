"""Configuration: a checked tree of plain values. Config is data; runtime objects are arguments."""
