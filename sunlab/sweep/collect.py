"""What a sweep has found so far, in one table; written again whenever it is asked for."""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from sunlab.evaluation.page import STYLE
from sunlab.files import read_json, write_bytes, write_text
from sunlab.sweep.folder import run_folder
from sunlab.sweep.grid import Run
from sunlab.sweep.numbers import gather
from sunlab.sweep.plots import plots
from sunlab.sweep.survey import Standing
from sunlab.sweep.table import READING, cells_of, markdown, to_csv, to_json


def collect(
    folder: Path, runs: Sequence[Run], standings: Mapping[str, Standing], *, baseline: str | None = None
) -> list[Path]:
    """Write table.md, table.csv, table.json, report.html and the plots. A run that is not done is told, never counted.

    Args:
        baseline: see `gather`.

    Returns:
        The files.
    """
    rows = gather(folder, runs, standings, baseline)
    extractor, pairs = _facts(folder, runs, standings)
    told = [_progress(standings), *_unfinished(standings)]
    if pairs:
        told.append(f"N = {pairs} pairs of prompts and negative prompts a row and training seed.")
    by_base = {base: [row for row in rows if row.base == base] for base in dict.fromkeys(row.base for row in rows)}
    tables = {base: cells_of(part, extractor, baseline) for base, part in by_base.items()}
    drawn: dict[str, bytes] = {}
    for number, part in enumerate(by_base.values()):
        drawn |= {f"plot-{number}-{name}.png": png for name, png in plots(part, extractor).items()}
    states = Counter(standing.state for standing in standings.values())
    texts = {
        "table.md": markdown(folder.name, told, tables),
        "table.csv": to_csv(rows),
        "table.json": to_json(rows, {"states": dict(states), "extractor": extractor, "pairs": pairs, "baseline": baseline}),
        "report.html": page(folder.name, told, tables, drawn),
    }
    for old in set(folder.glob("plot-*.png")) - {folder / name for name in drawn}:
        old.unlink()
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, png in drawn.items():
        write_bytes(folder / name, png)
    return [folder / name for name in [*texts, *drawn]]


def page(heading: str, told: Sequence[str], tables: Mapping[str, list[list[str]]], drawn: Mapping[str, bytes]) -> str:
    """One HTML file that opens from disk."""
    body = [f"<h1>{escape(heading)}</h1>", *(f"<p>{escape(line)}</p>" for line in (*told, READING))]
    for number, (base, lines) in enumerate(tables.items()):
        body.append(f"<h2>{escape(base)}</h2><table>")
        for place, line in enumerate(lines):
            tag = "td" if place else "th"
            body.append("<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line) + "</tr>")
        body.append("</table>")
        for name, png in drawn.items():
            if name.startswith(f"plot-{number}-"):
                data = b64encode(png).decode()
                body.append(f'<p><img alt="{escape(name)}" src="data:image/png;base64,{data}"></p>')
    head = f'<meta charset="utf-8"><title>{escape(heading)}</title><style>{STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _progress(standings: Mapping[str, Standing]) -> str:
    counts = Counter(standing.state for standing in standings.values())
    done = counts.pop("done", 0)
    others = "".join(f", {count} {state}" for state, count in counts.items())
    return f"{done} of {len(standings)} runs are done{others}; the table is of those that are done."


def _unfinished(standings: Mapping[str, Standing]) -> list[str]:
    broken = [s for s in standings.values() if s.state in ("failed", "skipped")]
    return [f"{standing.run.name} ({standing.run.id}) {standing.state}: {standing.error}" for standing in broken]


def _facts(folder: Path, runs: Sequence[Run], standings: Mapping[str, Standing]) -> tuple[str, int | None]:
    """The extractor's label and the number of pairs, of the first run that was evaluated."""
    for run in runs:
        if standings[run.id].state == "done":
            found = (read_json(run_folder(folder, run) / "metrics.json") or {}).get("evaluation")
            if found:
                return found["extractor"], found["pairs"]
    return "", None
