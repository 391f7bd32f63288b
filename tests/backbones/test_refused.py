"""Only safetensors are read; the command in the refusal converts, and runs no code of the file's."""

import re
import shutil
import sys
from types import ModuleType

import pytest
import torch

from sunlab.backbones.locate import fetch, is_hub_id
from sunlab.backbones.pretrained import load_base
from sunlab.cli.main import main
from sunlab.errors import ConfigError, DataError, StorageError


class Code:
    ran = False

    def __reduce__(self):
        return (setattr, (Code, "ran", True))


@pytest.mark.parametrize("name", ["model.ckpt", "model.PT", "pytorch_model.bin"])
def test_a_pickled_file(name, tmp_path):
    file = tmp_path / name
    torch.save({"state_dict": {"a": torch.zeros(2)}}, file)
    with pytest.raises(ConfigError, match=rf"(?s)only safetensors are read.*sunlab convert {re.escape(str(file))}"):
        load_base(file)


def test_a_folder_of_pickles_and_the_way_out(folders, tmp_path, capsys):
    folder = shutil.copytree(folders["sd15"], tmp_path / "base")
    whole = load_base(folder)
    for part, stem in (
        (whole.backbone.unet, "unet/diffusion_pytorch_model"),
        (whole.text.model, "text_encoder/pytorch_model"),
    ):
        torch.save(part.state_dict(), folder / f"{stem}.bin")
    for name in ("unet", "text_encoder"):
        next((folder / name).glob("*.safetensors")).unlink()
    for _ in range(2):
        with pytest.raises(ConfigError, match="sunlab convert") as refused:
            load_base(folder)
        command = str(refused.value).splitlines()[-1].split()
        assert main(command[1:]) == 0
    again = load_base(folder)
    state = again.backbone.unet.state_dict()
    assert all(torch.equal(state[k], v) for k, v in whole.backbone.unet.state_dict().items())


@pytest.mark.parametrize("package", ["pytorch_lightning", "lightning.pytorch"])
@pytest.mark.parametrize("zipped", [True, False])
def test_what_lightning_left_in_the_first_checkpoints(zipped, package, tmp_path, monkeypatch, capsys):
    """Its callbacks are keyed by their classes there. They are passed over: neither imported nor made."""
    import numpy as np
    from safetensors.torch import load_file

    name = f"{package}.callbacks.model_checkpoint"
    kind = type("ModelCheckpoint", (), {"__module__": name})
    for part in (package, f"{package}.callbacks", name):
        monkeypatch.setitem(sys.modules, part, ModuleType(part))
    monkeypatch.setattr(sys.modules[name], "ModelCheckpoint", kind, raising=False)
    kept, file = kind(), tmp_path / "v1-5.ckpt"
    kept.best = np.float64(0.5)
    state = {"state_dict": {"a": torch.ones(2)}, "callbacks": {kind: {"best": np.float64(0.5)}}, "object": kept, "epoch": 3}
    torch.save(state, file, _use_new_zipfile_serialization=zipped)
    made = []
    monkeypatch.setattr(kind, "__new__", lambda *_: made.append(1))
    assert main(["convert", str(file)]) == 0 and not made
    assert load_file(tmp_path / "v1-5.safetensors")["a"].tolist() == [1, 1]


def test_no_code_is_run(tmp_path, capsys):
    file = tmp_path / "model.ckpt"
    torch.save({"state_dict": {"a": torch.zeros(2)}, "callbacks": Code()}, file)
    assert main(["convert", str(file)]) == DataError.exit_code
    assert "refused" in capsys.readouterr().err and not Code.ran and not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("kind", "error"), [("empty", DataError), ("there", ConfigError), ("safe", ConfigError), ("none", StorageError)]
)
def test_what_cannot_be_converted(kind, error, tmp_path, capsys):
    file = tmp_path / ("a.safetensors" if kind == "safe" else "a.bin")
    if kind != "none":
        torch.save({"step": 3} if kind == "empty" else {"a": torch.zeros(2)}, file)
    if kind == "there":
        (tmp_path / "a.safetensors").touch()
    assert main(["convert", str(file)]) == error.exit_code


def test_shared_tensors_are_written_twice(tmp_path):
    from safetensors.torch import load_file

    one = torch.arange(4.0)
    torch.save({"a": one, "b": one, "c": one[1:].view(3)}, tmp_path / "a.bin")
    assert main(["convert", str(tmp_path / "a.bin"), "--out", str(tmp_path / "b.safetensors")]) == 0
    assert {k: v.tolist() for k, v in load_file(tmp_path / "b.safetensors").items()} == {
        "a": [0, 1, 2, 3], "b": [0, 1, 2, 3], "c": [1, 2, 3]
    }  # fmt: skip


def test_weights_that_would_start_at_random_are_named(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(folders["sd15"], tmp_path / "base")
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    tensors.pop("conv_out.weight")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(DataError, match=r"unet: lacks conv_out\.weight"):
        load_base(folder)
    file.write_bytes(b"no safetensors")
    with pytest.raises(DataError, match=r"unet.*safetensors: damaged"):
        load_base(folder)


def test_half_precision_variants_are_found(folders, tmp_path):
    folder = shutil.copytree(folders["sdxl"], tmp_path / "base")
    for file in folder.glob("*/*.safetensors"):
        file.rename(file.with_name(f"{file.stem}.fp16.safetensors"))
    assert load_base(folder).weights["unet"][0].name == "diffusion_pytorch_model.fp16.safetensors"


@pytest.mark.parametrize(
    ("part", "name", "message"),
    [("unet", "UNet3DConditionModel", "its unet is UNet3D"), ("text_encoder", None, "has no text_encoder")],
)
def test_another_kind_of_model(part, name, message, folders, tmp_path):
    import json

    folder = shutil.copytree(folders["sd15"], tmp_path / "base")
    file = folder / "model_index.json"
    index = json.loads(file.read_text())
    index[part] = [None, None] if name is None else ["diffusers", name]
    file.write_text(json.dumps(index))
    with pytest.raises(ConfigError, match=message):
        load_base(folder)


def test_from_the_hubs_cache(folders, tmp_path, monkeypatch):
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = tmp_path / "models--someone--tiny"
    shutil.copytree(folders["sd15"], place / "snapshots" / commit)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert is_hub_id("someone/tiny") and not is_hub_id("emoji-sd") and not is_hub_id("a/model.safetensors")
    assert fetch("someone/tiny").name == commit
    assert load_base("someone/tiny").backbone.sample_shape == (4, 8, 8)
    with pytest.raises(StorageError, match=r"'someone/else' is not in the hub's cache.*HF_HUB_OFFLINE"):
        load_base("someone/else")
    with pytest.raises(ConfigError, match="neither a diffusers folder"):
        load_base(tmp_path / "none")
