"""Each command is one call of the Python API."""

import sys
from types import ModuleType

import pytest

from sunlab.cli.main import main
from sunlab.config.load import load_config

PLUGIN = """
from sunlab.losses import LOSSES, Loss

@LOSSES.register("listed_by_the_test")
class Listed(Loss):
    \"\"\"A loss [of the test].\"\"\"
    def __init__(self, *, much: int, more: float = 0.5):
        pass
    def __call__(self, batch, student, teacher, distance):
        pass
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text("loss: msc\nstudent: {steps: 2}\n")
    return str(path)


@pytest.fixture
def api(monkeypatch):
    """Puts a function that writes down its call in the place of a module's."""

    def replace(module: str, function: str, answer: object = None) -> list:
        calls: list = []
        stand_in = ModuleType(module)

        def stand_in_function(*args, **options):
            calls.append((args, options))
            return answer

        setattr(stand_in, function, stand_in_function)
        monkeypatch.setitem(sys.modules, module, stand_in)
        return calls

    return replace


def test_fit(api, tiny, tmp_path):
    calls = api("sunlab.app.fit", "fit", {"folder": tmp_path, "files": [], "cost": {"steps": 3}})
    assert main(["fit", "--config", tiny, "seed=3", "--resume", "last", "--time-limit", "10m"]) == 0
    (((loaded,), options),) = calls
    assert loaded.config.seed == 3 and loaded.config.run.name == "tiny"
    assert options.pop("signals") is not None and options == {"resume": "last", "time_limit": 600.0}


@pytest.mark.parametrize("words", [[], ["--predictions"]])
def test_data_trajectories(api, tiny, tmp_path, capsys, words):
    calls = api("sunlab.app.trajectories", "make_trajectories", ["one", "two"])
    assert main(["data", "trajectories", "--config", tiny, "seed=3", "--out", "stored", "--count", "8", *words]) == 0
    (((loaded,), options),) = calls
    assert loaded.config.seed == 3
    assert options == {"out": "stored", "count": 8, "shard_size": 256, "predictions": bool(words)}
    assert "stored: 2 files" in (told := capsys.readouterr().out) and "{name: trajectories, path: stored}" in told


def test_sample(api):
    calls = api("sunlab.app.sample", "sample_grid")
    words = [
        "--prompt",
        "a cat",
        "--prompt",
        "a dog",
        "--negative",
        "blue",
        "--adapter",
        "a.safetensors",
        "--seed",
        "7",
    ]
    assert main(["sample", "--base", "emoji-sd", *words, "--guidance", "4", "--out", "x.png"]) == 0
    assert calls[0][1] == {
        "prompts": ["a cat", "a dog"], "negatives": ["blue", "blue"], "seed": 7, "count": 4, "steps": 4,
        "base": "emoji-sd", "adapter": "a.safetensors", "guidance": 4.0, "solver": None, "out": "x.png",
    }  # fmt: skip
    assert main(["sample", "--base", "emoji-sd", "--prompt", "a cat"]) == 0
    assert calls[1][1]["negatives"] == [""]


@pytest.mark.parametrize(
    "words",
    [
        ["sample", "--base", "x", "--prompt", "x", "--steps", "0"],
        ["sample", "--base", "x", "--prompt", "x", "--count", "-1"],
        ["sample", "--base", "x", "--prompt", "x", "--guidance", "nan"],
        ["sample", "--base", "x", "--prompt", "x", "--guidance", "inf"],
        ["data", "trajectories", "--config", "x", "--out", "x", "--count", "0"],
        ["data", "trajectories", "--config", "x", "--out", "x", "--count", "1", "--shard-size", "0"],
        ["data", "precompute", "--config", "x", "--out", "x", "--batch", "two"],
        ["doctor", "data", "x", "--samples", "-3"],
    ],
)
def test_a_number_out_of_range_is_a_wrong_argument(words, capsys):
    with pytest.raises(SystemExit) as stop:
        main(words)
    assert stop.value.code == 2 and f"got {words[-1]!r}" in capsys.readouterr().err


def test_sample_wants_one_negative_or_one_for_each(api, capsys):
    api("sunlab.app.sample", "sample_grid")
    assert main(["sample", "--base", "emoji-sd", *["--prompt", "x"] * 3, *["--negative", "y"] * 2]) == 78
    assert "one for each of 3 prompts" in capsys.readouterr().err


def test_config_prints_yaml_that_reruns_with_the_origin_of_each_value(tiny, tmp_path, capsys):
    assert main(["config", tiny, "loss.segments=2", "seed=5"]) == 0
    text = capsys.readouterr().out
    assert "seed: 5  # override\n" in text
    assert f"  name: msc  # {tiny}\n" in text
    assert "  substeps: 6  # component default\n" in text
    (tmp_path / "again.yaml").write_text(text)
    assert load_config([tmp_path / "again.yaml"]).config == load_config([tiny], ["loss.segments=2", "seed=5"]).config


def test_list_kinds(capsys):
    assert main(["list"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert "msc" in lines["losses"] and "ddim" in lines["solvers"] and "local" in lines["launchers"]
    assert "paired_l2" in lines["metrics"]


def test_list_one_kind_and_one_plug_with_a_plugin(tmp_path, capsys):
    plugin = tmp_path / "plugged.py"
    plugin.write_text(PLUGIN)
    assert main(["list", "losses", "--plugin", str(plugin)]) == 0
    listed = capsys.readouterr().out
    assert "listed_by_the_test" in listed and "A loss [of the test]." in listed and "msc" in listed
    assert main(["list", "losses", "listed_by_the_test"]) == 0
    shown = capsys.readouterr().out
    assert "plugged.py:" in shown and "much: int  (required)" in shown and "more: float = 0.5" in shown


@pytest.mark.parametrize("name", ["sdxl", "sana", "wan"])
def test_inherited_parameters_are_documented(name, capsys):
    assert main(["list", "backbones", name]) == 0
    said = capsys.readouterr().out
    assert "gradient_checkpointing: recompute activations" in said and "gradient_checkpointing: bool = False" in said


@pytest.mark.parametrize(
    ("words", "says"), [(["loses"], "did you mean 'losses'?"), (["losses", "mcs"], "did you mean 'msc'?")]
)
def test_list_with_a_wrong_word(words, says, capsys):
    assert main(["list", *words]) == 78
    assert says in capsys.readouterr().err


def test_list_shows_a_broken_plugin_with_its_traceback(tmp_path, monkeypatch, capsys):
    (tmp_path / "broken_of_the_test.py").write_text("raise RuntimeError('what a pity')\n")
    info = tmp_path / "broken_of_the_test-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-of-the-test\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sunlab.losses]\npity = broken_of_the_test\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("registry.plugins._loaded_groups", set())
    monkeypatch.setattr("registry.plugins._broken", [])
    assert main(["list", "losses"]) == 0
    shown = capsys.readouterr().out
    assert "msc" in shown and "broken plugin 'pity'" in shown and "what a pity" in shown
    assert main(["list", "solvers"]) == 0
    assert "pity" not in capsys.readouterr().out


def test_doctor_data(capsys, tmp_path):
    assert main(["doctor", "data", "emoji/noto/test-*.tar.gz", "--samples", "5"]) == 0
    assert "64x64: 5" in capsys.readouterr().out
    (tmp_path / "none.tar").write_text("no tar")
    assert main(["doctor", "data", str(tmp_path / "none.tar")]) == 65
