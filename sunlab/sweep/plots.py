"""The numbers of a sweep as pictures, with their intervals."""

from collections.abc import Sequence
from io import BytesIO
from math import isfinite

from matplotlib.figure import Figure

from sunlab.evaluation.report import title
from sunlab.sweep.numbers import Number, Row


def plots(rows: Sequence[Row], extractor: str) -> dict[str, bytes]:
    """PNG by name, of one base's rows: each distance by row, and along each axis of numbers that the sweep varied."""
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
    axes.set_yticks(range(len(shown)), [f"{row.name} ({row.passes:.0f} passes)" for row in shown], size=8, parse_math=False)
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
