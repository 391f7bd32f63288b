"""Storing trajectories again in a folder that holds some."""

import pytest
import torch

from sunlab.app.compose import build_base
from sunlab.app.trajectories import make_trajectories
from sunlab.config.load import load_config
from sunlab.data.trajectories import Trajectories
from sunlab.diffusion.prediction import Prediction
from sunlab.errors import DataError


@pytest.fixture
def make(tiny_config, tmp_path):
    def make(count, *words, shard_size=4, predictions=False, folder="stored"):
        loaded = load_config([tiny_config], words)
        make_trajectories(loaded, out=tmp_path / folder, count=count, shard_size=shard_size, predictions=predictions)
        return Trajectories(path=str(tmp_path / folder))

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


@pytest.mark.parametrize("solver", ["ddim", "dpmpp_2m", "heun"])
def test_predictions_are_the_guided_teachers_at_the_states(make, tiny_config, solver):
    """e(c_neg) + w (e(c_pos) - e(c_neg)) of diffusers' U-Net itself, at each stored state, as v; the states are the same."""
    words = [f"teacher.solver={solver}"]
    stored, plain = make(4, *words, predictions=True), make(4, *words, folder="plain")
    base = build_base(load_config([tiny_config], words).config).freeze()
    for index in range(4):
        sample = stored[index]
        path = sample.trajectory
        assert torch.equal(path.states, plain[index].trajectory.states) and plain[index].trajectory.guided is None
        tokens = [base.encode([prompt]).tokens for prompt in (sample.negative, sample.prompt)]
        for number, time in enumerate(path.times[:-1].tolist()):
            x, step = path.states[:, number], torch.tensor([round(1000 * time) - 1])
            with torch.no_grad():
                negative, positive = (base.backbone.unet(x, step, encoder_hidden_states=t).sample for t in tokens)
            value = negative + sample.guidance * (positive - negative)
            alpha, sigma = base.backbone.path.at(torch.tensor([time], dtype=torch.float64), x)
            v = Prediction(value, base.backbone.prediction_type, x, alpha, sigma).v
            torch.testing.assert_close(path.guided[:, number], v, atol=2e-3, rtol=2e-3)  # stored in float16


def test_a_folder_without_predictions_is_not_continued_with_them(make):
    make(4)
    with pytest.raises(DataError, match="made with other predictions; choose another folder, or delete it"):
        make(4, predictions=True)
