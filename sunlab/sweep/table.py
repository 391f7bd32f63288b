"""The table of a sweep: Markdown, CSV, JSON."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from io import StringIO
from math import isfinite
from typing import Any

from sunlab.evaluation.report import title
from sunlab.sweep.numbers import Number, Row

READING = (
    "Every distance is to the teacher's picture of the same prompt, negative prompt and seed; the share in brackets is of "
    "the distance between two of the teacher's own pictures of other seeds. ± is half of a 95 % interval: over training "
    "seeds where a row has several (Student's t), else over disjoint subsets of its pairs, marked *. Differences are "
    "paired: by training seed, else by subset. What a training cost is of the mean run; the passes of the teacher, of "
    "targets and of the student count one, a backward pass two."
)


def cells_of(rows: Sequence[Row], extractor: str, baseline: str | None) -> list[list[str]]:
    """Header and lines of one base's rows, as text."""
    fullest = sorted(rows, key=lambda row: -len(row.numbers))  # distances come first; the teacher's own row has none
    names = list(dict.fromkeys(name for row in fullest for name in row.numbers))
    beside = list(dict.fromkeys(name for row in rows for name in row.beside))
    header = ["", "seeds", "U-Net passes", *(title(name, extractor) for name in names)]
    header += [f"{title(name, extractor)}, minus {baseline}" for name in beside]
    lines = [header]
    for row in rows:
        line = [row.name, "–" if row.reference else str(len(row.seeds)), f"{row.passes:.0f}"]
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


def markdown(heading: str, told: Sequence[str], tables: Mapping[str, list[list[str]]]) -> str:
    """Args: told, lines above the tables; tables, by base."""
    lines = [f"# {heading}", "", *(line for item in told for line in (item, "")), READING]
    for base, (header, *rows) in tables.items():
        lines += ["", f"## {base}", "", _line(header), "|" + "---|" * len(header), *map(_line, rows)]
    return "\n".join(lines) + "\n"


COLUMNS = ("base", "label", "variant", "seeds", "passes", "name", "mean", "error", "over", "share")
FURTHER = ("minus_baseline", "minus_baseline_error", "minus_baseline_over")


def to_csv(rows: Sequence[Row]) -> str:
    """One line a number."""
    out = StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS, *FURTHER])
    for row in rows:
        for name, number in row.numbers.items():
            line = [row.base, row.label, row.variant, len(row.seeds), row.passes, name, *_number(number)]
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
