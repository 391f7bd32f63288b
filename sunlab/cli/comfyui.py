"""`sunlab comfyui`: SUN adapters in ComfyUI."""

import argparse
from typing import Any


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("comfyui", help="nodes for ComfyUI", description=__doc__)
    actions = parser.add_subparsers(title="what to do", metavar="ACTION", required=True)
    install = actions.add_parser("install", help="write the node package", description="Write the node package for ComfyUI.")
    install.add_argument("custom_nodes", metavar="PATH", help="the folder custom_nodes of a ComfyUI")
    install.set_defaults(run=run_install)


def run_install(args: argparse.Namespace) -> int:
    from sunlab.comfyui.install import install

    written = install(args.custom_nodes)
    print(f"wrote {len(written)} files to {written[-1].parent}")
    print("copy adapters (.safetensors) to ComfyUI's models/sun and restart ComfyUI; an example is among its templates")
    return 0
