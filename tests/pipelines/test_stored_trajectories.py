"""Storing trajectories again in a folder that holds some."""

import pytest
import torch

from sunlab.app.trajectories import make_trajectories
from sunlab.config.load import load_config
from sunlab.data.trajectories import Trajectories
from sunlab.errors import DataError


@pytest.fixture
def make(tiny_config, tmp_path):
    def make(count, *words, shard_size=4):
        make_trajectories(load_config([tiny_config], words), out=tmp_path / "stored", count=count, shard_size=shard_size)
        return Trajectories(path=str(tmp_path / "stored"))

    return make


def test_it_grows_and_what_is_whole_is_kept(make, tmp_path):
    first = make(6)
    whole = tmp_path / "stored" / "trajectories-00000.safetensors"
    written = whole.stat().st_mtime_ns
    more = make(8)
    assert (len(first), len(more)) == (6, 8) and whole.stat().st_mtime_ns == written
    assert all(torch.equal(first[i].trajectory.states, more[i].trajectory.states) for i in range(4))


def test_files_under_their_former_name_are_read_and_kept(make, tmp_path):
    first = make(4)
    former = (tmp_path / "stored" / "trajectories-00000.safetensors").rename(tmp_path / "stored" / "bank-00000.safetensors")
    more = make(8)
    assert sorted(p.name for p in former.parent.iterdir()) == [former.name, "trajectories-00001.safetensors"]
    assert [more[i].key for i in range(8)] == [f"{i:08d}" for i in range(8)]
    assert torch.equal(first[0].trajectory.states, more[0].trajectory.states)


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["teacher.guidance=[5.0]"], "guidance"),
        (["teacher.solver=ddim"], "solver"),
        (["teacher.steps=8"], "steps"),
        (["student.steps=4"], "times"),
        (["seed=1"], "seeds"),
        (["data.negatives=empty"], "negatives"),
    ],
)
def test_one_that_was_made_otherwise_is_no_part_of_it(make, words, what):
    make(4)
    with pytest.raises(DataError, match=f"made with other .*{what}.*choose another folder, or delete it"):
        make(4, *words)
