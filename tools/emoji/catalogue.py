"""Which emoji there are: those that every style draws, with one name and the same keywords for all styles."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from emoji.packages import STYLES, Files, read_json

CATEGORIES = ("Animals & Nature", "Food & Drink")
SHARED_BY = 3  # a keyword counts once this many emoji have it: the rest are too rare to learn
UNFIT = {  # rude, or at odds with the words of the attributes, or no nouns
    "black",
    "blue",
    "brown",
    "green",
    "large",
    "orange",
    "pink",
    "purple",
    "red",
    "small",
    "white",
    "yellow",
    "assets",
    "booze",
    "bottom",
    "butt",
    "drunk",
    "phallic",
    "blind",
    "chinese",
    "cook",
    "extinct",
    "fall",
    "hot",
    "japanese",
    "mexican",
    "slow",
    "tropical",
    "wild",
}


@dataclass(frozen=True)
class Emoji:
    """One emoji, independent of the style."""

    codepoint: str  # "1f34e", or "1f415-200d-1f9ba"; never with fe0f
    name: str  # "red apple"
    icons: dict[str, str]  # style -> the icon's name in that style's package
    keywords: tuple[str, ...]


def catalogue(packages: dict[str, Files], keywords: Files, categories: Iterable[str] = CATEGORIES) -> list[Emoji]:
    """The emoji of these noto categories that all styles draw, without country flags, by codepoint."""
    icons = {style: _icons(files) for style, files in packages.items()}
    known = json.loads(packages["noto"]["metadata.json"])["categories"]
    if unknown := set(categories) - set(known):
        raise SystemExit(f"no such category: {', '.join(sorted(unknown))}; there are: {', '.join(known)}")
    wanted = {name for category in categories for name in known[category]}
    common = sorted(
        codepoint
        for codepoint, name in icons["noto"].items()
        if name in wanted and not _country_flag(codepoint) and all(codepoint in icons[style] for style in STYLES)
    )
    words = _keywords(keywords, common)
    return [
        Emoji(
            codepoint,
            icons["noto"][codepoint].replace("-", " "),
            {style: icons[style][codepoint] for style in STYLES},
            words.get(codepoint, ()),
        )
        for codepoint in common
    ]


def with_style(emoji: Iterable[Emoji], style: str, files: Files) -> tuple[list[Emoji], list[Emoji]]:
    """The emoji that another package draws, with its icons under `style`, and those that it does not draw.

    An icon is found by its codepoint in chars.json, or is named by its codepoint (`1f34e`, `u1f34e`, `emoji-u1f34e`) or as
    in noto (`red-apple`, `redapple`); aliases count.
    """
    by_codepoint = _icons(files)
    icons = read_json(files, "icons.json") if "icons.json" in files else {"icons": {}}
    named = {*icons["icons"], *icons.get("aliases", {})}
    for name in sorted(named):
        if match := re.fullmatch(r"(?:emoji-?)?u?([0-9a-f]{4,5}(?:[-_][0-9a-f]{4,5})*)", name):
            by_codepoint.setdefault(_plain(match[1].replace("_", "-")), name)
    by_name = {_letters(name): name for name in sorted(named)}
    found, missing = [], []
    for one in emoji:
        icon = by_codepoint.get(one.codepoint) or by_name.get(_letters(one.icons["noto"]))
        if icon is None:
            missing.append(one)
        else:
            found.append(replace(one, icons={**one.icons, style: icon}))
    return found, missing


def _icons(files: Files) -> dict[str, str]:
    """codepoint -> icon name, of an iconify package or of a folder of pictures named by codepoint."""
    if "chars.json" in files:
        names = read_json(files, "chars.json")
    else:
        pictures = [path[len("assets/") : -len(".webp")] for path in files if re.fullmatch(r"assets/.*\.webp", path)]
        names = {picture: picture for picture in pictures}
    return {_plain(codepoint): name for codepoint, name in names.items()}


def _keywords(files: Files, codepoints: list[str]) -> dict[str, tuple[str, ...]]:
    """codepoint -> the lower-case words that several of these emoji share, other than the emoji's own name."""
    library = json.loads(files["dist/emoji-en-US.json"])
    listed = {_plain("-".join(f"{ord(char):04x}" for char in emoji)): words for emoji, words in library.items()}
    fit = {
        codepoint: [
            word
            for word in listed.get(codepoint, ())[1:]  # the first one is the name
            if re.fullmatch("[a-z]{3,}", word) and word not in UNFIT
        ]
        for codepoint in codepoints
    }
    sharers = Counter(word for words in fit.values() for word in set(words))
    return {codepoint: tuple(word for word in words if sharers[word] >= SHARED_BY) for codepoint, words in fit.items()}


def _letters(name: str) -> str:
    return re.sub("[^a-z0-9]", "", name.lower())


def _plain(codepoint: str) -> str:
    return codepoint.lower().replace("-fe0f", "")


def _country_flag(codepoint: str) -> bool:
    return any(0x1F1E6 <= int(part, 16) <= 0x1F1FF or 0xE0020 <= int(part, 16) <= 0xE007F for part in codepoint.split("-"))
