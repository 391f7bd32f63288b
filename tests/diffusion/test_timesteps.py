import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler

from sunlab.diffusion.timesteps import between, grid
from sunlab.errors import ConfigError
from sunlab.types import END

# diffusers hands tensors to numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS = (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler)
# 48 and 96 meet ties in rounding (937.5), where the last bit of the stride decides
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 25, 28, 30, 48, 50, 96, 100, 192, 999, 1000)


def test_the_exact_grids():
    assert grid(4).tolist() == [999, 749, 499, 249, END]
    assert grid(4, spacing="leading").tolist() == [751, 501, 251, 1, END]
    assert grid(1).tolist() == [999, END]
    assert grid(8, train_steps=8).tolist() == [7, 6, 5, 4, 3, 2, 1, 0, END]
    assert grid(4).dtype == torch.int64


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", STEPS)
def test_trailing_is_diffusers(scheduler, steps):
    theirs = scheduler(timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    assert theirs.timesteps.long().tolist() == grid(steps)[:-1].tolist()


@pytest.mark.parametrize("steps", [61, 103, 121])
def test_trailing_has_no_step_too_many(steps):
    """diffusers has one, at t = -1, where steps * (1000 / steps) falls short of 1000."""
    theirs = DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == grid(steps).tolist()


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("steps", [n for n in STEPS if n < 1000])
def test_leading_is_diffusers(scheduler, steps):
    theirs = scheduler(timestep_spacing="leading", steps_offset=1)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.long().tolist() == grid(steps, spacing="leading")[:-1].tolist()


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("steps", [*STEPS, 61])
def test_grids_fall_within_the_schedule(steps, spacing):
    times = grid(steps, spacing=spacing)
    assert len(times) == steps + 1 and times[-1] == END
    assert bool((times[:-1] >= 0).all()) and bool((times <= 999).all()) and bool((times.diff() <= 0).all())
    if spacing == "trailing":
        assert bool((times.diff() < 0).all()) and times[0] == 999


@pytest.mark.parametrize("segments", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("multiple", [1, 2, 3, 5, 6, 7, 12])
def test_a_multiple_contains_the_segments_ends(segments, multiple):
    assert set(grid(segments).tolist()) <= set(grid(segments * multiple).tolist())


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_counts_are_refused(steps):
    with pytest.raises(ConfigError, match="1000"):
        grid(steps)


def test_between_splits_each_samples_own_interval():
    times = between(torch.tensor([999, 249, 7]), torch.tensor([749, END, 7]), 5)
    assert times.T.tolist() == [[999, 949, 899, 849, 799, 749], [249, 199, 149, 99, 49, END], [7] * 6]
    assert times.dtype == torch.int64


def test_between_agrees_with_the_finer_grid():
    """The teacher's 24 steps, taken segment by segment."""
    coarse, fine = grid(4), grid(24)
    times = between(coarse[:-1], coarse[1:], 6)
    assert bool(((times[:-1].T.flatten() - fine[:-1]).abs() <= 1).all())
    assert torch.equal(times[0], coarse[:-1]) and torch.equal(times[-1], coarse[1:])


def test_between_repeats_times_where_there_are_too_few():
    times = between(torch.tensor([2]), torch.tensor([END]), 8).flatten()
    assert times[0] == 2 and times[-1] == END and bool((times.diff() <= 0).all())
    assert set(times.tolist()) == {2, 1, 0, END}
