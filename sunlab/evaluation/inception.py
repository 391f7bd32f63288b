"""The extractor "inception": the network of the published FID and KID, from a local file."""

from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.evaluation.extractors import EXTRACTORS, Extractor
from sunlab.hashing import files_hash

SOURCE = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"


@EXTRACTORS.register("inception")
class Inception(Extractor):
    """Inception v3 of TensorFlow 2015 as torchmetrics and torch-fidelity have it: 2048 numbers after pooling.

    Args:
        file: its weights, torch-fidelity's `weights-inception-2015-12-05-6726825d.pth`.
    """

    label, width = "Inception", 2048

    def __init__(self, *, file: str):
        self.file = Path(file)

    def identity(self) -> str:
        return f"{self.label} {files_hash([self._found()])}"

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        network = self._network.to(images.device)
        return network((images.clamp(0, 1) * 255).round().to(torch.uint8)).float()

    def _found(self) -> Path:
        if not self.file.is_file():
            raise ConfigError(f"evaluate.extractor.file: {self.file} is not there; download it from {SOURCE}")
        return self.file

    @cached_property
    def _network(self) -> Any:
        from torchmetrics.image.fid import NoTrainInceptionV3

        file = self._found()
        try:
            network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file))
        except ModuleNotFoundError:
            raise ConfigError(
                "evaluate.extractor: inception needs torch-fidelity, which is not installed: pip install torch-fidelity"
            ) from None
        return network.requires_grad_(False)
