"""One family of trials a file, in the order of the report."""

MODULES = (
    "load",
    "kills",
    "precompute",
    "bytes",
    "shards",
    "captions",
    "hostile",
    "pictures",
    "death",
    "saving",
    "resuming",
    "untrusted",
)
