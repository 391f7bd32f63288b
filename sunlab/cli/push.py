"""`sunlab push`: an adapter file and its model card to the Hugging Face Hub. Without --yes, print what would be uploaded."""

import argparse
from typing import Any


def add(subparsers: Any) -> None:
    parser = subparsers.add_parser("push", help="upload an adapter to the Hugging Face Hub", description=__doc__)
    parser.add_argument("file", metavar="FILE", help="an adapter")
    parser.add_argument("repo", metavar="OWNER/NAME", help="the repository, made where there is none")
    parser.add_argument("--yes", action="store_true", help="upload; without it nothing leaves this machine")
    parser.add_argument("--license", required=True, metavar="ID", help="the adapter's, as apache-2.0 or openrail++")
    parser.add_argument("--base", metavar="OWNER/NAME", help="the pretrained model on the Hub (default: the run's)")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="of an example; repeatable")
    parser.add_argument("--negative", action="append", default=[], metavar="TEXT", help="negative prompt of each --prompt")
    parser.add_argument("--results", metavar="FILE", help="report.md or before_after.md for the card (default: the run's)")
    parser.add_argument("--layout", default="sunlab", metavar="NAME", help="of the uploaded file; see `sunlab export`")
    parser.add_argument("--private", action="store_true", help="of a repository that is made")
    parser.add_argument("--replace-card", action="store_true", help="replace a README.md that sunlab did not write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    from sunlab.app.push import prepare, push
    from sunlab.errors import ConfigError

    if len(args.negative) not in (0, len(args.prompt)):
        raise ConfigError(f"--negative: give none, or one for each of {len(args.prompt)} prompts; got {len(args.negative)}")
    upload = prepare(
        args.file,
        args.repo,
        base=args.base,
        licence=args.license,
        prompts=list(zip(args.prompt, args.negative or [""] * len(args.prompt), strict=True)),
        results=args.results,
        layout=args.layout,
    )
    if args.yes:
        print(push(upload, private=args.private, replace_card=args.replace_card))
        return 0
    print(upload.card)
    print(f"would upload to {upload.repo}:")
    for name, data in upload.files.items():
        print(f"  {name:<32} {len(data):>12,} bytes")
    print("nothing was uploaded; add --yes to do it")
    return 0
