"""Prompts that are longer than a text encoder takes: the warning that names what was cut."""

import warnings
from typing import Any

LINES = 20  # prompts that are named; the others are counted, so that web captions do not flood a log


class CutPrompts:
    """Warns of cut prompts, once a prompt: of the first `LINES` by name, then of their number at 100, 1,000, 10,000, ..."""

    def __init__(self) -> None:
        self.named: set[str] = set()
        self.count = 0

    def check(self, tokenizer: Any, prompt: str, length: int | None = None) -> None:
        """Warn if the prompt is cut to `length` tokens, by default the tokenizer's own."""
        length = int(tokenizer.model_max_length) if length is None else length
        ids = tokenizer(prompt, truncation=False, verbose=False).input_ids
        if len(ids) <= length or prompt in self.named:
            return
        self.count += 1
        if len(self.named) < LINES:
            self.named.add(prompt)
            last = "; from now on cut prompts are only counted" if len(self.named) == LINES else ""
            start = prompt if len(prompt) <= 60 else f"{prompt[:60]}..."
            end = int(ids[-1] == tokenizer.eos_token_id)
            rest = tokenizer.decode(ids[length - end : len(ids) - end]).strip()
            warnings.warn(f"the prompt {start!r} is cut to {length} tokens, without its end {rest!r}{last}", stacklevel=4)
        elif self.count >= 100 and str(self.count).strip("0") == "1":
            warnings.warn(f"{self.count:,} prompts were cut to {length} tokens so far", stacklevel=4)
