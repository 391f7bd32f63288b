"""`sunlab demo`: a local page that draws prompts with the teacher and with adapters, side by side."""

import argparse
import sys
from typing import Any

BASE, ADAPTER = "emoji-sd", "emoji/sun_msc.safetensors"  # where nothing else is named
PROMPT, NEGATIVE = "a large koala", "a white background"


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("demo", help="a local page: teacher and adapters side by side", description=__doc__)
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        metavar="FOLDER",
        help=f"a diffusers folder, a .safetensors file, a hub id, or a model inside the package; repeatable (default: the "
        f"run's, or {BASE})",
    )
    parser.add_argument(
        "--adapter", action="append", default=[], metavar="FILE", help="a .safetensors file or a hub id; repeatable"
    )
    parser.add_argument(
        "--run", action="append", default=[], metavar="FOLDER", dest="runs", help="show a run's pictures and its adapter"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default 127.0.0.1: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="(default 7860; 0: a free one)")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sunlab.app.demo import Studio
    from sunlab.errors import ConfigError

    try:
        from sunlab.demo.page import page
        from sunlab.demo.serve import is_loopback, serve
    except ModuleNotFoundError as missing:
        raise ConfigError(f"demo needs {missing.name}, which is not installed: pip install 'sunlab[demo]'") from None
    if not (args.base or args.adapter or args.runs):
        args.base, args.adapter = [BASE], [ADAPTER]
    studio = Studio(args.base, args.adapter, args.runs)
    if not is_loopback(args.host):
        print(f"warning: whoever reaches {args.host}:{args.port} can draw with this machine", file=sys.stderr)
    packaged = studio.bases[0] == BASE
    blocks = page(studio, prompt=PROMPT if packaged else "", negative=NEGATIVE if packaged else "")
    serve(blocks, host=args.host, port=args.port, ready=lambda address: print(f"open {address}; Ctrl+C ends", flush=True))
    return 0
