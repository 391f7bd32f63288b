"""Which weights are these?"""

from collections.abc import Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path

import torch
from torch import Tensor


def state_hash(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, types, shapes and values, in the order of the names."""
    digest = sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.numel():
            digest.update(flat.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def files_hash(files: Sequence[Path]) -> str:
    """SHA-256 over the files' contents, in the order given."""
    digest = sha256()
    for file in files:
        with file.open("rb") as opened:
            digest.update(file_digest(opened, "sha256").digest())
    return digest.hexdigest()
