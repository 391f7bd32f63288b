"""`sunlab inspect` and `sunlab export`, as they are called."""

import pytest
import torch
from safetensors.torch import load_file

from sunlab.adapters.sun import SUN
from sunlab.cli.main import main
from sunlab.export import read_adapter, save_adapter
from sunlab.export.file import write_tensors
from sunlab.export.shapes import describe_base


@pytest.fixture
def file(tiny_base, tmp_path):
    adapter = SUN()
    adapter.attach(tiny_base.backbone)
    header = {"solver": "ddim", "steps": 4, "guidance": [2.0, 4.0], "base": describe_base(tiny_base.backbone)}
    return save_adapter(tmp_path / "a.safetensors", adapter, header)


def test_inspect(file, capsys):
    assert main(["inspect", str(file)]) == 0
    out = capsys.readouterr().out
    assert all(part in out for part in ("layout sunlab", "32 tensors", "2,720 parameters"))
    assert "guidance         [2.0, 4.0]" in out and "file_sha256" in out
    assert "to_k_neg.weight" in out and "4 x float16" in out
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    assert main(["inspect", str(file)]) == 65
    assert "damaged" in capsys.readouterr().err


def test_a_card_shows_a_foreign_summary_as_it_is(file, tmp_path):
    read, odd = read_adapter(file), {"loss": "x", "steps": "many", "teacher": 1, "student": 1, "backward": 1}
    write_tensors(tmp_path / "odd.safetensors", read.tensors, {**read.header, "training": odd}, dtype=torch.float16)
    assert main(["export", str(tmp_path / "odd.safetensors"), "--out", str(tmp_path / "out" / "odd.safetensors")]) == 0
    assert '"steps": "many"' in (tmp_path / "out" / "README.md").read_text()


def test_export(file, tmp_path, capsys):
    out = tmp_path / "published" / "b.safetensors"
    assert main(["export", str(file), "--layout", "published", "--out", str(out)]) == 0
    assert capsys.readouterr().out.split() == [str(out), str(out.parent / "README.md")]
    assert "5.to_v_extra_pos.weight" in load_file(out) and len(load_file(out)) == 32
    card = (out.parent / "README.md").read_text()
    assert "sunlab.plug" in card and "| steps | 4 |" in card
    assert main(["export", str(file), "--out", str(tmp_path / "again" / "c.safetensors")]) == 0
    again = read_adapter(tmp_path / "again" / "c.safetensors").tensors
    assert all(torch.equal(tensor, again[name]) for name, tensor in read_adapter(file).tensors.items())
    for wrong in (["--layout", "kohya"], ["--layout", "strange"], []):
        assert main(["export", str(file), *wrong, "--out", str(file if not wrong else out)]) in (65, 78)
