"""CLIP's tokenizer, from the merges inside the package: a model in one file has none beside it."""

import gzip
import json
from pathlib import Path
from typing import Any

START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 77  # tokens of a padded prompt
ASSETS = Path(__file__).parents[2] / "assets"
MERGES = ASSETS / "clip" / "merges.txt.gz"

Merge = tuple[str, str]


def clip_merges() -> list[Merge]:
    """CLIP's 48,894 merges, first to last."""
    lines = gzip.decompress(MERGES.read_bytes()).decode().splitlines()
    return [(left, right) for left, right in map(str.split, lines)]


def byte_tokens() -> dict[int, str]:
    """byte -> the printable character that stands for it, in the order of CLIP's vocabulary."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def vocabulary(merges: list[Merge]) -> dict[str, int]:
    """Token -> id: all bytes, all bytes at a word's end, the merges, then the two special tokens."""
    letters = list(byte_tokens().values())
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges), START, END]
    return {token: number for number, token in enumerate(tokens)}


def clip_tokenizer(*, pad: str = END) -> Any:
    """transformers' CLIPTokenizer with 49,408 tokens.

    Args:
        pad: the token that pads; OpenCLIP's text encoders (SD 2.x, the second of SDXL) were trained with `!`, id 0.
    """
    from transformers import CLIPTokenizer

    merges = clip_merges()
    return CLIPTokenizer(vocab=vocabulary(merges), merges=merges, pad_token=pad, model_max_length=LENGTH)


def read_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder; if it has no vocabulary, CLIP's with the folder's padding."""
    from transformers import CLIPTokenizer

    if any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        return CLIPTokenizer.from_pretrained(folder)
    settings = folder / "tokenizer_config.json"
    return clip_tokenizer(pad=json.loads(settings.read_text()).get("pad_token", END) if settings.is_file() else END)
