"""What `sunlab sweep collect` writes: table.md, table.csv, table.json, report.html and plots of the runs that are done."""

import csv
import json
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from io import BytesIO, StringIO
from math import isfinite
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from sunlab.evaluation.page import STYLE
from sunlab.evaluation.report import title
from sunlab.files import read_json, write_bytes, write_text
from sunlab.sweep.folder import run_folder
from sunlab.sweep.grid import Run
from sunlab.sweep.numbers import Number, Row, gather
from sunlab.sweep.record import RunState
from sunlab.sweep.survey import Standing

READING = (
    "Every distance is to the teacher's picture of the same prompt, negative prompt and seed; the share in brackets is of "
    "the distance between two of the teacher's own pictures of other seeds. ± is half of a 95 % interval: over training "
    "seeds where a row has several (Student's t), else over disjoint subsets of its pairs, marked *. Differences are "
    "paired: by training seed, else by subset. The cost of a training is the mean over its runs; an evaluation of the "
    "teacher, of a target or of the student counts one, a backward pass two."
)
COLUMNS = ("base", "label", "variant", "seeds", "nfe", "name", "mean", "error", "over", "share")
FURTHER = ("minus_baseline", "minus_baseline_error", "minus_baseline_over")


def collect(
    folder: Path, runs: Sequence[Run], standings: Mapping[str, Standing], *, baseline: str | None = None
) -> list[Path]:
    """Write the files. Runs that are not done are named above the table and not counted.

    Args:
        baseline: see `gather`.

    Returns:
        The files.
    """
    rows = gather(folder, runs, standings, baseline)
    extractor, pairs = _facts(folder, runs, standings)
    notes = [_progress(standings), *_unfinished(standings)]
    if pairs:
        notes.append(f"N = {pairs} pairs of prompts and negative prompts a row and training seed.")
    by_base = {base: [row for row in rows if row.base == base] for base in dict.fromkeys(row.base for row in rows)}
    tables = {base: cells_of(part, extractor, baseline) for base, part in by_base.items()}
    drawn: dict[str, bytes] = {}
    for number, part in enumerate(by_base.values()):
        drawn |= {f"plot-{number}-{name}.png": png for name, png in plots(part, extractor).items()}
    states = Counter(standing.state for standing in standings.values())
    texts = {
        "table.md": markdown(folder.name, notes, tables),
        "table.csv": to_csv(rows),
        "table.json": to_json(rows, {"states": dict(states), "extractor": extractor, "pairs": pairs, "baseline": baseline}),
        "report.html": page(folder.name, notes, tables, drawn),
    }
    for old in set(folder.glob("plot-*.png")) - {folder / name for name in drawn}:
        old.unlink()
    for name, text in texts.items():
        write_text(folder / name, text)
    for name, png in drawn.items():
        write_bytes(folder / name, png)
    return [folder / name for name in [*texts, *drawn]]


def page(heading: str, notes: Sequence[str], tables: Mapping[str, list[list[str]]], drawn: Mapping[str, bytes]) -> str:
    """One HTML file without external resources."""
    body = [f"<h1>{escape(heading)}</h1>", *(f"<p>{escape(line)}</p>" for line in (*notes, READING))]
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
    done = counts.pop(RunState.DONE, 0)
    others = "".join(f", {count} {state}" for state, count in counts.items())
    return f"{done} of {len(standings)} runs are done{others}; the table shows those that are done."


def _unfinished(standings: Mapping[str, Standing]) -> list[str]:
    broken = [s for s in standings.values() if RunState(s.state).is_error]
    return [f"{standing.run.name} ({standing.run.id}) {standing.state}: {standing.error}" for standing in broken]


def _facts(folder: Path, runs: Sequence[Run], standings: Mapping[str, Standing]) -> tuple[str, int | None]:
    """The extractor's label and the number of pairs, of the first run that was evaluated."""
    for run in runs:
        if standings[run.id].state == RunState.DONE:
            found = (read_json(run_folder(folder, run) / "metrics.json") or {}).get("evaluation")
            if found:
                return found["extractor"], found["pairs"]
    return "", None


def cells_of(rows: Sequence[Row], extractor: str, baseline: str | None) -> list[list[str]]:
    """Header and lines of one base's rows, as text."""
    fullest = sorted(rows, key=lambda row: -len(row.numbers))  # distances come first; the teacher's own row has none
    names = list(dict.fromkeys(name for row in fullest for name in row.numbers))
    beside = list(dict.fromkeys(name for row in rows for name in row.beside))
    header = ["", "seeds", "NFE", *(title(name, extractor) for name in names)]
    header += [f"{title(name, extractor)}, minus {baseline}" for name in beside]
    lines = [header]
    for row in rows:
        line = [row.name, "–" if row.reference else str(len(row.seeds)), f"{row.nfe:.0f}"]
        line += [text(row.numbers.get(name)) for name in names]
        lines.append(line + [text(row.beside.get(name), signed=True) for name in beside])
    return lines


def text(number: Number | None, *, signed: bool = False) -> str:
    if number is None or not isfinite(number.mean):
        return "–"
    shown = f"{number.mean:{'+' if signed else ''}.4g}"
    if isfinite(number.error):
        shown += f" ± {number.error:.2g}" + ("*" if number.over == "pairs" else "")
    return f"{shown} ({number.share:.1%})" if isfinite(number.share) else shown


def markdown(heading: str, notes: Sequence[str], tables: Mapping[str, list[list[str]]]) -> str:
    """Args: notes, lines above the tables; tables, by base."""
    lines = [f"# {heading}", "", *(line for item in notes for line in (item, "")), READING]
    for base, (header, *rows) in tables.items():
        lines += ["", f"## {base}", "", _line(header), "|" + "---|" * len(header), *map(_line, rows)]
    return "\n".join(lines) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """One line a number."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *FURTHER])
    for row in rows:
        for name, number in row.numbers.items():
            line = [row.base, row.label, row.variant, len(row.seeds), row.nfe, name, *_number(number)]
            beside = row.beside.get(name)
            writer.writerow([*line, _known(number.share), *(_number(beside) if beside else ("", "", ""))])
    return out.getvalue()


def _number(number: Number) -> tuple[float | str, float | str, str]:
    return _known(number.mean), _known(number.error), number.over


def to_json(rows: Sequence[Row], facts: Mapping[str, Any]) -> str:
    return json.dumps(_finite({**facts, "rows": [asdict(row) for row in rows]}), indent=2) + "\n"


def _known(value: float) -> float | str:
    return value if isfinite(value) else ""


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value


def plots(rows: Sequence[Row], extractor: str) -> dict[str, bytes]:
    """PNG by name, of one base's rows: each distance by row, and over each numeric axis of the sweep."""
    names = [n for n in dict.fromkeys(n for row in rows for n in row.numbers) if any(_has_share(row, n) for row in rows)]
    drawn = {name: _by_row(rows, name, extractor) for name in names}
    for axis in dict.fromkeys(axis for row in rows for axis in row.axes):
        varied = [row for row in rows if _is_number(row.axes.get(axis))]
        if len({row.axes[axis] for row in varied}) > 1:
            drawn |= {f"{name}-{axis}": _along(varied, axis, name, extractor) for name in names}
    return drawn


def _by_row(rows: Sequence[Row], name: str, extractor: str) -> bytes:
    shown = [row for row in rows if name in row.numbers and isfinite(row.numbers[name].mean)]
    figure = Figure(figsize=(8, 0.8 + 0.32 * len(shown)), layout="constrained")
    axes = figure.add_subplot()
    for place, row in enumerate(shown):
        number = row.numbers[name]
        colour = "grey" if row.reference else "C0"
        axes.errorbar(number.mean, place, xerr=_bar(number), fmt="o", capsize=3, color=colour)
        if len(number.each) > 1:
            axes.plot(list(number.each.values()), [place] * len(number.each), "|", color=colour, markersize=9)
    axes.set_yticks(range(len(shown)), [f"{row.name} ({row.nfe:.0f} NFE)" for row in shown], size=8, parse_math=False)
    axes.invert_yaxis()
    axes.set(xlabel=title(name, extractor), xlim=(0, None))
    axes.grid(axis="x", linewidth=0.4)
    return _png(figure)


def _along(rows: Sequence[Row], axis: str, name: str, extractor: str) -> bytes:
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    lines: dict[str, list[Row]] = {}
    for row in rows:
        if name in row.numbers:
            others = ", ".join(f"{k}={v}" for k, v in row.axes.items() if k != axis)
            group = row.label.partition(f"{axis}=")[0].rstrip(", ")
            lines.setdefault(
                ", ".join(filter(None, (group, others if others not in group else "", row.variant))), []
            ).append(row)
    for label, line in lines.items():
        line = sorted(line, key=lambda row: row.axes[axis])
        numbers = [row.numbers[name] for row in line]
        bars = [number.error if isfinite(number.error) else 0.0 for number in numbers]
        where = [row.axes[axis] for row in line]
        axes.errorbar(where, [n.mean for n in numbers], yerr=bars, fmt="o-", capsize=3, label=label)
    axes.set(xlabel=axis, ylabel=title(name, extractor), ylim=(0, None))
    for text in axes.legend(fontsize=8).get_texts():
        text.set_parse_math(False)
    return _png(figure)


def _bar(number: Number) -> float | None:
    return number.error if isfinite(number.error) else None


def _has_share(row: Row, name: str) -> bool:
    return name in row.numbers and isfinite(row.numbers[name].share)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _png(figure: Figure) -> bytes:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
