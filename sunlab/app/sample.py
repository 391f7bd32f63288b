"""What `sunlab sample` does: a grid of pictures from a base, with an adapter or without."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from sunlab.backbones.locate import is_hub_id
from sunlab.backbones.pretrained import load_base, quiet
from sunlab.diffusion.grid import grid
from sunlab.errors import DataError
from sunlab.export import load_adapter
from sunlab.export.file import locate_adapter, require_file
from sunlab.pipelines.draw import Request, draw, with_adapter, with_guidance
from sunlab.pipelines.effects import scale_of, without_effect
from sunlab.pipelines.picture import grid_image, save_png
from sunlab.precision import AUTO, dtype_on
from sunlab.solvers import SOLVERS, Sampler


def sample_grid(
    *,
    prompts: Sequence[str],
    negatives: Sequence[str],
    seed: int = 0,
    count: int = 4,
    steps: int = 4,
    base: str,
    adapter: str | None = None,
    guidance: float | None = None,
    solver: str | None = None,
    out: str | Path = "grid.png",
) -> Path:
    """A row of `count` pictures for each prompt, the same seeds in every row.

    Args:
        adapter: its file, one of that name inside the package, or a hub id; None: the base with classifier-free guidance.
        guidance: w; None: the adapter's training mean, or 3.
        solver: by name; None: the adapter's, or dpmpp_2m.

    Raises:
        ConfigError: no such base, an unknown solver, or an impossible number of steps.
        DataError: an unusable adapter file, or pictures that are not finite.
    """
    quiet(online=any(map(is_hub_id, filter(None, (base, adapter)))))
    if adapter is not None:
        require_file(locate_adapter(adapter))
    model = load_base(base, dtype=dtype_on(AUTO, "cpu")).freeze()
    if adapter is None:
        bind, name, w, shift = with_guidance(model), "dpmpp_2m", 3.0, 1.0
    else:
        plugged, header = load_adapter(adapter, model.backbone)
        bind, name, w = with_adapter(model, plugged), header.get("solver", "ddim"), scale_of(plugged, header, guidance)
        shift = header.get("shift", 1.0)
        negative = "--negative" if any(negatives) else None
        for sentence in without_effect(plugged, header, scale="--guidance", w=guidance, negative=negative):
            warnings.warn(sentence, stacklevel=2)
    path = model.backbone.path
    sampling = Sampler(SOLVERS.build(solver or name, path, key="--solver"), grid(steps, shift=shift, path=path))
    w = w if guidance is None or adapter is not None else guidance
    rows = []
    for prompt, negative in zip(prompts, negatives, strict=True):
        request = Request([prompt] * count, [negative] * count, range(seed, seed + count))
        rows.append(draw(model, sampling, bind, request, w=w).images)
        if not bool(rows[-1].isfinite().all()):
            raise DataError(f"the pictures of {prompt!r} are not finite at guidance {w:g}; give a smaller one")
    labels = [p + (f" (not: {n})" if n else "") for p, n in zip(prompts, negatives, strict=True)]
    return save_png(grid_image(rows, labels=labels, zoom=2), Path(out))
