"""The contract of a callback is Lightning's own."""

from lightning.pytorch.callbacks import Callback

from registry import Registry

CALLBACKS: Registry[Callback] = Registry(
    "callback",
    base=Callback,
    entry_points="sunlab.callbacks",
    components=(
        "sunlab.callbacks.before_after",
        "sunlab.callbacks.ema",
        "sunlab.callbacks.loss_by_time",
        "sunlab.callbacks.sample_images",
        "sunlab.callbacks.throughput",
    ),
)
