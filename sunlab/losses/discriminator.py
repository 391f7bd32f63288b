"""A discriminator over a frozen network's hidden states."""

from torch import Tensor, nn


class Discriminator(nn.Module):
    """A small network on each token of the hidden states in the middle of the frozen base.

    Args:
        hidden: width h of the hidden states.
        width: of its own.
    """

    def __init__(self, hidden: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits (B, P) of hidden states (B, P, h): high for real ones."""
        logits: Tensor = self.layers(hidden.to(next(self.parameters()).dtype))
        return logits.squeeze(-1)
