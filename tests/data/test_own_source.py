"""The source of docs/data.md keeps the contract of sources, by the test that stands beside it there."""

import re
from pathlib import Path

import pytest

from fault_injection.apart import apart

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_source_of_the_docs_keeps_its_contract(tmp_path, monkeypatch):
    """In a process of its own, because a component stays registered."""
    section = (ROOT / "docs" / "data.md").read_text().split("## A source of your own")[1].split("\n## ")[0]
    source, contract = re.findall(r"```python\n(.*?)```", section, re.S)
    (tmp_path / "captions.txt").write_text("".join(f"a thing {n}\n" for n in range(100)))
    monkeypatch.chdir(tmp_path)

    def passed():
        names = {"__name__": "my_source"}
        exec(compile(source + contract, "docs/data.md", "exec"), names)
        case, done = names["TestTextLines"](), []
        for name in (name for name in dir(case) if name.startswith("test_")):
            try:
                getattr(case, name)()
                done.append(name)
            except pytest.skip.Exception:
                continue
        return done

    found = apart(passed)
    assert "error" not in found and len(found["value"]) >= 8, found
