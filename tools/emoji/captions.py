"""Backgrounds, sizes, splits and captions, from hashes that do not depend on the style."""

import hashlib
import itertools
from dataclasses import dataclass

from emoji.artwork import BACKGROUNDS, SIZES
from emoji.catalogue import Emoji

COMBINATIONS = tuple(itertools.product(BACKGROUNDS, SIZES))
LEFT_OUT = 0.40  # of the captions, for each attribute
ALONE = 0.08  # an attribute without the emoji: "a green background"
KEYWORD = 0.15  # a keyword replaces or accompanies the name
UNSEEN = 1 / 48  # of the emoji are held out altogether
PLAIN = {  # names that take no article; those of several things, "grapes", are known by their -s
    "bacon",
    "baguette bread",
    "bread",
    "broccoli",
    "bubble tea",
    "butter",
    "canned food",
    "cooked rice",
    "cooking",
    "coral",
    "curry rice",
    "food",
    "fruit",
    "garlic",
    "ginger root",
    "ice",
    "mate",
    "nature",
    "oden",
    "popcorn",
    "pouring liquid",
    "sake",
    "salt",
    "seafood",
    "shaved ice",
    "soft ice cream",
    "ice cream",
    "spaghetti",
    "sushi",
    "alcohol",
    "beef",
    "cheese",
    "chocolate",
    "cutlery",
    "grass",
    "luck",
    "meat",
    "milk",
    "pasta",
    "rice",
    "spice",
    "spring",
    "summer",
    "tableware",
    "tea",
    "toast",
    "water",
    "wine",
    "wood",
}


@dataclass(frozen=True)
class Drawing:
    """One sample before it is drawn; the same in every style."""

    emoji: Emoji
    variant: int
    split: str  # train, test or unseen
    background: str
    size: str
    caption: str
    mentioned: tuple[str, ...]  # which of name, keyword, background, size are in the caption
    keyword: str | None  # the one in the caption

    @property
    def key(self) -> str:
        """Names the sample within its folder and across styles."""
        return f"{self.emoji.codepoint}-{self.variant:03d}"


def draw(emoji: Emoji, variant: int, seed: int, wrong: float = 0.0) -> Drawing:
    """The numbered drawing of an emoji; all combinations come once before any comes again.

    Args:
        wrong: share of the captions of `train` whose background is not the picture's, and of those whose size is not.
    """

    def chance(of: str) -> float:
        return _fraction(seed, emoji.codepoint, variant, of)

    turn, place = divmod(variant, len(COMBINATIONS))
    background, size = sorted(COMBINATIONS, key=lambda pair: _digest(seed, emoji.codepoint, turn, *pair))[place]
    split = split_of(emoji.codepoint, background)
    mentioned = {attribute for attribute in ("background", "size") if chance(attribute) >= LEFT_OUT} | {"name"}
    keyword = None
    if split != "train":  # names what it holds out
        mentioned.add("background")
    elif chance("form") < ALONE:
        mentioned = {"background" if chance("alone") < 0.5 else "size"}
    elif chance("form") < ALONE + KEYWORD and emoji.keywords:
        keyword = emoji.keywords[_digest(seed, emoji.codepoint, variant, "keyword") % len(emoji.keywords)]
        mentioned.add("keyword")
        if chance("replaced") < 0.5:
            mentioned.discard("name")
    stated = {"background": background, "size": size}
    for attribute, values in (("background", BACKGROUNDS), ("size", SIZES)):
        if split == "train" and chance(f"wrong {attribute}") < wrong:
            others = [value for value in values if value != stated[attribute]]
            stated[attribute] = others[_digest(seed, emoji.codepoint, variant, "stated", attribute) % len(others)]
    caption = _caption(emoji.name, keyword, stated["background"], stated["size"], mentioned)
    order = [part for part in ("name", "keyword", "background", "size") if part in mentioned]
    return Drawing(emoji, variant, split, background, size, caption, tuple(order), keyword)


def split_of(codepoint: str, background: str) -> str:
    """Each family of emoji keeps one background for `test`, and a few families are `unseen`, whatever the seed."""
    family = family_of(codepoint)
    if _fraction("unseen", family) < UNSEEN:
        return "unseen"
    held_out = list(BACKGROUNDS)[_digest("held out", family) % len(BACKGROUNDS)]
    return "test" if background == held_out else "train"


def family_of(codepoint: str) -> str:
    """The codepoint without skin tone and gender: all its variants fall on one side of every split."""
    parts = [part for part in codepoint.split("-") if not "1f3fb" <= part <= "1f3ff" or len(part) != 5]
    person = ["1f9d1" if part in ("1f468", "1f469") else part for part in parts]
    return "-".join(part for part in person if part not in ("200d", "2640", "2642"))


def _caption(name: str, keyword: str | None, background: str, size: str, mentioned: set[str]) -> str:
    if mentioned == {"size"}:
        return phrase(f"{size} picture")
    where = f"{phrase(background)} background"
    if mentioned == {"background"}:
        return where
    noun = name if "name" in mentioned else keyword
    what = phrase(noun, size if "size" in mentioned else "")
    if {"name", "keyword"} <= mentioned:
        what = f"{phrase(keyword)}, {what}"
    return f"{what} on {where}" if "background" in mentioned else what


def phrase(noun: str, adjective: str = "") -> str:
    """The noun with its adjective and the article it takes."""
    words = f"{adjective} {noun}".strip()
    head = noun.split(" with ")[0].split(" of ")[0].split(" in ")[0]
    several = head.endswith("s") and not head.endswith(("ss", "us", "is", "os"))
    if noun in PLAIN or several:
        return words
    vowel = words[0] in "aeiou" and not words.startswith(("uni", "eu", "ewe"))
    return f"{'an' if vowel else 'a'} {words}"


def _digest(*of: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(of).encode()).digest()[:8], "big")


def _fraction(*of: object) -> float:
    return _digest(*of) / 2**64
