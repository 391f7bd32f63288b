"""A base small enough to train in a test, shards of tiny pictures, and the command line in a process of its own."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # Lightning's launchers take all cores where it is not set

import numpy as np
import pytest
import torch
from PIL import Image
from webdataset.writer import TarWriter

pytest.register_assert_rewrite("sunlab.testing")  # before anything imports it

from sunlab.backbones.base import BACKBONES, BaseModel  # noqa: E402
from sunlab.backbones.pretrained import load_base, quiet  # noqa: E402
from sunlab.data.datamodule import DataModule  # noqa: E402
from sunlab.data.indexing import index_all  # noqa: E402
from sunlab.data.negatives import Mixture  # noqa: E402
from sunlab.data.shards import Shards  # noqa: E402

torch.set_num_threads(1)  # sums of two threads differ in the last bit, and wait for each other on a busy machine

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "configs" / "emoji" / "model"
SIDE = 32  # pixels; four of them are a latent position wide
COUNT = 48
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (40, 60, 220), "white": (250, 250, 250)}


# What Lightning says of every training, and what is meant so or not ours to change.
QUIET = (
    "ignore:.*LeafSpec.*:FutureWarning",  # Lightning 2.6.6 on torch 2.13
    "ignore:.*in eval mode at the start of training",  # the frozen base, on purpose
    "ignore:.*does not have many workers",
    "ignore:The `srun` command is available",  # trainers of tests' own, where Slurm is installed
)


SLOWEST = 500  # seconds; none of a test's own processes takes that long on a slow machine, unless it hangs
LONGEST = 3600  # seconds; the same of a test that is left out by default
WORKERS = 2  # processes of the whole suite: it needs no more memory than a laptop has, and no more cores than CI


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Run the whole suite in two processes, a file in one of them; files that were named run in this one.

    A worker process calls this too, and must not start workers of its own.
    """
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and "PYTEST_XDIST_WORKER" not in os.environ
    if whole and getattr(config.option, "numprocesses", 0) is None and not config.option.usepdb:
        config.option.numprocesses, config.option.dist = WORKERS, "loadfile"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.get_closest_marker(name) for name in ("slow", "slurm", "gpu")):
            item.add_marker(pytest.mark.timeout(LONGEST))


def pytest_configure(config: pytest.Config) -> None:
    for line in QUIET:
        config.addinivalue_line("filterwarnings", line)


@pytest.fixture(autouse=True)
def unchanged_process() -> Iterator[None]:
    """The environment is restored: Lightning's launcher sets LOCAL_RANK and more, with which a process that a later test
    starts would wait for ranks that nobody starts."""
    environ = dict(os.environ)
    yield
    if dict(os.environ) != environ:
        os.environ.clear()
        os.environ.update(environ)
    assert torch.get_num_threads() == 1, "this test changed torch's number of threads for those after it"


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with random weights: latents (4, 8, 8), text width 16, the lab's tokenizer and scheduler."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    quiet()
    folder = tmp_path_factory.mktemp("tiny") / "base"
    folder.mkdir()
    shutil.copy(MODEL / "model_index.json", folder)
    for part in ("scheduler", "tokenizer"):
        shutil.copytree(MODEL / part, folder / part)
    text = json.loads((MODEL / "text_encoder" / "config.json").read_text())
    text |= {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(8, 16),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=16,
            attention_head_dim=2,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=4,
            norm_num_groups=4,
            sample_size=SIDE,
            scaling_factor=0.5,
            mid_block_add_attention=False,
        )
        words = CLIPTextModel(CLIPTextConfig(**text))
    for name, part in (("unet", unet), ("vae", vae), ("text_encoder", words)):
        part.save_pretrained(folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Name of a family -> the tiny base that it writes, made once."""
    return cache(lambda name: BACKBONES.get(name).factory.write_tiny(tmp_path_factory.mktemp(name) / "base"))


@pytest.fixture
def tiny_base(tiny_base_folder: Path) -> BaseModel:
    """Loaded anew for each test, which may change it."""
    return load_base(tiny_base_folder)


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One tar of 48 pictures of squares with captions and keywords."""
    path = tmp_path_factory.mktemp("shards") / "train-00000.tar"
    with path.open("wb") as file, TarWriter(file, encoder=False, mtime=0) as tar:
        for number in range(COUNT):
            colour = list(COLOURS)[number % len(COLOURS)]
            pixels = np.full((SIDE, SIDE, 3), COLOURS[colour], np.uint8)
            pixels[8:24, 4 + number % 16 : 12 + number % 16] = number * 5
            data = BytesIO()
            Image.fromarray(pixels).save(data, "PNG")
            caption = f"a pizza on a {colour} background" if number % 3 else f"a {colour} background"
            record = {"keywords": [colour, "pizza"], "subject": "pizza"}
            tar.write(
                {
                    "__key__": f"{number:05d}",
                    "png": data.getvalue(),
                    "txt": caption.encode(),
                    "json": json.dumps(record).encode(),
                }
            )
    index_all([path])
    return str(path)


@pytest.fixture
def tiny_data(tiny_shards: str) -> Callable[..., DataModule]:
    """The data module over `tiny_shards`; options as `DataModule`'s."""
    return lambda **given: DataModule(Shards(urls=[tiny_shards]), Mixture(), **{"batch_size": 8, "streams": 4, **given})


@pytest.fixture(scope="session")
def tiny_config(tiny_base_folder: Path, tiny_shards: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration that trains a SUN adapter of the tiny base with `states: data`."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(f"""
task: adapter
model: {{base: "{tiny_base_folder}"}}
data:
  source: {{name: shards, urls: ["{tiny_shards}"]}}
  batch_size: 8
  streams: 4
teacher: {{steps: 4}}
student: {{steps: 2}}
loss: {{name: msc, states: data, substeps: 2}}
optimizer: {{lr: 1.0e-3, warmup_steps: 2, schedule: cosine}}
trainer: {{max_steps: 6, accelerator: cpu, enable_progress_bar: false, log_every_n_steps: 1}}
""")
    return path


@pytest.fixture(scope="session")
def tiny_trajectories(tiny_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 trajectories of the tiny base, for a teacher of 24 steps and a student of 4."""
    from sunlab.app.trajectories import make_trajectories
    from sunlab.config.load import load_config

    folder = tmp_path_factory.mktemp("trajectories")
    make_trajectories(
        load_config([tiny_config], ["teacher.steps=24", "student.steps=4"]), out=folder, count=16, shard_size=8
    )
    return folder


@pytest.fixture
def sunlab_process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`python -m sunlab WORDS` in a process of its own, in the test's folder."""

    def command(*words: object, timeout: float = SLOWEST) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "sunlab", *map(str, words)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
        )

    return command
