"""The contract of a solver."""

import math
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from sunlab.diffusion.grid import grid
from sunlab.testing.component import ComponentContract
from sunlab.testing.device import no_host_reads
from sunlab.testing.toy import KINDS, PATHS, SHAPE, PointDenoiser, ToyDenoiser

on_all_paths = pytest.mark.parametrize("path", PATHS)


class SolverContract(ComponentContract):
    """A solver moves each sample by its own times, keeps no state, and reaches its end; over every probability path of
    `PATHS`, those that start in pure noise included."""

    kind: ClassVar[str] = "solvers"

    def runtime(self) -> tuple[Any, ...]:
        return (PATHS["vp"],)

    def start(self, batch: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
        """Noise (B, C, H, W)."""
        return torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)

    def denoiser(self, path: str, rows: slice = slice(None)) -> ToyDenoiser:
        return ToyDenoiser(PATHS[path], kind=KINDS[path], bias=torch.tensor([-0.5, 0.0, 0.5])[rows])

    def solve(self, path: str, times: Tensor, rows: slice = slice(None)) -> Tensor:
        return self.build(PATHS[path]).solve(self.denoiser(path, rows), self.start()[rows], times)

    def times(self, *rows: list[float]) -> Tensor:
        """One list of times a sample -> (K + 1, B)."""
        return torch.tensor(rows, dtype=torch.float64).T.contiguous()

    @on_all_paths
    def test_it_reaches_the_clean_end(self, path: str) -> None:
        for steps in (1, 4, 25):
            x = self.solve(path, grid(steps, path=PATHS[path]))
            assert x.shape == (3, *SHAPE) and bool(x.isfinite().all()), steps

    @on_all_paths
    def test_it_finds_data_that_are_a_point(self, path: str) -> None:
        point = torch.linspace(-1, 1, math.prod(SHAPE), dtype=torch.float64).reshape(SHAPE)
        solver, on = self.build(PATHS[path]), PATHS[path]
        x = solver.solve(PointDenoiser(on, point), self.start(dtype=torch.float64), grid(4, path=on))
        alpha, sigma = map(float, on.alpha_sigma(solver.end))  # some end short of the clean end, with noise left
        torch.testing.assert_close(x, (alpha * point).expand_as(x), atol=1e-6 + 5 * sigma, rtol=0)

    def test_it_is_deterministic(self) -> None:
        assert torch.equal(*(self.solve("vp", grid(4)) for _ in range(2)))

    def test_it_keeps_no_state_between_calls(self) -> None:
        solver, denoise = self.build(), self.denoiser("vp")
        first = solver.solve(denoise, self.start(), grid(4))
        solver.solve(denoise, self.start() + 1, grid(5)[:-1])  # one that ends midway
        assert torch.equal(solver.solve(denoise, self.start(), grid(4)), first)

    @on_all_paths
    def test_a_step_of_no_length_changes_nothing(self, path: str) -> None:
        solver, x = self.build(PATHS[path]), self.start()
        for time in (1.0, 0.5, 0.001, 0.0):
            t = torch.full((3,), time, dtype=torch.float64)
            moved, _ = solver.step(self.denoiser(path), x, t, t)
            torch.testing.assert_close(moved, x, atol=2e-5, rtol=0)

    @on_all_paths
    def test_repeated_times_do_not_change_the_path(self, path: str) -> None:
        """Also what a multistep solver remembers must survive a step of no length."""
        repeated = self.times(*[[1.0, 1.0, 0.7, 0.4, 0.4, 0.4, 0.1, 0.0, 0.0]] * 3)
        a, b = (self.solve(path, times) for times in (repeated[[0, 2, 3, 6, 7]], repeated))
        torch.testing.assert_close(a, b, atol=2e-5, rtol=0)

    @on_all_paths
    def test_a_sample_does_not_depend_on_its_batch(self, path: str) -> None:
        times = self.times([1.0, 0.75, 0.5, 0.25, 0.0], [1.0, 1.0, 0.6, 0.6, 0.3], [0.7, 0.2, 0.05, 0.0, 0.0])
        together = self.solve(path, times)
        for i in range(3):
            row = slice(i, i + 1)
            torch.testing.assert_close(together[row], self.solve(path, times[:, row], row), atol=1e-5, rtol=0)

    @on_all_paths
    def test_it_keeps_the_dtype(self, path: str) -> None:
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            x = self.build(PATHS[path]).solve(self.denoiser(path), self.start(dtype=dtype), grid(4, path=PATHS[path]))
            assert x.dtype == dtype and bool(x.isfinite().all())

    @on_all_paths
    def test_gradients_are_finite(self, path: str) -> None:
        """With steps of no length, steps to the end, and both in one batch."""
        denoise = self.denoiser(path)
        times = self.times([1.0, 0.75, 0.5, 0.25, 0.0], [1.0, 1.0, 0.6, 0.3, 0.3], [0.3, 0.0, 0.0, 0.0, 0.0])
        self.build(PATHS[path]).solve(denoise, self.start(), times).square().sum().backward()
        gradient = denoise.weight.grad
        assert gradient is not None and bool(gradient.isfinite().all()) and bool((gradient != 0).any())

    @pytest.mark.parametrize("path", ["zero_snr", "flow"])
    def test_nothing_waits_for_the_device(self, path: str) -> None:
        with no_host_reads():
            times = self.times([1.0, 0.75, 0.5, 0.0], [1.0, 1.0, 0.6, 0.3], [0.3, 0.0, 0.0, 0.0])
            self.solve(path, times).sum().backward()
