"""Cuts CLIP's tokenizer down to the words of a shard folder: the same pieces for those words, in a small vocabulary.

    python tools/make_tokenizer.py --shards sunlab/lab/assets/emoji/noto --out FOLDER

Every byte stays a token, so that any text can be tokenized; of the 48,894 merges only those that the words of captions,
names and keywords (and of usual negative prompts) go through are kept, in CLIP's order.
"""

import argparse
import itertools
import json
import re
import tarfile
from collections.abc import Iterable
from pathlib import Path

from sunlab.backbones.sd.tokenizer import END, LENGTH, START, Merge, byte_tokens, clip_merges, vocabulary

WORD = re.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[^\W\d_]+|\d|(?:[^\s\w]|_)+")  # what CLIP splits text into
PROMPT_WORDS = """
a an the of on in with and no not without photo picture image drawing painting illustration icon emoji render style
art flat background colour color small large medium big tiny gray grey pink brown plain empty two many several
low high quality resolution detail detailed blurry blur sharp ugly bad worst best poor good beautiful deformed distorted
disfigured malformed mutated extra missing cropped cut out frame text watermark signature logo letters jpeg artifacts
noise noisy grain grainy pixelated oversaturated dark bright overexposed underexposed duplicate messy cluttered
"""  # what people ask for and, in negative prompts, do not


def merges_of(word: str, ranks: dict[Merge, int]) -> set[Merge]:
    """The merges that byte-pair encoding applies to the word."""
    letters = byte_tokens()
    pieces = [letters[byte] for byte in word.encode()]
    pieces[-1] += "</w>"
    taken = set()
    while known := [pair for pair in itertools.pairwise(pieces) if pair in ranks]:
        best = min(known, key=ranks.__getitem__)
        taken.add(best)
        merged, place = [], 0
        while place < len(pieces):
            here = tuple(pieces[place : place + 2]) == best
            merged.append("".join(best) if here else pieces[place])
            place += 2 if here else 1
        pieces = merged
    return taken


def words_of(texts: Iterable[str]) -> set[str]:
    """The words that CLIP's tokenizer splits the texts into."""
    return {word for text in texts for word in WORD.findall(text.lower())}


def shard_texts(folder: Path) -> set[str]:
    """All captions, names and keywords in the shards of a folder."""
    texts = set()
    for path in sorted(folder.glob("*.tar*")):
        with tarfile.open(path) as tar:
            for member in tar:
                if member.name.endswith(".json"):
                    facts = json.load(tar.extractfile(member))
                    texts |= {facts["caption"], facts["name"], *facts["keywords"]}
    if not texts:
        raise SystemExit(f"no shards with captions in {folder}")
    return texts


def write_tokenizer(merges: list[Merge], out: Path) -> int:
    """Writes a CLIPTokenizer folder with all bytes and these merges; returns the size of its vocabulary."""
    known = vocabulary(merges)
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "do_lower_case": True,
        "add_prefix_space": False,
        "errors": "replace",
        **special,
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "vocab.json").write_text(json.dumps(known, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    (out / "special_tokens_map.json").write_text(json.dumps(special, indent=1) + "\n")
    return len(known)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, required=True, help="folder of LAION-style shards")
    parser.add_argument("--out", type=Path, required=True, help="folder for the tokenizer")
    arguments = parser.parse_args()
    words = words_of(shard_texts(arguments.shards)) | words_of([PROMPT_WORDS])
    merges = clip_merges()
    ranks = {merge: rank for rank, merge in enumerate(merges)}
    needed = set().union(*(merges_of(word, ranks) for word in words))
    size = write_tokenizer([merge for merge in merges if merge in needed], arguments.out)
    print(f"{len(words)} words, {len(needed)} merges, {size} tokens")


if __name__ == "__main__":
    main()
