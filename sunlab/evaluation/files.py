"""What an evaluation leaves in its folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sunlab.evaluation.page import page
from sunlab.evaluation.report import markdown, record_of
from sunlab.evaluation.rows import Result
from sunlab.evaluation.sections import Section
from sunlab.files import write_text
from sunlab.pipelines.draw import Request
from sunlab.pipelines.picture import grid_image, save_png

LEGIBLE = 128  # pixels: smaller pictures are drawn larger in the grid


def write_report(
    folder: Path,
    results: Sequence[Result],
    request: Request,
    facts: Mapping[str, Any],
    sections: Sequence[Section] = (),
) -> None:
    """report.json, report.md, report.html, and grid-0.png, grid-1.png, ... of the bases.

    Args:
        request: of the pictures, for the captions of the grid.
        facts: `title`, `extractor`, and further ones to tell.
        sections: further parts.
    """
    facts = {**facts, "pairs": len(request)}
    asked = zip(request.prompts, request.negatives, strict=True)
    captions = [prompt + (f" (not: {negative})" if negative else "") for prompt, negative in asked]
    sheets = []
    for number, result in enumerate(results):
        labels = [f"{row.name}: {row.passes:.0f} passes" for row in result.rows]
        count, _, _, width = result.shown[0].shape
        zoom = max(1, LEGIBLE // width)
        sheets.append(grid_image(result.shown, labels=labels, captions=captions[:count], zoom=zoom))
        save_png(sheets[-1], folder / f"grid-{number}.png")
    files = {
        "report.json": json.dumps(record_of(results, facts, sections), indent=2) + "\n",
        "report.md": markdown(results, facts, sections),
        "report.html": page(results, sheets, facts, sections),
    }
    for name, text in files.items():
        write_text(folder / name, text)
