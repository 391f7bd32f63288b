"""The commands of the documentation: their options exist, their files are there, their overrides are keys."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from sunlab.app.sweep import script
from sunlab.cli.main import parse
from sunlab.config.load import load_config
from sunlab.sweep.spec import load_sweep

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
MISTAKE = "loss=mcs"  # docs/commands.md shows its message


def commands(text: str) -> Iterator[list[str]]:
    """The words of each command in the fenced blocks without a language."""
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```$", text.replace("\\\n", " "), re.S | re.M):
        held = ""
        for line in block.splitlines() if not language else ():
            held += line.strip().removeprefix("$ ") + "\n"
            try:
                words = shlex.split(held, comments=True)
            except ValueError:
                continue  # a quoted value goes on in the next line
            held = ""
            yield from at_operators(words)


def at_operators(words: list[str]) -> Iterator[list[str]]:
    """A line's commands, cut at && and ;, without redirections."""
    part: list[str] = []
    for word in [*words, "&&"]:
        part += [word.removesuffix(";")] if word not in ("&&", "do", "done") else []
        if word in ("&&", "do", "done") or word.endswith(";"):
            yield part[: part.index(">")] if ">" in part else part
            part = []


def sunlab_commands() -> list[tuple[str, list[str]]]:
    found = [(page.name, words) for page in PAGES for words in commands(page.read_text("utf-8"))]
    return [(name, words[1:]) for name, words in found if words and words[0] in ("sunlab", ".venv/bin/sunlab")]


def test_options_exist():
    found = sunlab_commands()
    assert len(found) > 50
    for name, words in found:
        if words == ["--version"]:
            continue  # exits
        try:
            parse(["1" if word == "N" else word for word in words])
        except SystemExit:
            pytest.fail(f"{name}: {' '.join(words)}")


def test_tools_and_their_options_exist():
    found = [words for page in PAGES for words in commands(page.read_text("utf-8"))]
    found = [words[i:] for words in found for i, word in enumerate(words) if re.fullmatch(r"tools/\w+\.py", word)]
    assert len(found) > 10
    for words in found:
        source = (ROOT / words[0]).read_text("utf-8")
        assert [word for word in words if word.startswith("--") and f'"{word.partition("=")[0]}"' not in source] == [], words


@pytest.mark.slow
def test_overrides_are_keys(monkeypatch):
    monkeypatch.chdir(ROOT)
    checked = 0
    for name, words in sunlab_commands():
        args = None if words == ["--version"] else parse(["1" if word == "N" else word for word in words])
        files = getattr(args, "config", None)
        if not isinstance(files, list) or "--plugin" in words or MISTAKE in words or any("..." in word for word in words):
            continue
        if files and all(file.startswith("@") or Path(file).is_file() for file in files):
            try:
                if words[0] == "sweep":
                    script(load_sweep(files, args.overrides, launcher=args.launcher))
                else:
                    load_config(files, args.overrides)
            except Exception as error:
                raise AssertionError(f"{name}: {' '.join(words)}") from error
            checked += 1
    assert checked > 25
