"""Checkpoints that a crash cannot destroy: written beside their final name, flushed, renamed; read weights-only."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io import TorchCheckpointIO

from sunlab.errors import ConfigError, StorageError


class AtomicCheckpointIO(TorchCheckpointIO):
    """Lightning's checkpoint files, whole or not at all."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _sync_folder(path.parent)
        except OSError as error:
            raise StorageError(f"cannot write the checkpoint {path}: {error}; the previous one is intact") from error
        finally:
            temporary.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        try:
            return torch.load(path, map_location=map_location or "cpu", weights_only=True)
        except FileNotFoundError as error:
            raise StorageError(f"no checkpoint {path}") from error
        except Exception as error:
            raise StorageError(f"{path} is not a readable checkpoint of tensors and plain values: {error}") from error


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def resume_path(resume: str | None, folder: Path) -> Path | None:
    """The checkpoint that `--resume` names: `last` is the newest of the run in `folder`.

    Raises:
        ConfigError: there is none.
    """
    if resume is None:
        return None
    path = folder / "checkpoints" / "last.ckpt" if resume == "last" else Path(resume)
    if not path.is_file():
        raise ConfigError(f"--resume {resume}: no checkpoint at {path}; start the run without --resume")
    return path
