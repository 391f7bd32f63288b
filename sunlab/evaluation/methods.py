"""One way to draw, with all that makes its pictures."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sunlab.adapters.strength import Strength
from sunlab.backbones.base import BaseModel
from sunlab.export import attach_untrained, load_adapter
from sunlab.hashing import files_hash
from sunlab.pipelines.draw import Bind, with_adapter, with_guidance
from sunlab.solvers import Sampler


@dataclass(frozen=True)
class Method:
    """A sampler over the base, with classifier-free guidance or an adapter or neither.

    Attributes:
        name: of its row.
        sampling, w: see `draw`.
        solver: the component's name and parameters.
        adapter: its file; None: classifier-free guidance.
        over: an adapter that is not trained, by name and parameters: on top of the file's, or on the base alone, which is
            then drawn in one pass without guidance.
        same_seeds: False: the same pairs with other noise.
        strength: of the adapter.
    """

    name: str
    sampling: Sampler
    w: float
    solver: Mapping[str, Any]
    adapter: Path | None = None
    over: Mapping[str, Any] | None = None
    same_seeds: bool = True
    strength: Strength = field(default_factory=Strength)

    @property
    def guided(self) -> bool:
        """Whether it is the base itself with classifier-free guidance; at w = 1 there is none."""
        return self.adapter is None and self.over is None and self.w != 1

    def identity(self, base: str) -> str:
        """Hash of all that makes its pictures but prompts and seeds. Args: base, its identity."""
        facts = {
            "base": base,
            "adapter": self.adapter and files_hash([self.adapter]),
            "solver": dict(self.solver),
            "times": self.sampling.times.tolist(),
            "w": self.w,
            **({} if self.over is None else {"over": dict(self.over)}),
            **({} if self.strength == Strength() else {"strength": asdict(self.strength)}),
        }
        return sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]

    @contextmanager
    def bound(self, base: BaseModel) -> Iterator[Bind]:
        """The base drawing in this way; afterwards it is as it was. Raises `DataError` for an unusable adapter file."""
        if self.adapter is not None:
            adapter, _ = load_adapter(self.adapter, base.backbone, over=self.over)
        elif self.over is not None:
            adapter = attach_untrained(self.over, base.backbone)
        else:
            yield with_guidance(base)
            return
        try:
            yield with_adapter(base, adapter.to(base.device), self.strength)
        finally:
            adapter.detach()


def base_identity(base: BaseModel) -> str:
    """Hash of every file of the base that has a part in its pictures, and of the type that it is computed in."""
    dtype = next(base.backbone.parameters()).dtype
    return sha256(f"{base.identity()} {dtype}".encode()).hexdigest()[:16]
