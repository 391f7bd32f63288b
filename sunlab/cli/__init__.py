"""The commands: arguments -> one call of the Python API. Heavy imports wait for the call, so `--help` is instant."""
