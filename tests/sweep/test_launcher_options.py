"""Options of a launcher that the command line chooses."""

from sunlab.sweep.spec import load_sweep


def test_they_go_to_the_one_that_is_chosen(tmp_path):
    file = tmp_path / "six.yaml"
    file.write_text("launcher: {name: local, threads: 2}\n")
    words = ["launcher.partition=low", "launcher.sbatch.exclusive=true", "launcher.sbatch.nice=5"]
    chosen = load_sweep([file], words, launcher="slurm").launcher
    assert chosen == {"name": "slurm", "partition": "low", "sbatch": {"exclusive": True, "nice": 5}}
    assert load_sweep([file], ["launcher.threads=3"], launcher="local").launcher == {"name": "local", "threads": 3}
    assert load_sweep([file], launcher="slurm").launcher == "slurm"
