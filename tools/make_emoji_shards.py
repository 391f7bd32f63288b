"""Draws emoji with captions into LAION-style webdataset shards, the same to the byte wherever it runs.

    python tools/make_emoji_shards.py --out sunlab/lab/assets/emoji/noto --style noto --gzip

A sample is `{key}.webp` (lossless), `{key}.txt` (the caption) and `{key}.json` (its attributes). Keys, captions,
attributes and splits are the same in every style. Needs `pillow` and `resvg-py`, and `npm` for the first run.

A style of your own is an iconify package in a folder or an npm tarball:

    npm pack @iconify-json/NAME
    python tools/make_emoji_shards.py --out data/emoji/mine --style mine --package iconify-json-NAME-VERSION.tgz

Emoji that it does not draw are left out, and listed at the end and in the manifest.
"""

import argparse
import gzip
import hashlib
import io
import json
import tarfile
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import asdict
from pathlib import Path

from emoji.artwork import BACKGROUNDS, SIZES, Artwork, artwork_pixels, compose, encode
from emoji.captions import Drawing, draw, phrase
from emoji.catalogue import CATEGORIES, catalogue, with_style
from emoji.packages import KEYWORDS, STYLES, Files, Package, fetch, read_local
from emoji.rendering import RENDERINGS

SPLITS = ("train", "test", "unseen")


def make_shards(
    packages: dict[str, Files],
    keywords: Files,
    out: Path,
    *,
    style: str = "noto",
    rendering: str | None = None,
    own: tuple[Package, Files] | None = None,
    categories: Iterable[str] = CATEGORIES,
    variants: int = 16,
    first: int = 0,
    seed: int = 0,
    wrong: float = 0.0,
    shard_size: int = 500,
    size: int = 64,
    compress: bool = False,
    names: Collection[str] | None = None,
) -> dict:
    """Writes the shards of one style and their manifest.json into `out`, and returns the manifest.

    Args:
        packages: of the styles in the table, which define the emoji, their names and splits.
        style: one of the table, or the name of `own`.
        rendering: one of `RENDERINGS`, applied to the artwork: a style made from the style.
        own: a package that the table does not know, see `read_local`.
        wrong: share of the training captions with another background than the picture's, and with another size.
    """
    emoji, missing = catalogue(packages, keywords, categories), []
    if names is not None:
        if unknown := set(names) - {one.name for one in emoji}:
            raise SystemExit(f"no such emoji in these categories: {', '.join(sorted(unknown))}")
        emoji = [one for one in emoji if one.name in names]
    package, files = (STYLES[style], packages[style]) if own is None else own
    if own is not None:
        emoji, missing = with_style(emoji, style, files)
        if not emoji:
            raise SystemExit(
                f"{package.name} draws none of the {len(missing)} emoji: no codepoint or name of its icons is known"
            )
    drawings = [draw(one, variant, seed, wrong) for one in emoji for variant in range(first, first + variants)]
    drawings.sort(key=lambda drawing: hashlib.sha256(f"{seed} {drawing.key}".encode()).digest())
    artwork = Artwork(files, None if rendering is None else RENDERINGS[rendering])
    out.mkdir(parents=True, exist_ok=True)
    shards = []
    for split in SPLITS:
        members = [drawing for drawing in drawings if drawing.split == split]
        for number, start in enumerate(range(0, len(members), shard_size)):
            part = members[start : start + shard_size]
            content = _tar(file for drawing in part for file in sample_files(drawing, artwork, style, package, size))
            path = out / f"{split}-{number:05d}.tar{'.gz' if compress else ''}"
            path.write_bytes(gzip.compress(content, mtime=0) if compress else content)
            shards.append(
                {
                    "file": path.name,
                    "split": split,
                    "samples": len(part),
                    "bytes": path.stat().st_size,
                    "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
                }
            )
    manifest = {
        "tool": "tools/make_emoji_shards.py",
        "style": style,
        "license": package.licence,
        "sources": [asdict(package), asdict(KEYWORDS)],
        "parameters": {
            "categories": list(categories),
            "variants": variants,
            **({"first": first} if first else {}),
            **({"rendering": rendering} if rendering else {}),
            "seed": seed,
            **({"wrong": wrong} if wrong else {}),
            "shard_size": shard_size,
            "size": size,
            "gzip": compress,
            "names": None if names is None else sorted(names),
        },
        "backgrounds": BACKGROUNDS,
        "sizes": SIZES,
        "emoji": len(emoji),
        **({"left_out": [one.name for one in missing]} if own is not None else {}),
        "subjects": sorted({phrase(one.emoji.name) for one in drawings if one.split == "train"}),
        "samples": dict(Counter(drawing.split for drawing in drawings)),
        "shards": shards,
    }
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    return manifest


def sample_files(drawing: Drawing, artwork: Artwork, style: str, package: Package, frame: int) -> list[tuple[str, bytes]]:
    """The three files of one sample."""
    icon = drawing.emoji.icons[style]
    rendered = artwork.render(icon, artwork_pixels(drawing.size, frame))
    image = encode(compose(rendered, drawing.background, frame))
    facts = {
        "key": drawing.key,
        "caption": drawing.caption,
        "url": f"npm:{package.name}@{package.version}#{icon}",
        "license": package.licence,
        "status": "success",
        "width": frame,
        "height": frame,
        "original_width": frame,
        "original_height": frame,
        "sha256": hashlib.sha256(image).hexdigest(),
        "name": drawing.emoji.name,
        "keywords": drawing.emoji.keywords,
        "style": style,
        "codepoint": drawing.emoji.codepoint,
        "split": drawing.split,
        "attributes": {
            "background": drawing.background,
            "background_rgb": BACKGROUNDS[drawing.background],
            "size": drawing.size,
            "mentioned": drawing.mentioned,
            "keyword": drawing.keyword,
        },
    }
    return [
        (f"{drawing.key}.webp", image),
        (f"{drawing.key}.txt", drawing.caption.encode()),
        (f"{drawing.key}.json", json.dumps(facts).encode()),
    ]


def _tar(files: Iterable[tuple[str, bytes]]) -> bytes:
    """A tar file with names and contents only: no times, no owners."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards and manifest.json")
    parser.add_argument("--style", default="noto", help=f"{', '.join(STYLES)}; with --package a name of your own")
    parser.add_argument("--rendering", choices=sorted(RENDERINGS), help="a style made from this style's artwork")
    parser.add_argument("--package", type=Path, help="a style of your own: folder or npm tarball of an iconify package")
    parser.add_argument("--categories", nargs="+", default=CATEGORIES, help="noto's categories to draw")
    parser.add_argument("--names", type=Path, help="draw only these, a name a line, such as tools/emoji/lab.txt")
    parser.add_argument("--variants", type=int, default=16, help="drawings of each emoji; 16 draw each combination once")
    parser.add_argument("--first", type=int, default=0, help="number of the first drawing; other numbers give other keys")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other variants in the same splits")
    parser.add_argument(
        "--wrong", type=float, default=0.0, help="share of training captions with a wrong background, or a wrong size"
    )
    parser.add_argument("--shard-size", type=int, default=500, help="samples in a shard, at most")
    parser.add_argument("--size", type=int, default=64, help="pixels of a side")
    parser.add_argument("--gzip", action="store_true", help="write .tar.gz, which webdataset reads as well")
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path(tempfile.gettempdir()) / "emoji-packages",
        help="folder the npm packages are kept in",
    )
    arguments = parser.parse_args()
    if (arguments.style in STYLES) == (arguments.package is not None):
        parser.error(
            f"--style: {arguments.style!r} is one of the table; name the style of --package otherwise"
            if arguments.package is not None
            else f"--style: {arguments.style!r} is none of {', '.join(STYLES)}; give its --package"
        )
    if not 0 <= arguments.wrong <= 1:
        parser.error(f"--wrong: {arguments.wrong} is not a share between 0 and 1")
    manifest = make_shards(
        {style: fetch(package, arguments.packages) for style, package in STYLES.items()},
        fetch(KEYWORDS, arguments.packages),
        arguments.out,
        style=arguments.style,
        rendering=arguments.rendering,
        own=None if arguments.package is None else read_local(arguments.package),
        categories=arguments.categories,
        variants=arguments.variants,
        first=arguments.first,
        seed=arguments.seed,
        wrong=arguments.wrong,
        shard_size=arguments.shard_size,
        size=arguments.size,
        compress=arguments.gzip,
        names=None if arguments.names is None else arguments.names.read_text().splitlines(),
    )
    total = sum(shard["bytes"] for shard in manifest["shards"])
    print(f"{manifest['emoji']} emoji, {manifest['samples']}, {len(manifest['shards'])} shards, {total:,} bytes")
    if left_out := manifest.get("left_out"):
        print(f"left out, {arguments.package} does not draw them: {', '.join(left_out)}")
    if manifest["license"] == "unknown":
        print("the package states no licence (package.json or info.json); find it before you share the shards")


if __name__ == "__main__":
    main()
