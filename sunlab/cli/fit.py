"""`sunlab fit`: train a configuration."""

import argparse
import re
import shlex
from typing import Any

from sunlab.cli.configured import add_config, load
from sunlab.cli.quiet import quiet, shown_log
from sunlab.distributed.ranks import require_ranks
from sunlab.distributed.signals import Signals

RESUME = "go on from the run's last checkpoint, from one if there is one, or from a file"
UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}  # seconds


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("fit", help="train a configuration", description=__doc__)
    add_config(parser)
    parser.add_argument("--resume", metavar="last|auto|PATH", help=RESUME)
    parser.add_argument("--time-limit", type=duration, metavar="10m", help="stop cleanly after this time (s, m, h, d)")
    parser.add_argument("--dry-run", action="store_true", help="build everything from shapes, print memory, steps and NFE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    with Signals() as signals:  # before torch is imported, which takes long enough for one to come
        loaded = load(args)  # before torch and the rest: a wrong configuration fails at once
        if args.dry_run:
            estimate(loaded)
            return 0
        require_ranks(loaded.config.trainer)
        from sunlab.app.fit import fit

        if not args.debug:
            quiet()
        with shown_log():
            done = fit(loaded, resume=args.resume, time_limit=args.time_limit, signals=signals)
    report(done, loaded.saved["model"]["base"])
    return 0


def estimate(loaded: Any) -> None:
    """Print what the run would need."""
    from sunlab.app.dry_run import plan

    quiet()
    for line in plan(loaded).lines():
        print(line)
    print("the configuration is right and everything builds; no data were read, nothing was trained")


def report(done: Any, base: str) -> None:
    """Print the files of the run and commands to try next. The base is shown as configured: no value of the environment."""
    if done["folder"] is None:
        print(f"fast_dev_run: {done['cost']['steps']} steps were trained, nothing is written")
        return
    if not done["cost"]["steps"]:
        print("warning: no step was trained, what is written is as it was initialised; look at trainer.max_steps")
    for path in done["files"]:
        print(f"wrote {path}")
    print(f"wrote {done['folder']}: config.yaml, checkpoints, csv and tb logs")
    adapters = [path for path in done["files"] if path.suffix == ".safetensors"]
    if adapters:
        picture = done["folder"] / "before_after.png"
        print(f"look at {picture}\nnext:" if picture.is_file() else "next:")
        on = f"--base {'FOLDER' if '${' in base else shlex.quote(base)} "
        prompts = '--prompt "a large tiger face" --negative "a white background"'
        print(f"  sunlab sample {on}{prompts} --adapter {shlex.quote(str(adapters[0]))}")
        print(f"  tensorboard --logdir {done['folder']}")


def duration(text: str) -> float:
    """`10m`, `1h30m`, `90s` or a bare number of seconds -> seconds."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "s"
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise argparse.ArgumentTypeError(f"expected a time such as 10m or 1h30m, got {text!r}")
    return sum(float(number) * UNITS[unit] for number, unit in parts)
