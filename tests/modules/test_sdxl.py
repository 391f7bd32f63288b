"""SDXL in training: `time_ids` from the samples' crops, over pictures and over stored latents, more than one a batch."""

from io import BytesIO
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_bases import tiny_base
from webdataset.writer import TarWriter

from sunlab.app.compose import build_base, build_data, build_module
from sunlab.app.fit import fit
from sunlab.app.latents import precompute
from sunlab.config.load import load_config

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # in diffusers
SIZES = [(40, 64), (64, 40), (32, 32), (50, 96)]  # height, width


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    path = tmp_path_factory.mktemp("xl") / "a-00000.tar"
    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for number in range(16):
            data = BytesIO()
            Image.fromarray(np.full((*SIZES[number % 4], 3), number * 9, np.uint8)).save(data, "PNG")
            tar.write({"__key__": f"{number:05d}", "png": data.getvalue(), "txt": f"a pizza number {number}".encode()})
    return path


@pytest.fixture(scope="module")
def config(shards, tmp_path_factory):
    root = tmp_path_factory.mktemp("config")
    path = root / "xl.yaml"
    path.write_text(f"""
task: adapter
model: {{base: "{tiny_base("sdxl", root / "base")}"}}
data:
  source: {{name: shards, urls: ["{shards}"], size: 32, crop: random}}
  batch_size: 8
  caption_dropout: 0.3
teacher: {{steps: 4}}
student: {{steps: 2}}
loss: {{name: msc, states: data, substeps: 2}}
trainer: {{max_steps: 2, accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 1}}
""")
    return path


@pytest.fixture(scope="module")
def latents(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents")
    precompute(load_config([config]), out=out, shard_size=8)
    return f"data.source={{name: latents, path: '{out}'}}"


def sources(source, latents):
    return [] if source == "pictures" else [latents]


@pytest.mark.parametrize("source", ["pictures", "latents"])
def test_time_ids_are_those_of_the_crops(source, config, latents):
    """As diffusers' SDXL training script has them: original size, top and left of the crop in the picture that was resized
    so that its shorter side is 32, and the size of the crop."""
    loaded = load_config([config], sources(source, latents))
    base = build_base(loaded.config)
    module = build_module(loaded.config, base)
    seen = set()
    for samples in islice(build_data(loaded.config, base).loader(), 4):
        batch = module.encode(samples)
        assert len(batch) == 8
        for words in (batch.positive, batch.negative):
            assert words.added["time_ids"].dtype == torch.float32
            for key, (height, width, top, left, *target) in zip(samples.keys, words.added["time_ids"].tolist(), strict=True):
                assert (height, width) == SIZES[int(key.rpartition("/")[2].partition(" ")[0]) % 4] and target == [32, 32]
                scale = 32 / min(height, width)
                assert 0 <= top <= round(height * scale) - 32 and 0 <= left <= round(width * scale) - 32
                seen.add((top, left))
        x, t = torch.randn(8, *batch.shape), torch.full((8,), 0.5, dtype=torch.float64)
        assert base.backbone(x, t, batch.positive).value.shape == x.shape
    assert len(seen) > 4, "random crops"


@pytest.mark.parametrize(("task", "source"), [("adapter", "pictures"), ("teacher", "latents")])
def test_it_trains(task, source, config, latents, tmp_path):
    words = [*sources(source, latents), f"task={task}", f"run.dir={tmp_path}"]
    if task == "teacher":
        words += ["data.negatives=empty", "model.train_text=false"]
    assert fit(load_config([config], words))["files"]


def test_without_crops_they_are_the_pipelines(config, tmp_path):
    import diffusers

    loaded = load_config([config])
    base = build_base(loaded.config)
    pipe = diffusers.StableDiffusionXLPipeline.from_pretrained(base.folder, add_watermarker=False)
    wanted = pipe._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, text_encoder_projection_dim=24)
    given = base.text.framed(base.encode(["a", "b", "c"]), None)
    assert torch.equal(given.added["time_ids"], wanted.expand(3, -1))
