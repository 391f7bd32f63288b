"""A share of the samples, chosen by key."""

from collections.abc import Iterator

from sunlab.data.pipeline import STAGES, Stage
from sunlab.data.sample import Item
from sunlab.draws import keyed_seed
from sunlab.errors import ConfigError


@STAGES.register("subsample")
class Subsample(Stage):
    """Keeps a share of the samples, the same ones in every pass.

    Args:
        share: of the samples that are kept, above 0 and at most 1.
        seed: another one keeps others.
    """

    def __init__(self, *, share: float, seed: int = 0):
        if not 0 < share <= 1:
            raise ConfigError(f"share of the stage subsample is {share}: give a number above 0 and at most 1")
        self.share, self.seed = share, seed

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            if keyed_seed(self.seed, "subsample", item["__key__"]) < self.share * 2**63:
                yield item
