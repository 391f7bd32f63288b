"""A folder of drawn pictures. What is drawn is not drawn again: a file's path says all that makes its picture."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from sunlab.backbones.base import BaseModel
from sunlab.errors import DataError
from sunlab.evaluation.base import Extractor
from sunlab.evaluation.methods import Method, base_identity
from sunlab.evaluation.pairs import other_seeds
from sunlab.files import replacing, write_json
from sunlab.pipelines.draw import Request, draw
from sunlab.pipelines.picture import save_png, to_uint8
from sunlab.progress import Lines


class Gallery:
    """Pictures of one base as PNG, one a file, and the features of them.

    Args:
        folder: of all bases.
        batch: pictures drawn at a time; a run that is stopped loses at most so many.

    Attributes:
        nfe: network evaluations that were spent by this object.
    """

    def __init__(self, folder: Path, base: BaseModel, *, batch: int = 64):
        self.folder, self.base, self.batch, self.nfe = folder, base, batch, 0.0
        self.base_identity = base_identity(base)

    def draw(self, method: Method, request: Request, progress: Lines | None = None) -> list[Path]:
        """The files of the request's pictures, those drawn that were not there. One request names a pair once.

        Args:
            progress: counts the pictures.

        Raises:
            DataError: pictures that are not finite.
        """
        request = request if method.same_seeds else other_seeds(request)
        folder = self.folder / method.identity(self.base_identity)
        paths = [folder / _file(*item) for item in zip(request.prompts, request.negatives, request.seeds, strict=True)]
        missing = [i for i, path in enumerate(paths) if not path.is_file()]
        if progress is not None:
            progress.skip(len(paths) - len(missing))
        if not missing:
            return paths
        with method.bound(self.base) as bind:
            for start in range(0, len(missing), self.batch):
                part = missing[start : start + self.batch]
                wanted = request.chosen(part)
                drawn = draw(self.base, method.sampling, bind, wanted, w=method.w, batch=self.batch)
                self.nfe += drawn.nfe * len(part)
                if progress is not None:
                    progress.add(len(part))
                if strange := [i for i, picture in zip(part, drawn.images, strict=True) if not picture.isfinite().all()]:
                    where = f"{method.name}: the picture of {request.prompts[strange[0]]!r} is not finite"
                    raise DataError(
                        f"{where} at guidance {method.w:g}; give a smaller one, or look at the adapter's training"
                    )
                for i, picture in zip(part, drawn.images, strict=True):
                    save_png(Image.fromarray(to_uint8(picture)), paths[i])
        return paths

    def features(self, paths: Sequence[Path], extractor: Extractor) -> Tensor:
        """(N, D) float32 on the CPU, kept in a file beside the pictures."""
        key = _hash([extractor.identity(), *(path.name for path in paths)])
        file = paths[0].parent / f"features-{key}.safetensors"
        if not file.is_file():
            parts = [paths[i : i + self.batch] for i in range(0, len(paths), self.batch)]
            found = torch.cat([extractor(read(part).to(self.base.device)).float().cpu() for part in parts])
            with replacing(file) as temporary:
                save_file({"features": found.contiguous()}, temporary)
        return load_file(file)["features"]

    def remember(self, name: str, facts: Any, make: Callable[[], Any]) -> Any:
        """A JSON value that was made from the same facts before, or now."""
        file = self.folder / f"{name}-{_hash([self.base_identity, facts])}.json"
        if not file.is_file():
            write_json(file, make())
        return json.loads(file.read_text())


def read(paths: Sequence[Path]) -> Tensor:
    """Pictures (B, 3, H, W) float32 in [0, 1]."""
    pictures = [torch.from_numpy(np.array(Image.open(path).convert("RGB"))) for path in paths]
    return torch.stack(pictures).permute(0, 3, 1, 2).float() / 255


def _file(prompt: str, negative: str, seed: int) -> str:
    return f"{_hash([prompt, negative, seed])}.png"


def _hash(facts: Any) -> str:
    return sha256(json.dumps(facts).encode()).hexdigest()[:20]
