"""Scripts for Slurm: what stands in them, and that nothing in a configuration becomes a command. No Slurm is needed;
`tests/slurm` runs them on one."""

import os
import subprocess
from pathlib import Path

import pytest

from registry import RegistryError
from sunlab.cli.main import main
from sunlab.errors import ConfigError, StorageError
from sunlab.sweep.launchers import LAUNCHERS, Job
from sunlab.sweep.queue import _meaning
from sunlab.sweep.sbatch import directive, free_options, seconds
from sunlab.sweep.slurm import Slurm, groups, probe

EVIL = 'it\'s $(touch pwned) `touch pwned`; touch pwned # "x" ${HOME}'
HOSTILE = [
    EVIL,
    "100%j %x%%",
    "  two  spaces ",
    "*?[a-z]~",
    "a;b&&touch pwned|c>pwned",
    "!! \\",
    "'",
    '"',
    "#SBATCH --uid=0",
    "é ünï",
]


def jobs(folder, *names, needs=(), **trainer):
    return [Job(n, n, folder / "sweep" / "runs" / n, needs, trainer or {"devices": 1}) for n in names]


def lines(script: str) -> list[str]:
    return script.splitlines()


def test_what_is_asked_for(tmp_path):
    launcher = Slurm(
        partition="gpu", account="sun", qos="long", constraint="a100|h100", time="12:00:00",
        cpus=8, memory="64G", throttle=3,
        sbatch={"mem-per-cpu": "4G", "exclusive": True, "nice": 10, "mail-user": None},
    )  # fmt: skip
    script = launcher.script(jobs(tmp_path, "a", "b", num_nodes=2, devices=4, accelerator="gpu"))
    for line in (
        "partition=gpu", "account=sun", "qos=long", "constraint='a100|h100'", "time=12:00:00", "cpus-per-task=8", "mem=64G",
        "mem-per-cpu=4G", "exclusive", "nice=10", "array=0-1%3", "nodes=2", "ntasks-per-node=4", "gpus-per-node=4",
        "job-name=sweep", "open-mode=append", "requeue", "signal=USR1@120", f"output={tmp_path}/sweep/slurm/%A_%a.log",
    ):  # fmt: skip
        assert f"#SBATCH --{line}" in lines(script)
    assert "mail-user" not in script
    assert 'srun --kill-on-bad-exit=1 --wait=0 --cpus-per-task=8 "${command[@]}"' in script
    assert not (tmp_path / "sweep").exists(), "nothing is touched"


def test_no_value_becomes_a_command(tmp_path):
    """Run by bash itself, with srun and scontrol that only note what they are given."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("srun", "scontrol"):
        (tools / name).write_text(f'#!/bin/bash\nprintf "%s\\n" {name} "$@" >>"$NOTES"\nexit $CODE\n')
        (tools / name).chmod(0o755)
    (job,) = jobs(tmp_path / EVIL.replace("/", "-"), EVIL.replace("/", "-"))
    job.folder.mkdir(parents=True)
    launcher = Slurm(partition=EVIL, container=EVIL, mounts=[EVIL], python=EVIL, sbatch={"comment": EVIL})
    script = launcher.script([job])
    for code, requeued in (("0", False), ("75", True), ("138", True), ("1", False)):
        notes = tmp_path / f"notes{code}"
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "NOTES": str(notes), "CODE": code, "SLURM_JOB_ID": "7"}
        done = subprocess.run(
            ["bash", "-c", script], cwd=tmp_path, env={**environment, "SLURM_JOB_NODELIST": "n1"}, check=False, timeout=300
        )
        words = notes.read_text().splitlines()
        assert done.returncode == int(code)
        assert words[words.index(EVIL) :][:4] == [EVIL, "-m", "sunlab", "sweep"]
        assert (words[-3:] == ["scontrol", "requeue", "7"]) is requeued
    script = Slurm(restarts=3).script([job])
    for count, requeued in (("2", True), ("3", False)):  # a job that gets nowhere comes to an end
        notes = tmp_path / f"restarts{count}"
        environment = {"PATH": f"{tools}:{os.environ['PATH']}", "NOTES": str(notes), "CODE": "75", "SLURM_JOB_ID": "7"}
        environment |= {"SLURM_JOB_NODELIST": "n1", "SLURM_RESTART_COUNT": count}
        assert subprocess.run(["bash", "-c", script], env=environment, check=False, timeout=300).returncode == 75
        assert ("requeue" in notes.read_text()) is requeued
    assert "not requeued after 3 restarts" in job.log.read_text()
    assert not list(tmp_path.rglob("pwned"))
    assert "start 1" in job.log.read_text(), "the log is the run's own, and appended to"
    assert job.log.read_text().count("== ") == 10


@pytest.mark.parametrize("value", HOSTILE)
def test_every_word_arrives_as_it_was(value, tmp_path):
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "srun").write_text('#!/bin/bash\nprintf "%s\\0" "$@" >"$NOTES"\n')
    (tools / "srun").chmod(0o755)
    notes, environment = tmp_path / "notes", {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_ARRAY_TASK_ID": "1"}
    environment |= {"PATH": f"{tools}:{os.environ['PATH']}", "NOTES": str(notes)}
    launcher = Slurm(partition=value, account=value, qos=value, constraint=value, memory=value, gpus=value,
                     container=value, mounts=[value], python=value, sbatch={"comment": value})  # fmt: skip
    two = [Job(name, value, tmp_path / "s" / "runs" / name, (), {"devices": 1}, ("fit", value)) for name in "ab"]
    for job in two:
        job.folder.mkdir(parents=True)
    subprocess.run(["bash", "-c", launcher.script(two)], cwd=tmp_path, env=environment, check=True, timeout=300)
    words = notes.read_text().split("\0")
    assert f"--container-image={value}" in words and f",{value}:{value}" in " ".join(words)
    assert words[-6:] == [value, "-m", "sunlab", "fit", value, ""]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "notes", "s"], "nothing else was made"


def test_a_word_that_looks_like_an_option_is_refused():
    for options in ({"python": "--multi-prog"}, {"container": "-x.sif"}, {"python": ""}):
        with pytest.raises(ConfigError, match=r"launcher\.\w+: .* would be taken for an option; give a path"):
            Slurm(**options)


@pytest.mark.parametrize("value", ["a\n#SBATCH --uid=0", "a\x00b", "a\rb"])
def test_a_line_break_is_refused(value, tmp_path):
    for launcher in (Slurm(partition=value), Slurm(sbatch={"comment": value}), Slurm(container=value)):
        with pytest.raises(ConfigError, match="control character or a line break"):
            launcher.script(jobs(tmp_path, "a"))
    (job,) = jobs(tmp_path, "a")
    named = Job("a", value, job.folder)  # a name is only shown
    assert len(lines(Slurm().script([named]))) == len(lines(Slurm().script([job])))


def test_free_options():
    assert free_options({"mem_per_cpu": "4G", "gpus": 2, "mail-user": None}) == {
        "mem-per-cpu": "4G",
        "gpus": 2,
        "mail-user": None,
    }
    for key, value, said in (
        ("array", "0-9", "sunlab sets --array itself"),
        ("arr", "0-9", "sunlab sets --array itself"),  # sbatch takes abbreviations
        ("n", 4, "sunlab sets --"),
        ("tim", "1:00", "launcher.time"),
        ("cpus_per_task", 8, "launcher.cpus"),
        ("--mem-per-cpu", 1, "not a long option of sbatch"),
        ("a b", 1, "not a long option of sbatch"),
        ("nodelist", ["n1"], "expected text, a number"),
    ):
        with pytest.raises(ConfigError, match=rf"launcher\.sbatch\.{key}: .*{said}"):
            Slurm(sbatch={key: value})


def test_wrong_options():
    for options, said in (
        ({"throttle": 0}, "launcher.throttle: must be at least 1"),
        ({"restarts": -1}, "launcher.restarts: must be at least 0"),
        ({"notice": 0}, "launcher.notice: expected 1 to 65535"),
        ({"time": "12 hours"}, "launcher.time: expected minutes"),
        ({"time": "0:02:00"}, r"launcher\.notice: 120 s .*launcher\.time"),
    ):
        with pytest.raises(ConfigError, match=said):
            Slurm(**options)
    with pytest.raises(RegistryError, match="did you mean 'partition'"):
        LAUNCHERS.build({"name": "slurm", "partitoin": "gpu"}, key="launcher")
    with pytest.raises(RegistryError, match=r"launcher\.time"):
        LAUNCHERS.build({"name": "slurm", "time": 43200}, key="launcher")  # YAML's reading of 12:00:00 without quotes


def test_time_limits():
    limits = {"90": 5400, "90:30": 5430, "12:00:00": 43200, "2-12": 216000, "2-12:30": 217800, "2-12:30:05": 217805}
    assert {time: seconds(time) for time in limits} == limits and seconds("UNLIMITED") == float("inf")


def test_an_array_holds_runs_of_one_shape_and_one_need(tmp_path):
    found = groups(
        [
            *jobs(tmp_path, "a", "b"),
            *jobs(tmp_path, "c", num_nodes=2, devices=4),
            *jobs(tmp_path, "d", "e", needs=("a",)),
            *jobs(tmp_path, *map(str, range(1001))),
        ]
    )
    assert [len(group) for group in found] == [1000, 3, 1, 2]  # a and b are among the first
    assert [job.id for job in found[-1]] == ["d", "e"], "children last"
    script = Slurm().script([*jobs(tmp_path, "a"), *jobs(tmp_path, "d", needs=("a",))])
    assert "#SBATCH --dependency='afterok:<a>'" in script and "#SBATCH --kill-on-invalid-dep=yes" in script
    with pytest.raises(ConfigError, match=r"config\.yaml: trainer\.devices: .*'auto'"):
        groups(jobs(tmp_path, "a", devices="auto"))


def test_a_graph_is_queued_by_depth(tmp_path, monkeypatch):
    """Teacher, adapters, evaluation: what is needed has its number first, and alike runs share one call of sbatch."""
    (teacher,) = jobs(tmp_path, "teacher")
    graph = [teacher]
    for seed in "012":  # as a file may say it: each evaluation right after its adapter
        graph += jobs(tmp_path, f"adapter{seed}", needs=("teacher",)) + jobs(
            tmp_path, f"own{seed}", needs=(f"adapter{seed}",)
        )
    graph += jobs(tmp_path, "all", "again", needs=("adapter0", "adapter1", "adapter2", "before"))
    queued = []

    def ask(*words):
        if words[1] == "--parsable":
            queued.append(
                [line for line in lines(Path(words[2]).read_text()) if "--dependency" in line or "--array" in line]
            )
        return str(70 + len(queued))

    monkeypatch.setattr("sunlab.sweep.slurm.command", ask)
    handles = dict(Slurm().submit(graph, {"before": "9_3"}))
    assert queued == [
        [],
        ["#SBATCH --array=0-2", "#SBATCH --dependency=afterok:71"],
        *([f"#SBATCH --dependency=afterok:72_{seed}"] for seed in range(3)),
        ["#SBATCH --array=0-1", "#SBATCH --dependency=afterok:72_0:72_1:72_2:9_3"],
    ]
    assert handles.keys() == {job.id for job in graph}


def test_containers(tmp_path):
    (job,) = jobs(tmp_path, "a", accelerator="gpu", devices=2)
    assert "srun --kill-on-bad-exit=1 --wait=0 apptainer exec --nv --bind" in Slurm(container="sun.sif").script([job])
    script = Slurm(container="nvcr.io/nvidia/pytorch:25.01", mounts=["/data"]).script([job])
    assert "--container-image=nvcr.io/nvidia/pytorch:25.01" in script and ",/data:/data" in script
    assert "command=(python3 -m sunlab" in script


def test_missing_sbatch(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["submit", "--config", str(tiny_config), f"run.dir={tmp_path / 'runs'}"]) == 78
    assert "no command 'sbatch' on this machine; start this on a login node" in capsys.readouterr().err
    assert not list((tmp_path / "runs").rglob("config.yaml")), "nothing is left that was not queued"


def test_submit_shows_its_script(tiny_config, tmp_path, monkeypatch, capsys):
    site = tmp_path / "site.yaml"
    site.write_text("launcher: {partition: gpu, time: '1:00:00', sbatch: {nice: 1}}\n")
    words = ["--cluster", str(site), "launcher.partition=big", "launcher.sbatch.mail_type=FAIL", "--dry-run"]
    assert main(["submit", "--config", str(tiny_config), f"run.dir={tmp_path}", *words, "trainer.devices=2"]) == 0
    said = lines(capsys.readouterr().out)
    for line in ("partition=big", "time=1:00:00", "nice=1", "mail-type=FAIL", "ntasks-per-node=2", "job-name=tiny"):
        assert f"#SBATCH --{line}" in said
    assert any(f"fit --config {tmp_path}/tiny/config.yaml --resume auto)" in line for line in said)
    assert not (tmp_path / "tiny").exists()
    assert main(["submit", "--config", str(tiny_config), "launcher.partitoin=big", "--dry-run"]) == 78
    assert "did you mean 'partition'" in capsys.readouterr().err


def test_a_full_disk(tmp_path, monkeypatch):
    def full(_handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sunlab.sweep.slurm.os.fsync", full)
    with pytest.raises(StorageError, match=r"logs cannot be written here: No space left on device; no job was queued"):
        probe(tmp_path / "runs")
    assert not list((tmp_path / "runs").iterdir())


def test_backslashes_are_for_sbatch_to_eat():
    """It takes them for escapes even within quotes; `tests/slurm` asks it."""
    assert directive("comment", "a\\b 'c'") == "#SBATCH --comment='a\\\\b '\"'\"'c'\"'\"''"


FAKES = {
    "sbatch": 'test "$1" = --version && exit; kill -INT $PPID; sleep 0.2; echo 4711',  # Ctrl-C while it is at work
    "squeue": 'test ! -f down && exit; echo "slurm_load_jobs error: cannot contact it" >&2; exit 1',
}


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Commands that only do as if there were a cluster."""
    for name, script in FAKES.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)


def test_ctrl_c_while_sbatch_is_at_work_loses_no_handle(fakes, tmp_path):
    noted = {}
    with pytest.raises(KeyboardInterrupt):
        noted.update(Slurm().submit(jobs(tmp_path, "a", "b"), {}))
    assert noted == {"a": "4711_0", "b": "4711_1"}


def test_a_queue_without_an_answer_is_not_an_empty_one(fakes, tmp_path):
    assert Slurm().states({"a": "1"}) == {"a": "gone"}
    (tmp_path / "down").touch()
    with pytest.raises(ConfigError, match="launcher slurm: slurm_load_jobs error: cannot contact it"):
        Slurm().states({"a": "1"})


def test_states():
    assert [_meaning(state) for state in ("CANCELLED by 0", "NODE_FAIL", "COMPLETING", "REQUEUE_HOLD", "", "NEW_ONE")] == [
        "cancelled", "failed", "running", "requeued", None, None,
    ]  # fmt: skip
