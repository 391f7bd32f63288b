"""A hash of files' contents, which identifies weights."""

from collections.abc import Sequence
from hashlib import file_digest, sha256
from pathlib import Path


def files_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the files' contents, in the order given."""
    digest = sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(file_digest(opened, "sha256").digest())
    return digest.hexdigest()
