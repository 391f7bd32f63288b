"""Every byte of an adapter file is covered: the payload, the table of tensors, the header, the checksums themselves."""

import random
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from sunlab.backbones.sd.layers import UNetLayers
from sunlab.errors import DataError
from sunlab.export import read_adapter
from sunlab.export.file import write_tensors
from sunlab.export.shapes import describe_base, families, shape_hash

ROOT = Path(__file__).parents[2]

HEADER = {"adapter": {"name": "sun", "extra_positive": True}, "solver": "ddim", "times": [999, 499, -1],
          "guidance": [2.0, 4.0], "training": {"note": 'a "quoted" word, \\ and \u00e9'}}  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    g = torch.Generator().manual_seed(0)
    tensors = {f"down.{i}.to_k_neg.weight": torch.randn(4, 3, generator=g) for i in range(4)}
    return write_tensors(tmp_path_factory.mktemp("a") / "a.safetensors", tensors, HEADER, dtype=torch.float16)


def refused(data, path):
    path.write_bytes(data)
    try:
        read_adapter(path)
    except DataError:
        return True
    return False


def test_every_byte_is_covered(file, tmp_path):
    """All bytes in turn, each changed to something seeded: none is accepted, and none ends in another error."""
    data, rng = file.read_bytes(), random.Random(0)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= rng.randrange(1, 256)
        assert refused(bytes(changed), tmp_path / "x.safetensors"), f"byte {place} of {len(data)}"


def test_mutations_that_keep_the_json_whole(file, tmp_path):
    """Blanks for blanks, case, digits, bytes cut out, put in, or swapped: 400 seeded ones."""
    data, rng, path = file.read_bytes(), random.Random(1), tmp_path / "x.safetensors"
    length = int.from_bytes(data[:8], "little")
    accepted = 0
    for i in range(400):
        changed, a, b = bytearray(data), rng.randrange(8, 8 + length), rng.randrange(len(data))
        if i % 4 == 0:
            spaces = [k for k in range(8, 8 + length) if data[k : k + 1] == b" "]
            changed[rng.choice(spaces)] = ord(rng.choice("\t\n\r"))
        elif i % 4 == 1:
            letters = [k for k in range(8, 8 + length) if bytes([data[k]]).isalpha()]
            changed[rng.choice(letters)] ^= 0x20
        elif i % 4 == 2:
            changed[a], changed[b] = changed[b], changed[a]
        else:
            changed[b : b + rng.randrange(2)] = rng.randbytes(rng.randrange(1, 4))
        accepted += bytes(changed) != data and not refused(bytes(changed), path)
    assert accepted == 0 and not refused(data, path)


def test_anyone_can_check_the_payload(file):
    data = file.read_bytes()
    payload = data[8 + int.from_bytes(data[:8], "little") :]
    assert read_adapter(file).header["sha256"] == sha256(payload).hexdigest()


def test_equal_contents_are_equal_bytes(file, tmp_path):
    read = read_adapter(file)
    again = write_tensors(tmp_path / "b.safetensors", dict(reversed(read.tensors.items())), read.header, dtype=torch.float16)
    assert again.read_bytes() == file.read_bytes()


@pytest.mark.parametrize(
    ("name", "value"),
    [("steps", 0), ("steps", True), ("times", [1, 2]), ("times", "no"), ("guidance", [1.0]), ("guidance", [1.0, "x"]),
     ("prediction_type", "noise"), ("spacing", "linspace"), ("solver", 3), ("training", []), ("base", {"family": "sd1"}),
     ("adapter", {"kind": "sun"})],
)  # fmt: skip
def test_a_wrong_field_is_refused_by_name(name, value, tmp_path):
    with pytest.raises(DataError, match=f"header: {name}: expected"):
        write_tensors(tmp_path / "a.safetensors", {}, {**HEADER, name: value}, dtype=torch.float16)
    assert not list(tmp_path.iterdir())


def test_values_too_large_for_the_file_are_refused(tmp_path):
    with pytest.raises(DataError, match="big has values that are not finite"):
        write_tensors(tmp_path / "a.safetensors", {"big": torch.tensor([1e6])}, HEADER, dtype=torch.float16)


def test_families_differ_by_their_hash():
    assert len({shape_hash(layers) for _, layers in families()}) == len(list(families()))


def test_the_labs_own_base_is_known_by_its_shapes():
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(ROOT / "configs" / "emoji" / "model" / "unet")
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    assert describe_base(UNetLayers(unet)) == {
        "family": "emoji-sd",
        "cross_attention": shape_hash(dict(families())["emoji-sd"]),
    }
