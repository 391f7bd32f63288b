"""Data: from shards or stored trajectories to `Samples`, in an order that does not depend on ranks or dataloader workers.
Open `base.py`, the contract of a source, first, then `shards.py` and `datamodule.py`."""
