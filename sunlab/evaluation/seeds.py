"""Several trainings of one method, alike but for the seed: their mean, with an interval over training seeds."""

from collections.abc import Mapping, Sequence
from math import isfinite

from sunlab.evaluation.measures import measures_of
from sunlab.evaluation.report import Section, title
from sunlab.evaluation.rows import Result
from sunlab.evaluation.statistics import half_width

TEXT = (
    "Each number is a mean over trainings that differ in their seed only, ± half of its 95 % interval over them (Student's "
    "t); all of them drew the same pairs from the same noise."
)


def over_seeds(results: Sequence[Result], methods: Mapping[str, str], extractor: str) -> list[Section]:
    """A table of the methods that were trained with several seeds; none where no method was.

    Args:
        methods: name of a row -> the method that it is one training of.
    """
    lines, record = [], []
    columns: list[str] = []
    for result in results:
        rows = {row.name: measures_of(row) for row in result.rows}
        for method in dict.fromkeys(methods.values()):
            own = [rows[name] for name, of in methods.items() if of == method and name in rows]
            if len(own) < 2:
                continue
            columns = [name for name in own[0] if all(name in one for one in own) and name not in ("speedup", "limit")]
            found = {name: [one[name] for one in own] for name in columns}
            means = {name: sum(values) / len(values) for name, values in found.items()}
            errors = {name: half_width(values) for name, values in found.items()}
            record.append({"base": result.base, "method": method, "trainings": len(own), "means": means, "errors": errors})
            lines.append([result.base, method, str(len(own)), *(_cell(means[n], errors[n]) for n in columns)])
    if not lines:
        return []
    header = ["base", "method", "trainings (N)", *(title(name, extractor) for name in columns)]
    return [Section("training_seeds", "Over training seeds", TEXT, [header, *lines], record)]


def _cell(mean: float, error: float) -> str:
    return f"{mean:.4g}" + (f" ± {error:.2g}" if isfinite(error) else "")
