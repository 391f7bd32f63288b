"""The scratch folder of the trials: a tiny base model, shards, and runs over them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from fault_injection.ranks import PATIENCE, Job, Main, Outcome, start
from fault_injection.samples import picture_sample, write_shard
from sunlab.draws import keyed_seed
from sunlab.packaged import asset

LAB = "emoji-sd"
PROBES = "fault_injection.probes"
UNET: dict[str, Any] = {
    "_class_name": "UNet2DConditionModel",
    "sample_size": 4,
    "block_out_channels": [4, 8],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 2,
    "norm_num_groups": 2,
}
VAE: dict[str, Any] = {
    "_class_name": "AutoencoderKL",
    "block_out_channels": [4, 4, 4],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "latent_channels": 4,
    "norm_num_groups": 2,
    "sample_size": 16,
    "scaling_factor": 0.5,
    "mid_block_add_attention": False,
}
TEXT = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}


@dataclass(frozen=True)
class World:
    """Where trials work.

    Attributes:
        folder: of its own, empty at the start.
        main: the command line as a function; each rank calls it.
        seed: of everything that is drawn.
        quick: the short form.
        kills: SIGKILLs of the kill trial; None: as many as the form has.
    """

    folder: Path
    main: Main
    seed: int = 0
    quick: bool = False
    kills: int | None = None
    made: dict[str, Any] = field(default_factory=dict)  # what several trials share

    def random(self, *parts: object) -> Random:
        return Random(keyed_seed(self.seed, "torture", *parts))  # the word keeps the draws of earlier versions

    def choose(self, quick: int, whole: int) -> int:
        """A number of the short form, or of the whole."""
        return quick if self.quick else whole

    def place(self, name: str) -> Path:
        """An empty folder."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    def base(self) -> Path:
        """A diffusers folder with configurations only: its weights are drawn from the seed as a run starts."""
        folder = self.folder / "base"
        if not folder.is_dir():
            folder.mkdir(parents=True)
            lab = asset(LAB)
            shutil.copy(lab / "model_index.json", folder)
            for part in ("scheduler", "tokenizer"):
                shutil.copytree(lab / part, folder / part)
            text = json.loads((lab / "text_encoder" / "config.json").read_text()) | TEXT
            for part, config in (("unet", UNET), ("vae", VAE), ("text_encoder", text)):
                (folder / part).mkdir()
                (folder / part / "config.json").write_text(json.dumps(config))
        return folder

    def shards(self, name: str, counts: Sequence[int], *, index: bool = True) -> list[Path]:
        """Shards of so many samples each, with a manifest and indexes if requested. Made once for each name."""
        folder = self.folder / name
        if not folder.is_dir():
            folder.mkdir(parents=True)
            number = 0
            for shard, count in enumerate(counts):
                samples = [picture_sample(n) for n in range(number, number + count)]
                write_shard(folder / f"{shard:05d}.tar", samples)
                number += count
            if index:
                make_index(folder)
        return sorted(folder.glob("*.tar"))

    def config(self, name: str, urls: Sequence[str | Path], **values: Any) -> Path:
        """A configuration that trains an adapter of the tiny base over `urls`; dotted `values` over it, with `__` for the
        dot."""
        path = self.folder / "configs" / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        tree: dict[str, Any] = {
            "task": "adapter",
            "plugins": [PROBES],
            "run": {"dir": str(self.folder / "runs"), "name": name, "checkpoint_every": 2, "dead_after": 10.0},
            "model": {"base": str(self.base()), "fresh": ["vae", "unet", "text_encoder"]},
            "data": {
                "source": {"name": "shards", "urls": list(map(str, urls)), "shuffle": 16},
                "batch_size": 8,
                "streams": 4,
            },
            "teacher": {"steps": 4},
            "student": {"steps": 2},
            "loss": {"name": "msc", "states": "data", "substeps": 2},
            "optimizer": {"lr": 1e-3, "warmup_steps": 2},
            "callbacks": [],
            "trainer": {
                "max_steps": 12,
                "accelerator": "cpu",
                "enable_progress_bar": False,
                "log_every_n_steps": 1,
                "logger": False,
            },
        }
        for key, value in values.items():
            *sections, last = key.split("__")
            inner = tree
            for section in sections:
                inner = inner[section]
            inner[last] = value
        path.write_text(json.dumps(tree))  # JSON is YAML
        return path

    def start(
        self, config: Path, *words: str, ranks: int = 1, environ: Mapping[str, str] | None = None, command: str = "fit"
    ) -> Job:
        """Start `sunlab fit` over a configuration."""
        folder = self.folder / "logs" / config.stem
        several = [f"trainer.devices={ranks}", "trainer.strategy=ddp"] if ranks > 1 else []
        return start(
            self.main, [command, "--config", str(config), *several, *words], ranks=ranks, folder=folder, environ=environ
        )

    def fit(self, config: Path, *words: str, ranks: int = 1, seconds: float = 2 * PATIENCE, **options: Any) -> Outcome:
        """The same, to its end."""
        return self.start(config, *words, ranks=ranks, **options).end(seconds)

    def clean(self) -> list[Path]:
        """The shards that most runs train on: 56 samples in 3 uneven ones, of which an epoch of 8 a step leaves none out."""
        return self.shards("clean", (24, 9, 23))

    @property
    def several(self) -> dict[str, Any]:
        """What runs have that are compared with the unbroken one."""
        return {"data__workers": 1}

    def unbroken(self) -> tuple[Path, float]:
        """The folder of a run on 2 ranks that nothing happened to, and its seconds."""
        if "unbroken" not in self.made:
            config = self.config("unbroken", self.clean(), **self.several)
            outcome = self.fit(config, ranks=2)
            if outcome.codes != [0, 0]:
                raise RuntimeError(f"the unbroken run ended with {outcome.codes}: {outcome.log[-1000:]}")
            self.made["unbroken"] = self.run_folder(config), outcome.seconds
        return self.made["unbroken"]

    def run_folder(self, config: Path) -> Path:
        return self.folder / "runs" / config.stem


def make_index(folder: Path) -> None:
    """A manifest and the indexes of all shards in a folder, as `sunlab data index` writes them."""
    from sunlab.data.indexing import index_all

    index_all(sorted(folder.glob("*.tar")))
