"""Progress as lines: how often, and what they say."""

import re

import pytest

from sunlab.cli.main import main
from sunlab.progress import Lines, clock_time


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def said(capsys):
    return capsys.readouterr().out.splitlines()


def test_a_line_at_the_start_and_one_at_the_end(clock, capsys):
    lines = Lines("draw", 3, unit="pictures", clock=clock)
    lines.begin()
    assert said(capsys) == ["draw: 0 of 3 pictures"]
    clock.now += 6
    lines.add(3)
    assert said(capsys) == ["draw: 3 of 3 pictures, 0.5 pictures/s, 0:06 elapsed"]
    lines.add(0)
    assert not said(capsys)


def test_no_more_lines_than_one_a_twentieth(clock, capsys):
    lines = Lines("fit", 10_000, unit="steps", clock=clock)
    lines.begin()
    for _ in range(10_000):
        clock.now += 1e-3
        lines.add(1)
    assert 20 <= len(said(capsys)) <= 22


def test_a_line_every_fifteen_seconds_of_slow_work(clock, capsys):
    lines = Lines("fit", 10**6, unit="steps", clock=clock)
    lines.begin()
    for _ in range(600):
        clock.now += 1
        lines.add(1)
    assert len(said(capsys)) == 1 + 600 // 15


def test_the_time_left_follows_the_rate_of_this_process(clock, capsys):
    lines = Lines("latents", 100, unit="samples", clock=clock)
    lines.begin()
    lines.skip(50)  # found on the disk
    clock.now += 20
    lines.add(10)
    assert said(capsys)[-1] == "latents: 60 of 100 samples, 0.5 samples/s, 0:20 elapsed, 1:20 left"


def test_a_resumed_training_and_a_budget(clock, capsys):
    lines = Lines("fit", None, unit="steps", rate=False, clock=clock)
    lines.begin(40, share=0.5)
    clock.now += 60
    lines.update(50, lambda: ["loss 0.1"], share=0.75)
    assert said(capsys) == ["fit: 40 steps", "fit: 50 steps, loss 0.1, 1:00 elapsed, 1:00 left"]


def test_what_a_line_says_besides_is_made_for_printed_ones_alone(clock, capsys):
    made = []
    lines = Lines("fit", 1000, unit="steps", clock=clock)
    lines.begin()
    for step in range(100):
        lines.update(step, lambda: made.append(1) or ["x"])
    assert len(made) == len(said(capsys)) - 1


def test_other_ranks_say_nothing(clock, capsys):
    lines = Lines("fit", 2, unit="steps", enabled=False, clock=clock)
    lines.begin()
    lines.add(2)
    assert not said(capsys)


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (65, "1:05"), (3723.9, "1:02:03"), (360000, "100:00:00")])
def test_times(seconds, text):
    assert clock_time(seconds) == text


def test_a_training_in_a_log_file(tiny_config, tmp_path, capfd):
    """Standard output is a file, as in a scheduler's log."""
    command = ["fit", "--config", str(tiny_config), f"run.dir={tmp_path}"]
    words = [
        "trainer.max_steps=4",
        "trainer.enable_progress_bar=true",
        "trainer.logger=false",
        "optimizer.schedule=constant",
    ]
    assert main([*command, *words]) == 0
    out, error = capfd.readouterr()
    assert "\r" not in out + error
    lines = [line for line in out.splitlines() if line.startswith("fit: ")]
    assert lines[0] == "fit: 0 of 4 steps"
    assert re.fullmatch(r"fit: 4 of 4 steps, loss [\d.e+-]+, [\d.e+]+ samples/s, \d+:\d\d elapsed", lines[-1])
