"""Extractors and alignments keep their contracts. Those that need a package or a folder are skipped where it is missing."""

import pytest

from sunlab.errors import ConfigError
from sunlab.evaluation.base import EXTRACTORS
from sunlab.testing import AlignmentContract, ExtractorContract


class TestLab(AlignmentContract):
    component = "lab"


class TestEffnet(ExtractorContract):
    component = "effnet_lite0"

    @pytest.fixture(autouse=True)
    def installed(self):
        try:
            _ = EXTRACTORS.build(self.component).identity()
        except ConfigError as error:
            pytest.skip(str(error))
