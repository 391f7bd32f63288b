import math

import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

from sunlab.diffusion.grid import between, check_times, constant, grid, grid_times
from sunlab.diffusion.path import DiscreteVP, RectifiedFlow
from sunlab.errors import ConfigError

# diffusers hands tensors to numpy in the old way
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SCHEDULERS = (DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler)
# 48 and 96 meet ties in rounding (937.5), where the last bit of the stride decides
STEPS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20, 24, 25, 28, 30, 48, 50, 96, 100, 192, 999, 1000)
PATH = DiscreteVP.from_betas()


def steps_of(times):
    return PATH.step(times).long().tolist()


def times_of(*steps):
    return (torch.tensor(steps, dtype=torch.float64) + 1) / 1000


def test_the_exact_grids():
    assert grid(4).tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]
    assert grid(4, spacing="leading").tolist() == [0.752, 0.502, 0.252, 0.002, 0.0]
    assert grid(1).tolist() == [1.0, 0.0]
    assert grid(3, spacing="uniform").tolist() == pytest.approx([1, 2 / 3, 1 / 3, 0])
    assert grid(8, path=DiscreteVP(torch.linspace(0.9, 0.1, 8))).tolist() == [1 - i / 8 for i in range(9)]
    assert grid(4).dtype == torch.float64 and grid_times(4) == (1.0, 0.75, 0.5, 0.25, 0.0)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("steps", STEPS)
def test_trailing_is_diffusers(scheduler, steps):
    theirs = scheduler(timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    assert theirs.timesteps.long().tolist() == steps_of(grid(steps)[:-1])


@pytest.mark.parametrize("steps", [61, 103, 121])
def test_trailing_has_no_step_too_many(steps):
    """diffusers has one, at its step -1, where steps * (1000 / steps) falls short of 1000."""
    theirs = DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    assert theirs.timesteps.tolist() == steps_of(grid(steps))


@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler])
@pytest.mark.parametrize("steps", [n for n in STEPS if n < 1000])
def test_leading_is_diffusers(scheduler, steps):
    theirs = scheduler(timestep_spacing="leading", steps_offset=1)
    theirs.set_timesteps(steps)
    assert theirs.timesteps.long().tolist() == steps_of(grid(steps, spacing="leading")[:-1])


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_a_shifted_uniform_grid_is_diffusers(steps, shift):
    """As the pipelines of SD3's successors ask for it: sigmas 1, ..., 1 / steps, which the scheduler shifts."""
    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=[1 - i / steps for i in range(steps)])
    ours = grid(steps, spacing="uniform", path=RectifiedFlow(shift=shift))
    torch.testing.assert_close(ours.float(), theirs.sigmas, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("shift", "times"), [(0.5, [999, 599, 332, 142]), (1.0, [999, 749, 499, 249]), (3.0, [999, 899, 749, 499])]
)
def test_a_shifted_grid_has_whole_training_steps(shift, times):
    """shift t / (1 + (shift - 1) t) of 1, 3/4, 1/2, 1/4: for 1/2 these are 1, 3/5, 1/3, 1/7."""
    assert steps_of(grid(4, shift=shift, path=PATH)) == [*times, -1]


@pytest.mark.parametrize("shift", [0.3, 0.7, 2.3])
@pytest.mark.parametrize("multiple", [2, 3, 6, 7])
def test_a_multiple_of_the_same_shift_contains_the_segments_ends(shift, multiple):
    assert set(grid_times(4, shift=shift)) <= set(grid_times(4 * multiple, shift=shift))


def test_the_shifts_of_grid_and_path_multiply():
    both, one = (grid(7, spacing="uniform", shift=a, path=RectifiedFlow(shift=b)) for a, b in ((0.5, 3.0), (1.0, 1.5)))
    torch.testing.assert_close(both, one)


@pytest.mark.parametrize("shift", [0.0, -1.0, math.inf, math.nan, 1e-4])
def test_impossible_shifts_are_refused(shift):
    with pytest.raises(ConfigError, match="shift"):
        grid(4, shift=shift)


@pytest.mark.parametrize("path", [PATH, RectifiedFlow(), RectifiedFlow(shift=3.0)])
@pytest.mark.parametrize("spacing", ["trailing", "leading", "uniform"])
@pytest.mark.parametrize("steps", [*(n for n in STEPS if n < 1000), 61])
def test_grids_fall_from_noise_to_clean(steps, spacing, path):
    times = grid(steps, spacing=spacing, path=path)
    assert len(times) == steps + 1 and times[-1] == 0 and bool((times.diff() < 0).all())
    assert times[0] == 1 or spacing == "leading"


@pytest.mark.parametrize("segments", [1, 2, 3, 4, 5, 6, 8])
@pytest.mark.parametrize("multiple", [1, 2, 3, 5, 6, 7, 12])
def test_a_multiple_contains_the_segments_ends(segments, multiple):
    assert set(grid_times(segments)) <= set(grid_times(segments * multiple))


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_counts_are_refused(steps):
    with pytest.raises(ConfigError, match="1000"):
        grid(steps)


@pytest.mark.parametrize("times", [(1.0,), (0.5, 1.0), (1.0, 1.0, 0.0), (1.5, 0.0), (1.0, -0.1), (999, 0)])
def test_what_is_no_grid_is_refused(times):
    with pytest.raises(ConfigError, match=r"\[0, 1\]"):
        check_times(times)


def test_between_splits_each_samples_own_interval():
    times = between(PATH, times_of(999, 249, 7), times_of(749, -1, 7), 5)
    expected = [[999, 949, 899, 849, 799, 749], [249, 199, 149, 99, 49, -1], [7] * 6]
    assert [steps_of(column) for column in times.T] == expected
    assert times.dtype == torch.float64


def test_between_agrees_with_the_finer_grid():
    """The teacher's 24 steps, taken segment by segment."""
    coarse, fine = grid(4), grid(24)
    times = between(PATH, coarse[:-1], coarse[1:], 6)
    assert bool(((times[:-1].T.flatten() - fine[:-1]).abs() < 1.5e-3).all())
    assert torch.equal(times[0], coarse[:-1]) and torch.equal(times[-1], coarse[1:])


def test_between_repeats_times_where_there_are_too_few():
    times = between(PATH, times_of(2), times_of(-1), 8).flatten()
    assert set(steps_of(times)) == {2, 1, 0, -1} and bool((times.diff() <= 0).all())


def test_between_on_a_flow_is_even():
    start, end = torch.tensor([1.0, 0.3], dtype=torch.float64), torch.tensor([0.0, 0.3], dtype=torch.float64)
    times = between(RectifiedFlow(), start, end, 7)
    torch.testing.assert_close(times[:, 0], torch.linspace(1, 0, 8, dtype=torch.float64))
    torch.testing.assert_close(times[:, 1], torch.full((8,), 0.3, dtype=torch.float64))


def test_constants_are_made_once():
    assert constant((1.0, 0.5), torch.device("cpu")) is constant((1.0, 0.5), torch.device("cpu"))


@pytest.mark.parametrize("path", ["vp", "zero_snr", "flow", "shifted_flow"])
def test_the_inverse_of_lambda(path):
    from sunlab.testing.toy import PATHS

    t = torch.linspace(0.0007, 0.9993, 173, dtype=torch.float64)
    torch.testing.assert_close(PATHS[path].time_of(PATHS[path].log_snr(t)), t, rtol=0, atol=1e-8)


def test_even_in_lambda():
    """lambda of the times between is evenly spaced; on whole steps it is so within half a step."""
    start, end = (torch.tensor(each, dtype=torch.float64) for each in ([0.9, 1.0], [0.1, 0.5]))
    flow = between(RectifiedFlow(), start, end, 4, "lambda")
    lam = torch.log((1 - flow) / flow)
    assert torch.equal(flow[[0, -1]], torch.stack([start, end]))
    torch.testing.assert_close(lam[:, 0].diff(), torch.full((4,), 2 * math.log(9) / 4, dtype=torch.float64))
    torch.testing.assert_close(lam[1:, 1].diff(), torch.full((3,), math.log(999) / 4, dtype=torch.float64))
    path = DiscreteVP.from_betas()
    whole = between(path, start, end, 4, "lambda")
    torch.testing.assert_close(path.step(whole), path.step(whole).round(), atol=1e-6, rtol=0)
    assert bool((whole.diff(dim=0) < 0).all())
    steps = path.log_snr(whole).diff(dim=0)
    torch.testing.assert_close(steps, steps.mean(0).expand(4, -1), rtol=0.02, atol=0)
