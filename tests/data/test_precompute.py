"""Latents and embeddings made ahead: by ranks, resumed, refused to another encoder, and trained from."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load as load_safetensors

from sunlab.app.compose import build_base, build_data, build_module
from sunlab.app.fit import fit
from sunlab.app.latents import precompute
from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.data import precompute as precompute_module
from sunlab.data.latents import Latents
from sunlab.data.passes import scan
from sunlab.data.remote import Remote
from sunlab.data.shards import Shards
from sunlab.data.tar import LATENT
from sunlab.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def made(tiny_config, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents")
    assert precompute(load_config([tiny_config]), out=out, shard_size=16) == 48
    return out


SECOND = {  # of two ranks
    "torchrun": {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "RANK": "1"},
    "srun": {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2",
             "SLURM_STEP_TASKS_PER_NODE": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "1", "SLURM_NODEID": "0"},
}  # fmt: skip


@pytest.mark.parametrize("launcher", SECOND)
def test_ranks_share_the_work_and_what_is_there_is_kept(made, tiny_config, tmp_path, monkeypatch, capsys, launcher):
    loaded = load_config([tiny_config])
    second = {**SECOND[launcher], "LOCAL_RANK": "1"}
    for name, value in second.items():
        monkeypatch.setenv(name, value)
    assert precompute(loaded, out=tmp_path, shard_size=16) == 16
    with pytest.raises(DataError, match="2 shards are not made yet"):
        Latents(path=str(tmp_path))
    for name in second:
        monkeypatch.delenv(name)
    assert main(["data", "precompute", "--config", str(tiny_config), "--out", str(tmp_path), "--shard-size", "16"]) == 0
    assert "encoded 32 samples; all shards are made" in capsys.readouterr().out
    assert precompute(loaded, out=tmp_path, shard_size=16) == 0
    names = sorted(path.name for path in made.glob("*.tar"))
    assert len(names) == 3 and all((made / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)


def test_members_are_bfloat16_and_what_the_encoders_say(made, tiny_config, tiny_base, tiny_shards):
    shard = Shards(urls=[f"{made}/latents-000000000.tar"]).exact.shards[0]
    raw = next(scan(shard, Remote(), (LATENT,)))
    tensors = load_safetensors(raw.members[LATENT])
    kinds = {"latent": torch.bfloat16, "tokens": torch.bfloat16, "words": torch.bool}
    assert {name: tensor.dtype for name, tensor in tensors.items()} == kinds
    plain = {s.key: s for s in Shards(urls=[tiny_shards]).read(seed=0, epoch=0, start=0, stop=48)}[raw.key]
    latent = tiny_base.autoencoder.encode(plain.image[None])[0]
    torch.testing.assert_close(tensors["latent"], latent.bfloat16(), atol=1e-2, rtol=1e-2)
    tokens = tiny_base.freeze().encode([plain.prompt]).tokens[0]
    torch.testing.assert_close(tensors["tokens"], tokens.bfloat16(), atol=1e-2, rtol=1e-2)


def test_training_from_them(made, tiny_config, tmp_path):
    """No picture is encoded, and the batches are those of the pictures within bfloat16's precision."""
    words = [f"data.source={{name: latents, path: {made}}}", "data.caption_dropout=0.5"]
    loaded = load_config([tiny_config], words)
    base = build_base(loaded.config)
    samples = next(iter(build_data(loaded.config, base).loader()))
    base.autoencoder.encode = None
    batch = build_module(loaded.config, base).encode(samples)
    expected = base.encode(samples.prompts).tokens
    assert "" in samples.prompts and any(samples.prompts)
    torch.testing.assert_close(batch.positive.tokens, expected, atol=2e-2, rtol=2e-2)
    assert batch.latents.shape[1:] == (4, 8, 8) and samples.images is None
    done = fit(load_config([tiny_config], [*words, f"run.dir={tmp_path}", "trainer.max_steps=2"]))
    assert done["files"]


def test_another_encoder_is_refused(made, tiny_config, tiny_base_folder, tmp_path):
    other = tmp_path / "base"
    shutil.copytree(tiny_base_folder, other)
    weights = other / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    words = [f"model.base={other}", f"run.dir={tmp_path}"]
    with pytest.raises(DataError, match=r"made by encoders .* this run's are"):
        fit(load_config([tiny_config], [*words, f"data.source={{name: latents, path: {made}}}"]))
    with pytest.raises(DataError, match="was begun with encoder"):
        precompute(load_config([tiny_config], words), out=made, shard_size=16)


def test_what_cannot_be_precomputed(tiny_config, tiny_shards, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(DataError, match="make it with"):
        Latents(path=str(tmp_path))
    source = f"{{name: shards, urls: ['{tiny_shards}'], size: 32, buckets: 4}}"
    loaded = load_config([tiny_config], [f"data.source={source}"])
    if len(Shards(urls=[tiny_shards], size=32, buckets=4).parts()) > 1:
        with pytest.raises(ConfigError, match="without buckets"):
            precompute(loaded, out=tmp_path / "out")


def test_bad_samples_are_noted_beside_the_latents(tiny_config, tiny_shards, tmp_path, monkeypatch):
    """And left out; nothing is written where the command is started."""
    data = bytearray(Path(tiny_shards).read_bytes())
    place = data.index(b"IDAT")
    data[place + 10 : place + 20] = bytes(10)
    (tmp_path / "a.tar").write_bytes(data)
    monkeypatch.chdir(tmp_path)
    source = f"{{name: shards, urls: ['{tmp_path}/a.tar'], on_error: quarantine}}"
    assert precompute(load_config([tiny_config], [f"data.source={source}"]), out=tmp_path / "out", shard_size=16) == 47
    entry = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert entry["reason"] == "undecodable image"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tar", "out"]
    assert len(Latents(path=str(tmp_path / "out"))) == 47


def test_what_is_killed_goes_on(made, tiny_config, tmp_path, monkeypatch):
    """After the second shard is written, and before the manifest knows of any."""
    write, written = precompute_module._write, []

    def killed(path, *given):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        return write(path, *given)

    monkeypatch.setattr(precompute_module, "_write", killed)
    monkeypatch.setattr(precompute_module, "_list", lambda *given: None)  # as after a SIGKILL
    with pytest.raises(KeyboardInterrupt):
        precompute(load_config([tiny_config]), out=tmp_path, shard_size=16)
    assert not (tmp_path / "manifest.json").exists()
    monkeypatch.undo()
    assert precompute(load_config([tiny_config]), out=tmp_path, shard_size=16) == 16
    names = sorted(path.name for path in made.glob("*.tar"))
    assert all((made / name).read_bytes() == (tmp_path / name).read_bytes() for name in names)
    assert len(Latents(path=str(tmp_path))) == 48


def test_samples_without_pictures_are_named(tiny_config, tiny_trajectories, tmp_path):
    loaded = load_config([tiny_config], [f"data.source={{name: trajectories, path: '{tiny_trajectories}'}}"])
    with pytest.raises(DataError, match="has no picture; name shards of pictures as"):
        precompute(loaded, out=tmp_path)
