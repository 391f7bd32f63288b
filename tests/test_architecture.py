"""The house rules that a machine can check: who imports whom, how long a file may be, and what stands where."""

import ast
import logging
import re
import subprocess
from configparser import ConfigParser
from pathlib import Path

import pytest
import yaml
from importlinter.cli import lint_imports

ROOT = Path(__file__).resolve().parents[1]
LONGEST = 300  # lines
VAGUE = ("utils", "util", "common", "helpers", "helper", "misc", "manager")
TOP_LEVEL = {
    *("sunlab", "configs", "registry", "tests", "tools", "setup.cfg", "README.md", "mkdocs.yml"),
    *(
        "setup.py",
        "MANIFEST.in",
        "pyproject.toml",
        "Makefile",
        "LICENSE",
        "NOTICE",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "docs",
    ),
    *(".ci", ".git", ".gitignore", ".gitattributes", ".github", ".pre-commit-config.yaml", "CITATION.cff"),
}
SOURCES = sorted(path for folder in ("registry", "sunlab", "tools") for path in (ROOT / folder).rglob("*.py"))
COMPOSERS = {
    "sunlab/app/compose.py",  # what the use cases build
    "sunlab/config/check.py",  # a task says what it needs of a configuration
    "sunlab/app/sweep.py",  # the front end of sweeps, which does not import torch
    "sunlab/data/shards.py",  # a source names its filters
    "sunlab/data/pipeline.py",  # and its stages
    "sunlab/callbacks/before_after.py",  # a callback names its negative prompts and their control
    "sunlab/losses/sum.py",  # a sum names its losses
    "sunlab/losses/dmd.py",  # the fake score is an adapter that the loss names
    "sunlab/adapters/stacked.py",  # an adapter that stacks on another names it
    "sunlab/export/load.py",  # an adapter file says which adapter it holds
    "sunlab/backbones/pretrained.py",  # a folder of weights is wrapped as it is read
    "sunlab/app/sample.py",  # an adapter file says which solver it was trained for
    "sunlab/app/demo.py",  # likewise
}
PACKAGES = sorted({path.parent for path in SOURCES if path.relative_to(ROOT).parts[0] != "tools"})


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_point_downwards(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)
    loggers = [logger for logger in logging.Logger.manager.loggerDict.values() if isinstance(logger, logging.Logger)]
    for logger in loggers:  # import-linter disables all loggers that are there
        monkeypatch.setattr(logger, "disabled", logger.disabled)
    status = lint_imports(config_filename="setup.cfg", no_cache=True, no_logo=True)
    assert status == 0, capsys.readouterr().out


def test_a_file_is_one_idea() -> None:
    lines = {name(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert not {path: count for path, count in lines.items() if count > LONGEST}, "split them by ideas"
    assert not [name(path) for path in SOURCES if path.stem in VAGUE], "name a file after what is in it"


def test_no_folder_is_a_drawer() -> None:
    folders = [path for top in ("registry", "sunlab", "tools", "tests") for path in (ROOT / top).rglob("*")]
    assert not [name(path) for path in folders if path.is_dir() and path.name in VAGUE]


def test_every_folder_of_code_is_a_package() -> None:
    missing = [name(folder) for folder in PACKAGES if not (folder / "__init__.py").is_file()]
    assert not missing, "a folder without __init__.py is not installed"


@pytest.mark.parametrize("folder", PACKAGES, ids=name)
def test_a_folder_says_what_it_is_for_and_where_to_start(folder: Path) -> None:
    told = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8"))) or ""
    named = [word for word in re.findall(r"`([\w/]+\.py)`", told) if (folder / word).is_file()]
    assert named or folder.name == "sunlab", f"{name(folder)}/__init__.py: say in a paragraph which file to open first"


def test_the_top_level_is_fixed() -> None:
    strangers = {path.name for path in ROOT.iterdir()} - TOP_LEVEL
    assert not strangers - _ignored(strangers), "the top level is fixed; ignore a by-product in .gitignore"


def test_the_tools_versions_are_the_same_everywhere() -> None:
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    (ruff,) = [repo["rev"] for repo in hooks["repos"] if repo["repo"].endswith("ruff-pre-commit")]
    pinned = setup["options.extras_require"]["test"].partition("ruff==")[2].split()[0]
    assert ruff.removeprefix("v").startswith(pinned.removesuffix("*"))
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))["jobs"]
    tested = jobs["tests"]["strategy"]["matrix"]["python-version"]
    stated = [line.rpartition(" ")[2] for line in setup["metadata"]["classifiers"].splitlines() if "Python :: 3." in line]
    assert tested == stated and f">={tested[0]}" == setup["options"]["python_requires"]


def test_only_the_composition_root_builds_components() -> None:
    inside = [path for path in SOURCES if name(path).startswith("sunlab/") and "testing" not in path.parts]
    builds = [f"{name(path)}:{line}" for path in inside if name(path) not in COMPOSERS for line in _builds(path)]
    assert not builds, f"{builds} build a component; take it as an argument, and let sunlab/app build it"


def _builds(path: Path) -> list[int]:
    """Lines that build a component from a registry."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)]
    return [node.lineno for node in calls if node.func.attr == "build" and _is_a_registry(node.func.value)]


def _is_a_registry(value: ast.expr) -> bool:
    """`LOSSES` or `registry_of(...)`."""
    if isinstance(value, ast.Call) and isinstance(value.func, ast.Name):
        return value.func.id == "registry_of"
    return isinstance(value, ast.Name) and value.id.isupper()


def _ignored(names: set[str]) -> set[str]:
    """Those that git ignores; outside a checkout, what tools are known to leave behind."""
    command = ["git", "check-ignore", "--stdin"]
    try:
        answer = subprocess.run(command, cwd=ROOT, input="\n".join(names), text=True, capture_output=True, check=False)
    except OSError:
        answer = None
    if answer is None or answer.returncode not in (0, 1):
        return {entry for entry in names if entry.startswith(".") or entry.endswith((".egg-info", "__pycache__"))}
    return set(answer.stdout.splitlines())
