"""What the trials found, as JSON and as a table."""

import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

import sunlab
from fault_injection.trial import Result

UNSEEN = (
    "NCCL's own hangs and timeouts (ranks talk over gloo on one machine here)",
    "a loss of power, a disk that lies about fsync, a network file system that serves old bytes",
    "a CUDA device that falls off the bus, or memory of it that is corrupted",
)
"""What a CPU and gloo cannot show."""


def to_json(results: Sequence[Result], *, seed: int, quick: bool, seconds: float) -> dict[str, Any]:
    return {
        "sunlab": sunlab.__version__,
        "torch": torch.__version__,
        "system": f"{platform.system()} {platform.release()}",
        "cores": len(os.sched_getaffinity(0)),
        "seed": seed,
        "form": "quick" if quick else "whole",
        "seconds": round(seconds, 1),
        "passed": all(result.passed for result in results),
        "trials": [result.to_json() for result in results],
        "not_shown": list(UNSEEN),
    }


def write(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def show(console: Console, results: Sequence[Result]) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for name, justify in (("", "left"), ("trial", "left"), ("expected", "left"), ("seen", "left"), ("s", "right")):
        table.add_column(name, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for one in results:
        seen = [f"{one.cases - len(one.wrong)}/{one.cases} as expected", *(f"{k} {v}" for k, v in one.counts.items())]
        wrong = [f"[red]{escape(what[:300])}[/red]" for what in one.wrong[:3]]
        sign = "[green]pass[/green]" if one.passed else "[red]FAIL[/red]"
        text = "\n".join([escape(", ".join(seen)), *wrong])
        table.add_row(sign, escape(one.name), escape(one.expected), text, f"{one.seconds:.1f}")
    console.print(table)
    console.print("Not shown here: " + "; ".join(UNSEEN))
