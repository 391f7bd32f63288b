"""Sweep files: which runs they mean, what identifies one, and what is said of a wrong file."""

import pytest

from sunlab.config.load import load_config
from sunlab.errors import ConfigError
from sunlab.sweep.folder import read_plan, write_plan
from sunlab.sweep.grid import plan, resolved
from sunlab.sweep.spec import load_sweep, merged


def runs_of(file, *words):
    return plan(load_sweep([file], words))


def test_a_grid_is_crossed_with_every_group_and_its_seeds(sweep_file):
    runs = runs_of(
        sweep_file(
            grid={"optimizer.lr": [0.1, 0.2]},
            list=[{"name": "SUN", "seeds": [3, 4]}, {"name": "cfg", "overrides": {"loss": "cfg"}}],
        )
    )
    assert [run.name for run in runs] == [
        *(f"SUN, optimizer.lr={lr}, seed {seed}" for lr in (0.1, 0.2) for seed in (3, 4)),
        *(f"cfg, optimizer.lr={lr}, seed 0" for lr in (0.1, 0.2)),
    ]
    assert len({run.id for run in runs}) == 6
    assert [run.tree["optimizer"]["lr"] for run in runs[:3]] == [0.1, 0.1, 0.2]
    assert runs[-1].tree["loss"]["name"] == "cfg" and runs[1].tree["seed"] == 4


def test_an_identity_is_of_the_configuration_and_of_nothing_else(sweep_file):
    (one,) = runs_of(sweep_file("one", list=[{"name": "a"}]))
    (other,) = runs_of(sweep_file("other", list=[{"name": "b", "overrides": {"loss": {"name": "msc"}}}]), "dir=elsewhere")
    (changed,) = runs_of(sweep_file("one", list=[{"name": "a"}]), "optimizer.lr=0.5")
    assert one.id == other.id != changed.id
    (limited,) = runs_of(sweep_file("one", list=[{"name": "a"}]), "budget.nfe=900")
    assert limited.id != one.id and limited.tree["budget"]["nfe"] == 900


def test_equal_configurations_are_one_run_in_two_rows(sweep_file):
    runs = runs_of(sweep_file(list=[{"name": "a"}, {"name": "b", "grid": {"loss": ["msc", "cfg"]}}]))
    assert [run.label for run in runs] == ["a", "b, loss=msc", "b, loss=cfg"]
    assert runs[0].id == runs[1].id != runs[2].id


def test_a_child_goes_on_from_the_parent_of_its_seed(sweep_file):
    variants = {"evaluate.variants": [{"name": "one step", "adapter": "{SUN}/export/adapter.safetensors", "steps": 1}]}
    file = sweep_file(
        list=[
            {"name": "SUN", "seeds": [1, 2]},
            {"name": "later", "seeds": [2, 1], "needs": ["SUN"], "do": ["evaluate"], "overrides": variants},
            {"name": "all", "needs": ["SUN"], "do": ["evaluate"]},
        ]
    )
    sun, later, everything = (runs_of(file)[part] for part in (slice(0, 2), slice(2, 4), slice(4, None)))
    assert [run.needs for run in later] == [(sun[1].id,), (sun[0].id,)]
    assert [run.needs for run in everything] == [(sun[0].id, sun[1].id)]
    tree = resolved(later[0], "somewhere/runs")
    assert tree["evaluate"]["variants"][0]["adapter"] == f"somewhere/runs/{sun[1].id}/export/adapter.safetensors"
    assert tree["run"]["dir"] == "somewhere/runs" and tree["run"]["name"] == later[0].id
    moved = runs_of(file, "dir=elsewhere")
    assert [run.id for run in moved] == [run.id for run in runs_of(file)]
    assert runs_of(file, "optimizer.lr=0.7")[2].id != later[0].id  # another parent, another child


def test_a_child_without_seeds_takes_its_parents(sweep_file):
    child = {"name": "later", "needs": ["SUN"], "overrides": {"model.base": "{SUN}/export"}}
    runs = runs_of(sweep_file(seeds=None, list=[{"name": "SUN", "seeds": [5, 6]}, child]))
    assert [(run.label, run.seed) for run in runs] == [("SUN", 5), ("SUN", 6), ("later", 5), ("later", 6)]


def test_a_child_meets_each_of_several_parents(sweep_file):
    child = {"name": "later", "needs": ["SUN"], "overrides": {"model.base": "{SUN}/export"}}
    runs = runs_of(sweep_file(list=[{"name": "SUN", "grid": {"optimizer.lr": [0.1, 0.2]}}, child]))
    assert [run.label for run in runs[2:]] == ["later, SUN.optimizer.lr=0.1", "later, SUN.optimizer.lr=0.2"]


def test_what_is_written_reads_back_and_reruns(sweep_file):
    sweep = load_sweep([sweep_file(list=[{"name": "ä, #1", "grid": {"loss": ["msc", {"name": "cfg"}]}}])], ["budget.nfe=9"])
    runs = plan(sweep)
    folder = write_plan(sweep, runs)
    assert read_plan(folder) == runs
    assert load_sweep([folder / "sweep.yaml"]) == sweep
    for run in runs:
        saved = load_config([folder / "runs" / run.id / "config.yaml"])
        assert saved.config.run.name == run.id and saved.saved["loss"] == run.tree["loss"]


def test_later_overrides_drop_what_they_choose_anew():
    former = {"loss.substeps": 3, "loss": "msc", "trainer.max_steps": 2, "lossy": 1}
    assert merged(former, {"loss": "cfg"}) == {"trainer.max_steps": 2, "lossy": 1, "loss": "cfg"}
    assert merged(former, {"loss.name": "cfg"}) == {"loss": "msc", "trainer.max_steps": 2, "lossy": 1, "loss.name": "cfg"}
    assert merged(former, {"loss.substeps": 4}) == {**former, "loss.substeps": 4}


def test_what_stands_in_braces_may_be_a_pattern_of_files(sweep_file):
    urls = {"data.source.urls": ["shards-{0..3}/{00..09}.tar", "a/{b,c}/d.tar"]}
    assert len(runs_of(sweep_file(list=[{"name": "a", "overrides": urls}], baseline="a, 4 steps"))) == 1


@pytest.mark.parametrize(
    ("keys", "match"),
    [
        ({"grdi": {}}, r"wrong.yaml: grdi: no such key; did you mean 'grid'\?"),
        ({"list": [{"name": "a", "seed": [1]}]}, r"list.0.seed: no such key; did you mean 'seeds'\?"),
        ({"list": [{"name": "a"}, {"name": "a"}]}, r"list\.1\.name: 'a'"),
        ({"list": [{"name": "a", "needs": ["b"]}, {"name": "b"}]}, "no group 'b' before this one"),
        ({"grid": {"loss": []}}, "grid.loss: no values"),
        ({"grid": {"loss": "msc"}}, "grid"),
        ({"budget": {"nef": 3}}, r"did you mean 'nfe'\?"),
        ({"budget": {"nfe": 3, "seconds": 4}}, "either nfe or seconds"),
        ({"name": "a/b"}, "one folder in dir"),
        (
            {"list": [{"name": "row", "overrides": {"loss": "mcs"}}]},
            r"row: .*loss.name: no loss 'mcs'; did you mean 'msc'\?",
        ),
        ({"list": [{"name": "row", "overrides": {"losss": "msc"}}]}, r"row: .*did you mean 'loss'\?"),
        ({"list": [{"name": "row", "do": ["train"]}]}, "list.0.do|do"),
        ({"list": [{"name": "row"}], "baseline": "rwo"}, r"baseline: there will be no row 'rwo'; did you mean 'row'\?"),
        (
            {"list": [{"name": "a"}, {"name": "b", "overrides": {"data.cache": "{a}/cache"}}]},
            r"b: \{a\}.*`needs`; .*run",
        ),
        (
            {"list": [{"name": "a"}, {"name": "b", "needs": ["a"], "overrides": {"data.cache": "{aa}/cache"}}]},
            r"b: \{aa\} .*`needs`; did you mean 'a'\? it can name: a, run",
        ),
    ],
)
def test_errors(sweep_file, keys, match):
    with pytest.raises(ConfigError, match=match):
        runs_of(sweep_file("wrong", **keys))
