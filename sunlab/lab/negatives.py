"""Negative prompts of the lab: the usual mixture, whose pool names backgrounds and sizes too."""

from sunlab.data.negatives import COMMON, NEGATIVES, Mixture

COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
ATTRIBUTES = (*(f"{colour} background" for colour in COLOURS), "small", "large")


@NEGATIVES.register("lab")
class LabMixture(Mixture):
    """The mixture over common negative prompts, "red background", "small" and the like.

    Args:
        empty, pool, captions, keywords: weights, as in "mixture".
    """

    def __init__(self, *, empty: float = 0.25, pool: float = 0.25, captions: float = 0.25, keywords: float = 0.25):
        prompts = [*COMMON, *ATTRIBUTES]
        super().__init__(empty=empty, pool=pool, captions=captions, keywords=keywords, prompts=prompts)
