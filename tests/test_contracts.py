"""Every registered component keeps its kind's contract. A new component is tested here without a line."""

import atexit
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from sunlab.data.precompute import write_latents
from sunlab.data.shards import Shards
from sunlab.registries import KINDS, registry_of
from sunlab.testing import CONTRACTS, AdapterContract, SourceContract


@cache
def _latents() -> dict[str, object]:
    """A folder of latents that `write_latents` made, once."""
    folder = Path(tempfile.mkdtemp(prefix="sunlab-contract-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    source = Shards(urls=["emoji/noto/test-*.tar.gz"], limit=40)
    write_latents(source, lambda group: [{"latent": torch.zeros(4, 2, 2)} for _ in group], folder, encoder="of the test")
    return {"path": str(folder)}


@cache
def _captions() -> str:
    """A file of captions."""
    folder = Path(tempfile.mkdtemp(prefix="sunlab-contract-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / "captions.jsonl"
    path.write_text("".join(json.dumps({"caption": f"a thing {n}"}) + "\n" for n in range(200)))
    return str(path)


# what a component needs besides its name, by kind and name
NEEDED: dict[str, dict[str, Callable[[], dict[str, object]]]] = {
    "callbacks": {
        "before_after": lambda: {"prompts": ["a"], "negatives": ["b"]},
        "sample_images": lambda: {"prompts": ["a"]},
    },
    "filters": defaultdict(
        lambda: lambda: {"missing": "keep"},
        {
            "json_field": lambda: {"missing": "keep", "field": "x", "min": 0},
            "language": lambda: {"missing": "keep", "allowed": ["en"]},
        },
    ),
    "sources": {
        "shards": lambda: {"urls": ["emoji/noto/test-*.tar.gz"], "limit": 80},
        "latents": _latents,
        "prompts": lambda: {"urls": [_captions()], "column": "caption"},
        "hf_dataset": lambda: {"path": "json", "data_files": [_captions()], "image": None},
        "trajectories": lambda: {"path": "emoji/bank", "limit": 40},
    },
    "stages": {"subsample": lambda: {"share": 0.5}},
}


def _component(kind: str, name: str) -> object:
    try:
        return {"name": name, **NEEDED[kind][name]()}
    except KeyError:
        return name


class TestStreamedShards(SourceContract):
    component: ClassVar = {"name": "shards", "urls": ["emoji/noto/test-*.tar.gz"], "order": "stream"}


class TestNAGOverSUN(AdapterContract):
    component: ClassVar = {"name": "nag", "inner": "sun"}


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
            named = property(lambda _, kind=kind, name=name: _component(kind, name))
            classes[label] = type(label, (contract,), {"component": named, "__module__": __name__})
    return classes


globals().update(_classes())


AWAITED = {"alignments", "backbones", "controls", "extractors"}  # no contract yet


@pytest.mark.parametrize("kind", sorted(KINDS.keys() - AWAITED))
def test_every_kind_has_a_contract_and_components(kind: str) -> None:
    assert kind in CONTRACTS, f"write a contract of {kind} in sunlab.testing: plug-ins inherit it"
    assert registry_of(kind).names()


def test_a_contract_belongs_to_a_kind() -> None:
    assert CONTRACTS.keys() <= KINDS.keys()
    assert KINDS.keys() >= AWAITED
