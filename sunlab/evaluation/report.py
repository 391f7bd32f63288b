"""The results as plain values and as tables (JSON, Markdown), with further sections."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from io import BytesIO
from math import isfinite
from typing import Any

from matplotlib.figure import Figure

from sunlab.evaluation.comparison import Value
from sunlab.evaluation.rows import Result, Row
from sunlab.evaluation.statistics import Against


@dataclass(frozen=True)
class Section:
    """One part.

    Attributes:
        name: its key in the JSON.
        title, text: above the table.
        table: header and lines of cells.
        record: its value in the JSON, plain values.
        figures: PNG.
    """

    name: str
    title: str
    text: str
    table: Sequence[Sequence[str]]
    record: Any
    figures: Sequence[bytes] = field(default_factory=tuple, repr=False)


def png(figure: Figure) -> bytes:
    """The figure as a file's bytes."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()


TITLES = {
    "paired_features": "feature distance",
    "paired_l2": "pixel distance",
    "psnr": "PSNR, dB",
    "kid_x1000": "KID x 1000, unbiased",
    "background": "background right",
    "size": "size right",
    "clip_score": "CLIP score",
}
GUESSES = {"_top1": "right", "_top5": "among five guesses"}  # endings of names: of a classifier's first guesses
READING = (
    "Every distance is to the first row, from the same prompts, negative prompts and seeds; the share in brackets is of the "
    "distance between two of the teacher's own pictures of other seeds. The row of more steps shows the error of the first "
    "row's solver. ± is half of a 95 % interval from disjoint subsets of the pairs. Frechet distances are biased by N and "
    "have no interval; their principal components are fitted on the pictures of the first row. Negative control: how "
    "often a background or size that the first row draws with an empty negative prompt is drawn with an empty one, and with "
    "one that names it; in brackets the relative drop, as a share of the first row's. The limit of a speed-up is that of "
    "the bare network evaluations, timed in the same run: of batch 2 under guidance, else of batch 1."
)


def record_of(results: Sequence[Result], facts: Mapping[str, Any], sections: Sequence[Section] = ()) -> dict[str, Any]:
    """Everything but the pictures, ready for JSON; NaN and infinity become null."""
    bases = [
        {"base": r.base, "nfe_spent": r.nfe, "warnings": list(r.warnings), "rows": [asdict(row) for row in r.rows]}
        for r in results
    ]
    return _finite({**facts, **{section.name: section.record for section in sections}, "bases": bases})


def table_of(result: Result, extractor: str) -> list[list[str]]:
    """Header and lines of cells. Args: extractor, the label of its features."""
    names = list(dict.fromkeys(name for row in result.rows for name in row.values))
    rivals = list(dict.fromkeys(name for row in result.rows for name in row.against))
    judged = list(dict.fromkeys(name for row in result.rows for name in row.alignment))
    controls = list(dict.fromkeys(name for row in result.rows for name in row.controls))
    header = ["", "NFE", "s / picture, of N", "speed-up, of its limit", *(title(name, extractor) for name in names)]
    header += [f"{title(name, extractor)} beside CFG at equal NFE" for name in rivals]
    header += [title(name, extractor) for name in judged]
    lines = [header + [f"negative control, {name}" for name in controls]]
    for row in result.rows:
        cells = [
            row.name,
            f"{row.nfe:.0f}",
            f"{row.seconds:.4f} of {row.timed}",
            f"{row.speedup:.1f}x of {row.limit:.1f}x",
        ]
        cells += [_cell(row.values.get(name)) for name in names]
        cells += [_beside(row.against.get(name)) for name in rivals]
        cells += [_aligned(name, row.alignment.get(name)) for name in judged]
        lines.append(cells + [_controlled(row, name) for name in controls])
    return lines


def title(name: str, extractor: str) -> str:
    """A value's name in a table. A Frechet distance names its extractor; only Inception's is an FID."""
    name, _, kind = name.partition(".")
    if kind:
        return f"{title(name, extractor)}, {kind}" if name != "control" else f"negative control, {kind}"
    if name == "fd":
        return "FID" if extractor == "Inception" else f"FD-{extractor}"
    if name.startswith("fd_"):
        return f"FD-{extractor}, {name.removeprefix('fd_').removesuffix('pc')} components"
    for ending, label in GUESSES.items():
        if name.endswith(ending):
            return f"{name.removesuffix(ending).replace('_', ' ')} {label}"
    return TITLES.get(name, name.replace("_", " "))


def markdown(results: Sequence[Result], facts: Mapping[str, Any], sections: Sequence[Section] = ()) -> str:
    lines = [f"# {facts['title']}", "", f"{facts['pairs']} pairs a row (N). {READING}"]
    for section in sections:
        lines += ["", f"## {section.title}", "", section.text, "", *_table(section.table)]
    for result in results:
        lines += ["", f"## {result.base}", "", *_table(table_of(result, facts["extractor"])), ""]
        lines += [f"- {warning}" for warning in result.warnings]
    return "\n".join(lines).rstrip() + "\n"


def _table(cells: Sequence[Sequence[str]]) -> list[str]:
    header, *rows = cells
    return [_line(header), "|" + "---|" * len(header), *map(_line, rows)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _cell(value: Value | None) -> str:
    if value is None:
        return "–"
    text = f"{value.value:.4g}" + (f" ± {value.error:.2g}" if isfinite(value.error) else "")
    return f"{text} ({value.share:.1%})" if isfinite(value.share) else text


def _aligned(name: str, value: Value | None) -> str:
    if value is None:
        return "–"
    numbers = (value.value, value.error)
    shown, spread = (f"{n:.2f}" if name == "clip_score" else f"{n:.1%}" for n in numbers)
    return shown + (f" ± {spread}" if isfinite(value.error) else "") + f" of {value.pairs}"


def _beside(beside: Against | None) -> str:
    return beside.text if beside else "–"


def _controlled(row: Row, attribute: str) -> str:
    control = row.controls.get(attribute)
    if control is None:
        return "–"
    text = f"{control.empty:.0%} → {control.named:.0%} of {control.pictures}"
    share = row.control_shares[attribute]
    return f"{text} ({share:.0%})" if isfinite(share) else text


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not isfinite(value) else value
