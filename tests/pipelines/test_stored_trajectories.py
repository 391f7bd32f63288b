"""Making a bank again into a folder that holds one."""

import pytest
import torch

from sunlab.app.trajectories import make_bank
from sunlab.config.load import load_config
from sunlab.data.trajectories import Trajectories
from sunlab.errors import DataError


@pytest.fixture
def make(tiny_config, tmp_path):
    def make(count, *words, shard_size=4):
        make_bank(load_config([tiny_config], words), out=tmp_path / "bank", count=count, shard_size=shard_size)
        return Trajectories(path=str(tmp_path / "bank"))

    return make


def test_it_grows_and_what_is_whole_is_kept(make, tmp_path):
    first = make(6)
    whole = tmp_path / "bank" / "bank-00000.safetensors"
    written = whole.stat().st_mtime_ns
    more = make(8)
    assert (len(first), len(more)) == (6, 8) and whole.stat().st_mtime_ns == written
    assert all(torch.equal(first[i].trajectory.states, more[i].trajectory.states) for i in range(4))


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
