"""How the runs of a sweep stand, on the terminal."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from sunlab.files import read_json
from sunlab.sweep.folder import run_folder, runs_of, unique
from sunlab.sweep.grid import Run
from sunlab.sweep.survey import Standing

COLOURS = {
    "done": "green",
    "running": "cyan",
    "requeued": "yellow",
    "stopped": "yellow",
    "failed": "red",
    "skipped": "magenta",
    "cancelled": "magenta",
}
Looked = tuple[list[Run], dict[str, Standing]]


def watch(look: Callable[[], Looked], folder: Path, *, every: float | None = None) -> None:
    """Show the table; with `every` seconds again and again, until no run is under way."""
    console = Console()
    if every is None:
        console.print(screen(look(), folder))
        return
    with Live(console=console, auto_refresh=False) as live:
        while True:
            looked = look()
            live.update(screen(looked, folder), refresh=True)
            if not any(s.queued or s.state in ("running", "requeued") for s in looked[1].values()):
                return
            time.sleep(every)


def screen(looked: Looked, folder: Path) -> Table:
    runs, standings = looked
    states = [standing.state for standing in standings.values()]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    table = Table(box=box.SIMPLE, title=f"{folder}: {counts}", title_justify="left")
    table.add_column("run")
    table.add_column("folder", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("try", justify="right")
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column("what it found, or what went wrong")
    for run in unique(runs):
        standing = standings[run.id]
        status = standing.status
        colour = COLOURS.get(standing.state, "default")
        table.add_row(
            escape(run.name),
            run.id,
            f"[{colour}]{standing.state}[/]",
            str(status.attempt) if status else "",
            _time(standing),
            escape(numbers(run_folder(folder, run)) if standing.state == "done" else standing.error),
        )
    table.caption = f"logs: {runs_of(folder)}/FOLDER/log.txt"
    table.caption_justify = "left"
    return table


def numbers(place: Path) -> str:
    """The first distance of each of its variants, on the first base; or what its training cost."""
    found = read_json(place / "metrics.json") or {}
    bases: Sequence[Mapping[str, Any]] = (found.get("evaluation") or {}).get("bases", ())
    rows = [row for row in bases[0]["rows"] if not row["reference"]] if bases else []
    parts = []
    for row in rows:
        name, value = next(iter(row["values"].items()), ("", None))
        if value is not None and value["value"] is not None:
            parts.append(f"{row['name']}: {name} {value['value']:.4g}")
    if not parts and found.get("training"):
        parts = [f"{found['training']['steps']} steps in {found['training']['seconds']:.0f} s"]
    return "; ".join(parts)


def _time(standing: Standing) -> str:
    status = standing.status
    if status is None:
        return ""
    end = status.ended if status.ended is not None else time.time() if standing.state == "running" else None
    if end is None:
        return ""
    minutes, seconds = divmod(int(end - status.started), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"
