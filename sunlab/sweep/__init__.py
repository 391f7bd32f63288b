"""Sweeps: the runs of a sweep file, where they are launched, how each stands, and their table. Open `spec.py` for the file,
`grid.py` for the runs that it means, `launchers.py` for the contract of a launcher.

The folder of a sweep, which any process on any machine can read without a scheduler:

```
sweep.yaml             the sweep file, with what the command line changed
plan.json              its runs: identity, label, seed, axes, parents
runs/ID/config.yaml    one resolved configuration a run; ID is the hash of it
runs/ID/run.json        the run's entry of the plan
runs/ID/handle.json    what the launcher calls the run
runs/ID/status.json    written by the run itself, whole or not at all: state, attempt, exit code, error
runs/ID/environment.json   git commit, packages, seed, machine
runs/ID/log.txt        what it printed, over all attempts
runs/ID/training.json   after the training: steps, NFE, seconds
runs/ID/metrics.json   at the end of a run that is done, and never before
runs/ID/checkpoints/, export/, evaluation/, csv/, tb/
pictures/              drawn for the evaluations, shared: the teacher's are drawn once
```
"""
