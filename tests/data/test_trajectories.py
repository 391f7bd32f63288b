"""Trajectory files: round trip with noise drawn again, order, and refusals."""

import pickle
from dataclasses import replace
from itertools import islice

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sunlab.data.collate import cut, join
from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Mixture
from sunlab.data.shared import share
from sunlab.data.trajectories import Trajectories
from sunlab.data.trajectory_file import TrajectoryHeader, write_trajectories
from sunlab.draws import starting_noise
from sunlab.errors import ConfigError, DataError

N, T, SHAPE = 6, 4, (4, 8, 8)


def make(path, first=0, **changes):
    seeds = torch.arange(first, first + N) + 2**60
    noise = starting_noise(seeds.tolist(), SHAPE)
    rest = torch.randn(N, T - 1, *SHAPE, generator=torch.Generator().manual_seed(first)).half().float()
    header = TrajectoryHeader(
        teacher="abc", guidance=(2.0, 5.0), solver="dpmpp_2m", steps=24, spacing="trailing", noise="seeded",
        keys=tuple(f"t{n}" for n in range(first, first + N)), prompts=tuple(f"prompt {n}" for n in range(N)),
        negatives=("",) * N,
    )  # fmt: skip
    given = {
        "states": torch.cat([noise[:, None], rest], dim=1), "seeds": seeds,
        "times": torch.tensor([1.0, 0.501, 0.101, 0.0], dtype=torch.float64),
        "guidance": torch.linspace(2, 5, N), "header": header, **changes,
    }  # fmt: skip
    write_trajectories(path, **given)
    return given


def test_round_trip_is_bit_equal(tmp_path):
    given = make(tmp_path / "trajectories-00000.safetensors")
    stored = Trajectories(path=str(tmp_path))
    assert len(stored) == N and stored.header == given["header"]
    for row in range(N):
        sample = stored[row]
        assert torch.equal(sample.trajectory.states[0], given["states"][row])
        assert torch.equal(sample.trajectory.times, given["times"])
        assert sample.guidance == pytest.approx(float(given["guidance"][row]))
        assert (sample.key, sample.prompt, sample.negative) == (f"t{row}", f"prompt {row}", "")
    assert not list(tmp_path.glob(".*"))


def test_whole_times_of_before_are_converted(tmp_path):
    """Version 1 stored Stable Diffusion's steps 999 ... 0, and -1 for the clean end."""
    path = tmp_path / "trajectories-00000.safetensors"
    given = make(path)
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    tensors["times"] = torch.tensor([999, 500, 100, -1])
    save_file(tensors, path, {**metadata, "version": "1"})
    trajectory = Trajectories(path=str(path))[0].trajectory
    torch.testing.assert_close(trajectory.times, given["times"])
    assert torch.equal(trajectory.at(torch.tensor([0.501], dtype=torch.float64)), given["states"][:1, 1])


def test_stored_noise(tmp_path):
    header = replace(make(tmp_path / "trajectories-00000.safetensors")["header"], noise="stored")
    states = torch.ones(N, T, *SHAPE)
    make(tmp_path / "trajectories-00000.safetensors", states=states, header=header)
    assert torch.equal(Trajectories(path=str(tmp_path))[1].trajectory.states, states[:1])


def test_epochs_are_permutations_of_all_files(tmp_path):
    for number in range(2):
        make(tmp_path / f"trajectories-{number:05d}.safetensors", first=number * N)
    stored = Trajectories(path=f"{tmp_path}/trajectories-*.safetensors")
    epochs = [[s.key for s in stored.read(seed=0, epoch=e, start=0, stop=12)] for e in range(2)]
    assert epochs[0] != epochs[1] and set(epochs[0]) == set(epochs[1]) == {f"t{n}" for n in range(12)}
    parts = [s.key for start in (0, 5) for s in stored.read(seed=0, epoch=0, start=start, stop=start + 5, skip=2)]
    assert parts == epochs[0][2:5] + epochs[0][7:10]
    assert len(Trajectories(path=str(tmp_path), limit=7)) == 7


def test_batches(tmp_path):
    make(tmp_path / "trajectories-00000.safetensors")
    stored = pickle.loads(pickle.dumps(Trajectories(path=str(tmp_path))))  # as a spawned process gets it
    for workers in (0, 2):
        module = DataModule(stored, Mixture(), batch_size=4, streams=2, workers=workers, caption_dropout=1.0)
        batch = next(iter(module.loader()))
        assert batch.trajectory.states.shape == (4, T, *SHAPE) and batch.trajectory.states.dtype == torch.float32
        assert batch.guidance.shape == (4,) and batch.images is None and set(batch.negatives) == {""}
        assert "" not in batch.prompts  # the states belong to their prompts


def test_another_teacher_is_refused(tmp_path):
    make(tmp_path / "trajectories-00000.safetensors")
    stored = Trajectories(path=str(tmp_path))
    stored.require_teacher("abc")
    stored.require_teacher(None)
    with pytest.raises(DataError, match="made by teacher abc, this run's is xyz"):
        stored.require_teacher("xyz")


def test_files_made_differently_do_not_mix(tmp_path):
    header = make(tmp_path / "trajectories-00000.safetensors")["header"]
    make(tmp_path / "trajectories-00001.safetensors", first=N, header=replace(header, steps=12))
    with pytest.raises(DataError, match="was not made as"):
        Trajectories(path=str(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"states": torch.zeros(N, T, *SHAPE)}, "not the noise of their seeds"),
        ({"times": torch.tensor([0.1, 0.2, 0.3, 0.4])}, "must fall"),
        ({"times": torch.tensor([999, 500, 100, -1])}, r"within \[0, 1\]"),
        ({"guidance": torch.ones(2)}, "do not belong together"),
    ],
)
def test_wrong_trajectories_are_not_written(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        make(tmp_path / "trajectories-00000.safetensors", **changes)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("changes", [{"keys": "abcdef"}, {"teacher": 3}, {"noise": "other"}, {"guidance": (1.0,)}])
def test_headers_of_another_kind(tmp_path, changes):
    header = make(tmp_path / "trajectories-00000.safetensors")["header"]
    states = torch.zeros(N, T, *SHAPE) if "noise" in changes else None
    make(
        tmp_path / "trajectories-00000.safetensors",
        header=replace(header, **changes),
        **({} if states is None else {"states": states}),
    )
    with pytest.raises(DataError, match=r"header of another kind|not enough values"):
        Trajectories(path=str(tmp_path))


def test_files_without_trajectories(tmp_path):
    (tmp_path / "trajectories-00000.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(DataError, match="not a trajectory file"):
        Trajectories(path=str(tmp_path))
    with pytest.raises(DataError, match="no such file"):
        Trajectories(path=str(tmp_path / "elsewhere"))
    with pytest.raises(ConfigError, match="at least 1"):
        Trajectories(path=str(tmp_path), limit=0)


def test_guided_predictions_round_trip(tmp_path):
    guided = torch.randn(N, T - 1, *SHAPE, generator=torch.Generator().manual_seed(5)).half().float()
    make(tmp_path / "trajectories-00000.safetensors", guided=guided)
    stored = Trajectories(path=str(tmp_path))
    trajectory = stored[2].trajectory
    assert torch.equal(trajectory.guided[0], guided[2])
    times = torch.tensor([0.501, 0.101], dtype=torch.float64)
    assert torch.equal(trajectory.map(lambda rows: rows.expand(2, *rows.shape[1:])).guided_at(times), guided[2, 1:])
    assert trajectory.guided_at(torch.zeros(1, dtype=torch.float64)).isnan().all()  # at the end there is none
    batch = next(iter(DataModule(stored, Mixture(), batch_size=4, streams=2).loader()))
    rows = [int(key[1:]) for key in batch.keys]
    (workers,) = islice(DataModule(stored, Mixture(), batch_size=4, streams=2, workers=2).loader(), 1)
    assert torch.equal(workers.trajectory.guided, batch.trajectory.guided) and share(batch).trajectory.guided.is_shared()
    parts = [cut(batch, 0, 1), cut(batch, 1, 4)]
    assert parts[1].trajectory.guided.shape[0] == 3
    assert all(torch.equal(each.trajectory.guided, guided[rows]) for each in (batch, batch.to("cpu"), join(parts)))


def test_files_with_and_without_predictions_do_not_mix(tmp_path):
    make(tmp_path / "trajectories-00000.safetensors", guided=torch.zeros(N, T - 1, *SHAPE))
    make(tmp_path / "trajectories-00001.safetensors", first=N)
    with pytest.raises(DataError, match="was not made as"):
        Trajectories(path=str(tmp_path))


@pytest.mark.parametrize("guided", [torch.zeros(N, T, *SHAPE), torch.full((N, T - 1, *SHAPE), float("nan"))])
def test_wrong_predictions_are_not_written(tmp_path, guided):
    with pytest.raises(DataError, match=r"guided predictions|not finite"):
        make(tmp_path / "trajectories-00000.safetensors", guided=guided)
    assert not list(tmp_path.iterdir())


def test_a_file_with_predictions_of_another_length(tmp_path):
    path = tmp_path / "trajectories-00000.safetensors"
    make(path)
    with safe_open(path, framework="pt") as file:
        tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    save_file({**tensors, "guided": torch.zeros(N, T, *SHAPE)}, path, metadata)
    with pytest.raises(DataError, match=r"guided predictions .* make the trajectories again"):
        Trajectories(path=str(tmp_path))
