"""The counter-based generator Philox-4x32-10 (Salmon, Moraes, Dror and Shaw, SC 2011; library Random123): four random words
from a counter and a key, in integer operations on the key's device."""

from torch import Tensor

Word = Tensor | int
"""A 32-bit word, or a tensor of them; int64, 0 ... 2^32 - 1."""

LOW = 0xFFFFFFFF
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85  # what is added to the key between rounds
ROUNDS = 10


def philox(counter: tuple[Word, Word, Word, Word], key: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    """Four words for each counter and key, which are broadcast against each other.

    A product of two words wraps around in int64, but its bits are those of the unsigned product.
    """
    a, b, c, d = counter
    k, l = key  # noqa: E741
    for number in range(ROUNDS):
        if number:
            k, l = (k + WEYL[0]) & LOW, (l + WEYL[1]) & LOW  # noqa: E741
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (second >> 32) & LOW ^ b ^ k, second & LOW, (first >> 32) & LOW ^ d ^ l, first & LOW
    return a, b, c, d  # type: ignore[return-value]
