"""The contract of a solver."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from sunlab.diffusion.schedule import Schedule
from sunlab.diffusion.timesteps import grid
from sunlab.errors import ConfigError
from sunlab.testing.component import ComponentContract
from sunlab.testing.toy import SHAPE, PointDenoiser, ToyDenoiser
from sunlab.types import END


class SolverContract(ComponentContract):
    """A solver moves each sample by its own times, keeps no state, and reaches its end."""

    kind: ClassVar[str] = "solvers"
    schedule: ClassVar[Schedule] = Schedule.from_betas()

    def runtime(self) -> tuple[Any, ...]:
        return (self.schedule,)

    def start(self, batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
        """Noise (B, C, H, W)."""
        return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)

    def denoiser(self, rows: slice = slice(None)) -> ToyDenoiser:
        return ToyDenoiser(self.schedule, bias=torch.tensor([-0.5, 0.0, 0.5])[rows])

    def times(self, *rows: list[int]) -> Tensor:
        """One list of times a sample -> (K + 1, B)."""
        return torch.tensor(rows).T.contiguous()

    def test_it_reaches_the_clean_end(self) -> None:
        for steps in (1, 4, 25):
            x = self.build().solve(self.denoiser(), self.start(), grid(steps))
            assert x.shape == (3, *SHAPE) and bool(x.isfinite().all()), steps

    def test_it_finds_data_that_are_a_point(self) -> None:
        point = torch.linspace(-1, 1, 18, dtype=torch.float64).reshape(SHAPE)
        solver = self.build()
        x = solver.solve(PointDenoiser(self.schedule, point), self.start(dtype=torch.float64), grid(4))
        alpha, sigma = map(float, self.schedule.alpha_sigma(solver.end))  # some end short of the clean end, with noise left
        torch.testing.assert_close(x, (alpha * point).expand_as(x), atol=1e-6 + 5 * sigma, rtol=0)

    def test_it_is_deterministic(self) -> None:
        results = [self.build().solve(self.denoiser(), self.start(), grid(4)) for _ in range(2)]
        assert torch.equal(*results)

    def test_it_keeps_no_state_between_calls(self) -> None:
        solver = self.build()
        first = solver.solve(self.denoiser(), self.start(), grid(4))
        solver.solve(self.denoiser(), self.start() + 1, grid(5)[:-1])  # one that ends midway
        assert torch.equal(solver.solve(self.denoiser(), self.start(), grid(4)), first)

    def test_a_step_of_no_length_changes_nothing(self) -> None:
        solver, x = self.build(), self.start()
        for time in (999, 500, 0, END):
            t = torch.full((3,), time)
            moved, _ = solver.step(self.denoiser(), x, t, t)
            torch.testing.assert_close(moved, x, atol=2e-5, rtol=0)

    def test_repeated_times_do_not_change_the_path(self) -> None:
        """Also what a multistep solver remembers must survive a step of no length."""
        plain = self.times(*[[999, 999, 700, 400, 400, 400, 100, END, END]] * 3)[[0, 2, 3, 6, 7]]
        repeated = self.times(*[[999, 999, 700, 400, 400, 400, 100, END, END]] * 3)
        solve = self.build().solve
        a, b = (solve(self.denoiser(), self.start(), times) for times in (plain, repeated))
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)

    def test_a_sample_does_not_depend_on_its_batch(self) -> None:
        times = self.times([999, 749, 499, 249, END], [999, 999, 600, 600, 300], [700, 200, 50, END, END])
        together = self.build().solve(self.denoiser(), self.start(), times)
        for i in range(3):
            row = slice(i, i + 1)
            alone = self.build().solve(self.denoiser(row), self.start()[row], times[:, row])
            torch.testing.assert_close(together[row], alone, atol=1e-5, rtol=0)

    def test_it_keeps_the_dtype(self) -> None:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            x = self.build().solve(self.denoiser(), self.start(dtype=dtype), grid(4))
            assert x.dtype == dtype and bool(x.isfinite().all())

    def test_gradients_are_finite(self) -> None:
        """With steps of no length, steps to the end, and both in one batch."""
        denoise = self.denoiser()
        times = self.times([999, 749, 499, 249, END], [999, 999, 600, 300, 300], [300, END, END, END, END])
        self.build().solve(denoise, self.start(), times).square().sum().backward()
        gradient = denoise.weight.grad
        assert gradient is not None and bool(gradient.isfinite().all()) and bool((gradient != 0).any())

    def test_pure_noise_at_the_start(self) -> None:
        """With zero terminal signal-to-noise a solver works (v-prediction), or says that it cannot."""
        schedule = Schedule.from_betas(zero_terminal_snr=True)
        denoise = ToyDenoiser(schedule, kind="v_prediction")
        try:
            x = self.build(schedule).solve(denoise, self.start(), grid(4))
        except (ValueError, ConfigError) as refusal:
            if len(str(refusal)) < 40:  # too short to name a remedy
                raise
        else:
            assert bool(x.isfinite().all())
