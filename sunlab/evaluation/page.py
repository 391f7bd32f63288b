"""The files of a report: one HTML page that opens from disk (tables, pictures and curves inside it, nothing fetched), JSON,
Markdown and the grids of pictures."""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL.Image import Image

from sunlab.evaluation.report import READING, Section, markdown, png, record_of, table_of, title
from sunlab.evaluation.rows import Result
from sunlab.files import write_text
from sunlab.pipelines.draw import Request
from sunlab.pipelines.picture import grid_image, save_png

STYLE = """
body { font: 15px/1.5 sans-serif; margin: 2rem auto; max-width: 90rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0; display: block; overflow-x: auto; font-size: 13px }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: right; white-space: nowrap }
th { white-space: normal; vertical-align: bottom }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff }
img { max-width: 100%; height: auto; image-rendering: pixelated }
.warning { background: #fff4d6; padding: .4rem .8rem }
"""


def page(
    results: Sequence[Result],
    sheets: Sequence[Mapping[str, Image]],
    facts: Mapping[str, Any],
    sections: Sequence[Section] = (),
) -> str:
    """The report.

    Args:
        results: one a base.
        sheets: the grids of pictures of each, by what they show.
        facts: `title`, `pairs`, `extractor`, and further ones to tell.
        sections: further parts; they come first.
    """
    body = [f"<h1>{escape(str(facts['title']))}</h1>", f"<p>{facts['pairs']} pairs a row (N). {escape(READING)}</p>"]
    for section in sections:
        body += [f"<h2>{escape(section.title)}</h2>", f"<p>{escape(section.text)}</p>", _table(section.table)]
        body += [_picture(figure, section.title) for figure in section.figures]
    for result, sheet in zip(results, sheets, strict=True):
        body += [f"<h2>{escape(result.base)}</h2>"]
        body += [f'<p class="warning">{escape(warning)}</p>' for warning in result.warnings]
        body += [_table(table_of(result, facts["extractor"]))]
        for what, image in sheet.items():
            body += [f"<p>{escape(what)}:</p>", _picture(image, what)]
        body += [_picture(curve, "distance over NFE") for curve in _curves(result, facts["extractor"])]
    lines = [[str(key), str(value)] for key, value in facts.items()]
    body += ["<h2>How it was made</h2>", _table([["", ""], *lines])]
    head = f'<meta charset="utf-8"><title>{escape(str(facts["title"]))}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(lines: Sequence[Sequence[str]]) -> str:
    header, *rows = lines
    html = ["<tr>" + "".join(f"<th>{escape(cell)}</th>" for cell in header) + "</tr>"]
    html += ["<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    return "<table>" + "".join(html) + "</table>"


def _picture(image: Image | bytes, what: str) -> str:
    if isinstance(image, bytes):
        data = image
    else:
        buffer = BytesIO()
        image.save(buffer, format="PNG")
        data = buffer.getvalue()
    return f'<p><img alt="{escape(what)}" src="data:image/png;base64,{b64encode(data).decode()}"></p>'


def _curves(result: Result, extractor: str) -> list[bytes]:
    """For each paired distance: the rows over their NFE, the teacher's own as lines. PNG."""
    names = dict.fromkeys(name for row in result.rows for name, value in row.values.items() if value.paired)
    drawn = []
    for name in names:
        figure = Figure(figsize=(7, 4), layout="constrained")
        axes = figure.add_subplot()
        for row in result.rows[1:]:
            value = row.values[name]
            if row.reference:
                axes.axhline(value.value, linestyle="--", color="grey", linewidth=1)
                axes.annotate(
                    row.name, (1, value.value), xycoords=("axes fraction", "data"), ha="right", va="bottom", size=8
                )
            else:
                error = value.error if value.error == value.error else None  # NaN: no interval
                axes.errorbar(row.nfe, value.value, yerr=error, fmt="o", capsize=3)
                axes.annotate(f" {row.name}", (row.nfe, value.value), size=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        furthest = max((row.nfe for row in result.rows[1:] if not row.reference), default=1)
        axes.set(xlabel="NFE a picture", ylabel=title(name, extractor), xlim=(0, 1.5 * furthest), ylim=(0, None))
        drawn.append(png(figure))
    return drawn


LEGIBLE = 128  # pixels: smaller pictures are drawn larger in the grid


def write_report(
    folder: Path,
    results: Sequence[Result],
    request: Request,
    facts: Mapping[str, Any],
    sections: Sequence[Section] = (),
) -> None:
    """report.json, report.md, report.html; of the bases grid-0.png, grid-1.png, ..., and worst-0.png, ... where the protocol
    shows the worst pairs.

    Args:
        request: of the pictures, for the captions of the grid.
        facts: `title`, `extractor`, and further ones to tell.
        sections: further parts.
    """
    facts = {**facts, "pairs": len(request)}
    pairs = zip(request.prompts, request.negatives, strict=True)
    captions = [prompt + (f" (not: {negative})" if negative else "") for prompt, negative in pairs]
    sheets: list[dict[str, Image]] = []
    for number, result in enumerate(results):
        labels = [f"{row.name}: {row.nfe:.0f} NFE" for row in result.rows]
        count, _, _, width = result.shown[0].shape
        zoom = max(1, LEGIBLE // width)
        grid = grid_image(result.shown, labels=labels, captions=captions[:count], zoom=zoom)
        save_png(grid, folder / f"grid-{number}.png")
        sheets.append({"Pictures of each row, same seeds": grid})
        if result.worst:
            variants = len(result.farthest) - 1
            named = [labels[0], *labels[-variants:]]
            told = [captions[pair] for pair in result.worst]
            worst = grid_image(result.farthest, labels=named, captions=told, zoom=zoom)
            save_png(worst, folder / f"worst-{number}.png")
            sheets[-1][f"The pairs at which {result.rows[-variants].name} is farthest from the teacher"] = worst
    files = {
        "report.json": json.dumps(record_of(results, facts, sections), indent=2) + "\n",
        "report.md": markdown(results, facts, sections),
        "report.html": page(results, sheets, facts, sections),
    }
    for name, text in files.items():
        write_text(folder / name, text)
