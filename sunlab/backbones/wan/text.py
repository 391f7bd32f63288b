"""Prompts -> UMT5's embeddings, as Wan uses them."""

import html
import re
from collections.abc import Sequence

from sunlab.backbones.pixart.text import PixArtText
from sunlab.types import Conditioning

LENGTH = 512
"""Tokens of a padded prompt."""
SPACES = re.compile(r"\s+")


class WanText(PixArtText):
    """UMT5's last hidden states. Padding is masked in the text model and zeros after it; the transformer attends to it.

    diffusers' pipeline also repairs broken Unicode with ftfy, where it is installed.
    """

    def forward(self, prompts: Sequence[str]) -> Conditioning:
        encoded = super().forward([SPACES.sub(" ", html.unescape(html.unescape(prompt))).strip() for prompt in prompts])
        assert encoded.mask is not None
        return Conditioning(encoded.tokens * encoded.mask[..., None], words=encoded.mask)
