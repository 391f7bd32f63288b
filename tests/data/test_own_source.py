"""The source of docs/data.md keeps the contract of sources, by the test that stands beside it there."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_source_of_the_docs_keeps_its_contract(tmp_path):
    """In a process of its own, because a component stays registered."""
    section = (ROOT / "docs" / "data.md").read_text().split("## A source of your own")[1].split("\n## ")[0]
    source, contract = re.findall(r"```python\n(.*?)```", section, re.S)
    (tmp_path / "test_my_source.py").write_text(f"{source}\n\n{contract}")
    (tmp_path / "captions.txt").write_text("".join(f"a thing {n}\n" for n in range(100)))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "--rootdir",
        str(tmp_path),
        "test_my_source.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 8
