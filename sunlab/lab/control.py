"""The negative control "lab": how far negative prompts suppress backgrounds and sizes."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property

from torch import Tensor

from sunlab.errors import ConfigError
from sunlab.evaluation.control import CONTROLS, NegativeControl
from sunlab.lab.classifier import WEIGHTS, Classifier, judge, load_classifier
from sunlab.packaged import asset

MANIFEST = "emoji/noto/manifest.json"
PHRASES = {"background": "a {} background", "size": "a {} picture"}  # as the lab's captions name each alone
STRIDE = 7  # through the subjects: neighbours in the alphabet are often alike
FIRST_SEED = 5000


@CONTROLS.register("lab")
class LabControl(NegativeControl):
    """Backgrounds and sizes of emoji, judged by the lab's classifier.

    Args:
        pictures: of each kind (N).
        classifier: a file of `tools/train_classifier.py`.
    """

    def __init__(self, *, pictures: int = 64, classifier: str = WEIGHTS):
        if pictures < 1:
            raise ConfigError(f"pictures of the negative control must be at least 1, got {pictures}")
        self.pictures, self.classifier = pictures, classifier

    @property
    def attributes(self) -> Sequence[str]:
        return tuple(PHRASES)

    def prompts(self) -> tuple[Sequence[str], Sequence[int]]:
        subjects = json.loads(asset(MANIFEST).read_text())["subjects"]
        numbers = range(self.pictures)
        return [subjects[(STRIDE * i) % len(subjects)] for i in numbers], [FIRST_SEED + i for i in numbers]

    def negative(self, attribute: str, value: str) -> str:
        return PHRASES[attribute].format(value)

    def shown(self, images: Tensor) -> Mapping[str, Sequence[str]]:
        seen = judge(self._network, images)
        return {attribute: [getattr(one, attribute) for one in seen] for attribute in PHRASES}

    @cached_property
    def _network(self) -> Classifier:
        return load_classifier(self.classifier)
