"""What mkdocs fills in: files of the top level, and the tables of registered components."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def on_config(config: Any) -> Any:
    """Anchors as GitHub makes them, so that links hold on both."""
    config.mdx_configs["toc"]["slugify"] = slug
    return config


def slug(heading: str, separator: str = "-") -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", separator)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """`<!-- include: FILE -->` and `<!-- components -->`, replaced."""
    markdown = re.sub(r"<!-- include: (\w+\.md) -->", lambda found: included(found[1]), markdown)
    return markdown.replace("<!-- components -->", components()) if "<!-- components -->" in markdown else markdown


def included(name: str) -> str:
    """A file of the top level, its links as seen from docs."""
    text = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    return re.sub(r"\]\(([A-Z]+)\.md\)", lambda link: f"]({link[1].lower()}.md)", text)


def components() -> str:
    """A section a kind: each component, and the first line of its docstring."""
    from sunlab.registries import KINDS, registry_of

    sections = []
    for kind, (module, registry) in KINDS.items():
        rows = []
        for name in registry_of(kind).names():
            factory = registry_of(kind).get(name).factory
            first = (factory.__doc__ or "").strip().partition("\n")[0].replace("|", "\\|")
            rows.append(f"| `{name}` | {first} | `{factory.__module__}.{factory.__qualname__}` |")
        head = f"## {kind}\n\nRegistry `{module}.{registry}`.\n\n| name | what it is | defined in |\n|---|---|---|"
        sections.append("\n".join([head, *rows]))
    return "\n\n".join(sections)
