"""Adapters and bases on the Hub: names, downloads, cache, offline mode and uploads, against a Hub on loopback."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import TOKEN, Hub, hub_server
from huggingface_hub import constants
from huggingface_hub.utils import close_session
from tiny_sweeps import MEANS

from sunlab import hub as our_hub
from sunlab import load_base, plug, unplug
from sunlab.adapters.sun import SUN
from sunlab.app.demo import Settings, Studio
from sunlab.app.push import prepare, push
from sunlab.app.sample import sample_grid
from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.errors import ConfigError, DataError, StorageError
from sunlab.export import read_adapter, save_adapter
from sunlab.export.shapes import describe_base

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # of huggingface_hub's uploads

TABLE = "# Before and after\n\n| | NFE |\n|---|---|\n| this run, 4 steps | 4 |\n"
COMMON = {"licence": "apache-2.0", "base": "org/base"}


@pytest.fixture(scope="module")
def adapter(tiny_base_folder, tmp_path_factory) -> Path:
    """An adapter in a run's folder."""
    run = tmp_path_factory.mktemp("runs") / "tiny"
    sun, base = SUN(), load_base(tiny_base_folder)
    sun.attach(base.backbone)
    summary = {"loss": "msc", "steps": 12, "teacher": 96, "student": 24, "backward": 24}
    header = {"solver": "ddim", "steps": 4, "guidance": [3.0, 3.0], "base": describe_base(base.backbone)}
    header |= {"prediction_type": "v_prediction", "spacing": "trailing", "training": summary}
    path = save_adapter(run / "export" / "adapter.safetensors", sun, header)
    (run / "before_after.md").write_text(TABLE)
    (run / "before_after.png").write_bytes(b"\x89PNG, or so")
    (run / "config.yaml").write_text(
        "model: {base: org/base}\ncallbacks:\n"
        "  - {name: before_after, prompts: [a pizza, a fox, an owl], negatives: [red, '', 'a \"small\" one']}\n"
    )
    return path


@pytest.fixture(scope="module")
def server():
    with hub_server() as hub:
        yield hub


def endpoint(monkeypatch, address: str) -> None:
    """As HF_ENDPOINT does, which is read once, when huggingface_hub is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")


@pytest.fixture
def hub(server: Hub, adapter: Path, tiny_base_folder: Path, tmp_path: Path, monkeypatch) -> Hub:
    """The Hub with `org/base` and `org/sun`, an empty cache, and this process its client."""
    server.repos.clear()
    server.gated.clear()
    server.requests.clear()
    base = shutil.copytree(tiny_base_folder, tmp_path / "base")
    (base / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"a pickle")
    (base / "code.py").write_text("raise SystemExit")
    server.add("org/base", base)
    (folder := tmp_path / "sun").mkdir()
    shutil.copy(adapter, folder / "sun.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "README.md").write_text("# Someone's own card\n")
    server.add("org/sun", folder)
    shutil.copy(adapter, folder / "other.safetensors")
    server.add("org/sun", folder, "two")
    endpoint(monkeypatch, server.address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    close_session()
    yield server
    close_session()


def test_names():
    assert our_hub.parse("a/b") == our_hub.Repository("a/b")
    whole = our_hub.Repository("a-1/b.c", revision="refs/pr/1", file="x/y.safetensors")
    assert our_hub.parse("a-1/b.c@refs/pr/1:x/y.safetensors") == whole and our_hub.parse(str(whole)) == whole
    for other in ("b", "a/b/c", "/a/b", "./b", "../b", "a/b.safetensors", "a/b.ckpt", "a/b:", "a/b@", "a b/c", "@emoji/x"):
        assert our_hub.parse(other) is None


def test_an_adapter_is_plugged_from_the_hub_and_then_from_the_cache(hub, tiny_base_folder, adapter, monkeypatch):
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tiny_base_folder, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    plug(pipe, adapter)
    draw = {"prompt": "a pizza", "negative_prompt": "red", "output_type": "latent", "num_inference_steps": 2}
    local = pipe(**draw, generator=torch.Generator().manual_seed(0)).images
    unplug(pipe)
    plug(pipe, "org/sun")
    assert hub.fetched("org/sun") == {"sun.safetensors"}
    assert torch.equal(local, pipe(**draw, generator=torch.Generator().manual_seed(0)).images)
    unplug(pipe)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    called = len(hub.requests)
    unplug(plug(pipe, "org/sun"))
    with pytest.raises(StorageError, match=r"'org/sun' is not in the hub's cache.*HF_HUB_OFFLINE"):
        plug(pipe, "org/sun", revision="two", weight_name="other.safetensors")
    assert len(hub.requests) == called


def test_file_and_revision(hub, adapter, tmp_path):
    for name in ("org/sun@two:other.safetensors", "org/sun@main", "org/sun:sun.safetensors"):
        assert read_adapter(name).header == read_adapter(adapter).header
    with pytest.raises(ConfigError, match=r"holds other\.safetensors, sun\.safetensors; name one, as in org/sun@two:other"):
        read_adapter("org/sun@two")
    for name, message in (
        ("org/none", "there is no 'org/none'"),
        ("org/sun@three", "'org/sun' has no revision 'three'"),
        ("org/sun:none.safetensors", r"'org/sun' has no file 'none\.safetensors'"),
        ("org/sun:pytorch_model.bin", r"only \.safetensors files are fetched"),
    ):
        with pytest.raises(ConfigError, match=message):
            read_adapter(name)
    with pytest.raises(DataError, match=r"org/base holds no \.safetensors file in its top folder"):
        read_adapter("org/base")
    hub.gated.add("org/sun")
    with pytest.raises(ConfigError, match="'org/sun' is gated: accept its terms"):
        read_adapter("org/sun@main:other.safetensors")
    with pytest.raises(ConfigError, match="weight_name and revision are for a hub id"):
        plug(None, adapter, revision="main")
    assert hub.fetched("org/sun") == {"other.safetensors"}  # equal bytes are fetched once, under whatever name


def test_a_hub_that_is_down(hub, monkeypatch):
    read_adapter("org/sun")
    endpoint(monkeypatch, "http://127.0.0.1:9")
    assert read_adapter("org/sun").layout == "sunlab"
    with pytest.raises(StorageError, match="'org/else' is not in the hub's cache and cannot be fetched"):
        read_adapter("org/else")


def test_a_base_and_an_evaluation_by_hub_id(hub, tiny_shards, tmp_path, capsys):
    assert load_base("org/base@main").backbone.sample_shape == (4, 8, 8)
    fetched = hub.fetched("org/base")
    assert "unet/diffusion_pytorch_model.safetensors" in fetched
    assert all(name.endswith((".safetensors", ".json", "merges.txt")) for name in fetched)
    sample_grid(prompts=["a"], negatives=[""], count=1, steps=1, base="org/base", adapter="org/sun", out=tmp_path / "g.png")
    from sunlab.app.evaluate import _require_files, named

    variants = "evaluate.variants=[{name: hub, adapter: org/sun, steps: 2}, {name: gone, adapter: org/gone, steps: 2}]"
    config = load_config([], ["model.base=org/base", variants]).config
    assert named(config) == ["org/base", "org/sun", "org/gone"]
    with pytest.raises(ConfigError, match="there is no 'org/gone'"):
        _require_files(config, ["org/base"])


def test_the_demo_draws_with_a_base_and_adapters_of_the_hub(hub, tiny_base_folder, adapter):
    names = ["org/sun", "org/sun@two:other.safetensors"]
    studio, local = Studio(["org/base"], names), Studio([str(tiny_base_folder)], [str(adapter)])
    assert list(studio.adapters) == names and studio.methods[1:3] == names
    assert hub.fetched("org/sun") == {"sun.safetensors"}  # equal bytes are fetched once, under whatever name
    settings = Settings("a pizza", "red", steps=2, teacher_steps=2)
    expected = local.draw(str(tiny_base_folder), "adapter", settings).image.tobytes()
    assert [studio.draw("org/base", name, settings).image.tobytes() for name in names] == [expected] * 2
    with pytest.raises(ConfigError, match="there is no 'org/none'"):
        Studio(["org/base"], ["org/none"])


@pytest.mark.slow
def test_an_evaluation_by_hub_id_equals_that_of_the_files(hub, adapter, tiny_base_folder, tiny_shards, tmp_path):
    """The whole command, with a base and an adapter that only the Hub has."""
    (config := tmp_path / "evaluate.yaml").write_text("seed: 3\n")

    def rows(name, base, file):
        settings = {
            "count": 4, "timed": 1, "shown": 2, "reference_steps": 3, "before.steps": 2, "subsets": 2, "control": "null",
            "prompts": f"{{name: shards, urls: [{tiny_shards}]}}", "extractor": "means_of_the_tests",
            "variants": f"[{{name: sun, adapter: '{file}', steps: 2}}]",
        }  # fmt: skip
        words = [f"model.base={base}", f"run.name={name}", f"run.dir={tmp_path}", f"plugins=[{MEANS}]"]
        assert main(["evaluate", "--config", str(config), *words, *(f"evaluate.{k}={v}" for k, v in settings.items())]) == 0
        (report,) = json.loads((tmp_path / name / "report.json").read_text())["bases"]
        return report

    theirs, ours = rows("theirs", "org/base@main", "org/sun"), rows("ours", tiny_base_folder, adapter)
    assert hub.fetched("org/sun") == {"sun.safetensors"} and "unet/diffusion_pytorch_model.safetensors" in hub.fetched(
        "org/base"
    )
    assert measured(theirs) == measured(ours) and measured(ours)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]


def measured(report):
    """What a report says of each row, its times left out."""
    times = {"seconds", "speedup", "limit", "timed"}
    return [{key: value for key, value in row.items() if key not in times} for row in report["rows"]]


def front_of(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_push_is_dry_unless_asked_for(hub, adapter, capsys):
    assert main(["push", str(adapter), "org/new", "--license", "apache-2.0"]) == 0
    out = capsys.readouterr().out
    assert "would upload to org/new:" in out and "nothing was uploaded" in out
    assert {"adapter.safetensors", "README.md", "before_after.png"} <= set(re.findall(r"^  (\S+)", out, re.M))
    assert hub.requests == []


def test_the_card(adapter):
    card = prepare(adapter, "org/new", licence="openrail++").card
    front = front_of(card)
    assert front["base_model"] == "org/base" and front["license"] == "openrail++"
    assert front["pipeline_tag"] == "text-to-image" and front["library_name"] == "sunlab"
    assert front["widget"] == [
        {"text": "a pizza", "parameters": {"negative_prompt": "red"}},
        {"text": "an owl", "parameters": {"negative_prompt": 'a "small" one'}},
    ]
    assert "12 steps, loss msc; NFE: teacher 96, student 24, backward 24" in card
    assert "## Measured\n\n### Before and after\n\n| | NFE |" in card
    assert '.from_pretrained("org/base")' in card and 'sunlab.plug(pipe, "org/new")' in card


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"repo": "new"}, "REPO: expected a repository of the Hub, owner/name, got 'new'"),
        ({"base": "emoji-sd"}, "--base: expected a repository"),
        ({"licence": "Apache 2"}, "--license: expected an identifier"),
        ({"results": "none.md"}, r"--results: none\.md: no such file"),
        ({"layout": "kohya"}, "holds LoRAs"),
    ],
)
def test_what_a_push_refuses(adapter, given, message):
    options = {"repo": "org/new", **COMMON, **given}
    with pytest.raises((ConfigError, DataError), match=message):
        prepare(adapter, options.pop("repo"), **options)


def test_a_base_that_is_not_on_the_hub_must_be_named(adapter, tmp_path):
    alone = shutil.copy(adapter, tmp_path / "a.safetensors")
    with pytest.raises(ConfigError, match="--base: give the pretrained model's repository on the Hub, owner/name"):
        prepare(alone, "org/new", licence="mit")


def test_push_and_pull(hub, adapter, capsys, monkeypatch):
    words = ["push", str(adapter), "org/new", "--license", "apache-2.0", "--yes"]
    assert main(words) == 0
    assert f"{hub.address}/org/new/commit/" in capsys.readouterr().out
    files = hub.repos["org/new"]["main"]
    assert set(files) == {"adapter.safetensors", "README.md", "before_after.png"}
    pulled, ours = read_adapter("org/new"), read_adapter(adapter)
    assert all(torch.equal(tensor, pulled.tensors[name]) for name, tensor in ours.tensors.items())
    assert pulled.header["training"] == ours.header["training"]
    assert main(words) == 0  # again, over its own card
    assert not [name for name in os.environ if TOKEN in os.environ[name] and name != "HF_TOKEN"]
    assert TOKEN.encode() not in b"".join(files.values())


def test_a_card_of_someone_else_is_kept(hub, adapter):
    upload = prepare(adapter, "org/sun", **COMMON)
    with pytest.raises(ConfigError, match=r"README\.md that is no model card of sunlab's; add --replace-card"):
        push(upload)
    assert b"Someone's own" in hub.repos["org/sun"]["main"]["README.md"]
    push(upload, replace_card=True)
    assert "adapter.safetensors" in hub.repos["org/sun"]["main"]


def test_a_push_without_a_token(hub, adapter, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "b" * 34)
    with pytest.raises(ConfigError, match="hf auth login"):
        push(prepare(adapter, "org/new", **COMMON))
    assert "org/new" not in hub.repos


@pytest.mark.slow
def test_the_lines_of_the_card_run_as_they_stand(hub, tmp_path):
    """On the pretrained model inside the package, in a process of its own, which knows only the Hub's address."""
    from sunlab.packaged import asset

    hub.add("org/emoji-sd", asset("emoji-sd"))
    push(prepare("emoji/sun_msc.safetensors", "org/emoji-sun", licence="apache-2.0", base="org/emoji-sd"))
    card = hub.repos["org/emoji-sun"]["main"]["README.md"].decode()
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.S)
    (tmp_path / "card.py").write_text(f"{lines}\nimage.save('card.png')\n")
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_TOKEN", "TRANSFORMERS_OFFLINE")}
    place = {"HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "card.py"],
        cwd=tmp_path,
        env=kept | place,
        text=True,
        capture_output=True,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "card.png").stat().st_size > 1000
    assert hub.fetched("org/emoji-sun") == {"sun_msc.safetensors"}
