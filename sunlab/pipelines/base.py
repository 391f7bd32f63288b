"""A base model: text encoder, backbone and autoencoder, from and to a diffusers folder."""

import json
import os
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sunlab.backbones import BACKBONES, Backbone
from sunlab.diffusion.schedule import Schedule
from sunlab.encoders.text import TextEncoder
from sunlab.encoders.vae import Autoencoder
from sunlab.errors import ConfigError
from sunlab.hashing import files_hash
from sunlab.types import Conditioning

ASSETS = Path(__file__).parents[1] / "assets"
PARTS = ("vae", "unet", "text_encoder")


@dataclass(frozen=True)
class BaseModel:
    """What Stable Diffusion consists of, ready to be composed."""

    backbone: Backbone
    autoencoder: Autoencoder
    text: TextEncoder
    folder: Path

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return self.text.remembered(prompts)

    def fingerprint(self) -> str:
        """SHA-256 of the weights that make a trajectory: the files of the U-Net and the text encoder."""
        files = [f for part in ("unet", "text_encoder") for f in sorted((self.folder / part).glob("*.safetensors"))]
        return files_hash(files)

    def freeze(self) -> "BaseModel":
        for part in (self.backbone, self.autoencoder, self.text):
            part.requires_grad_(False).eval()
        return self

    def to(self, device: torch.device | str) -> "BaseModel":
        for part in (self.backbone, self.autoencoder, self.text):
            part.to(device)
        return self

    @property
    def device(self) -> torch.device:
        return next(self.backbone.parameters()).device


def asset(path: str | Path) -> Path:
    """A file as named, or the one of that name inside the package."""
    return Path(path) if Path(path).exists() else ASSETS / path


def base_folder(base: str | Path) -> Path:
    """The folder of a base: a path, or the name of a model inside the package.

    Raises:
        ConfigError: no such folder, or not a diffusers model.
    """
    shipped = ASSETS / str(base)
    folder = Path(base) if (Path(base) / "model_index.json").is_file() else shipped
    if not (folder / "model_index.json").is_file():
        known = sorted(p.parent.name for p in ASSETS.glob("*/model_index.json"))
        raise ConfigError(
            f"model.base: {str(base)!r} is neither a diffusers folder (with model_index.json) nor one of the models "
            f"inside the package: {', '.join(known)}"
        )
    return folder


def load_base(
    base: str | Path = "emoji-sd",
    *,
    backbone: Any = "diffusers_unet",
    fresh: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
) -> BaseModel:
    """Load a base from a diffusers folder. Only safetensors are read.

    Args:
        base: folder, or the name of a model inside the package.
        backbone: the plug that wraps the U-Net.
        fresh: parts of `PARTS` that start at random weights, from their configuration.
        dtype: of the weights.
    """
    from diffusers import AutoencoderKL, AutoencoderTiny, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    folder = base_folder(base)
    index = json.loads((folder / "model_index.json").read_text())
    tiny = index.get("vae", [None, None])[1] == "AutoencoderTiny"

    def part(name: str, kind: Any) -> nn.Module:
        if name in fresh:
            return kind.from_config(kind.load_config(folder / name))
        if not list((folder / name).glob("*.safetensors")):
            raise ConfigError(
                f"{folder / name} holds no safetensors weights; to train them from scratch add {name!r} to model.fresh"
            )
        return kind.from_pretrained(folder / name, torch_dtype=dtype, use_safetensors=True)

    # on CPUs in bfloat16 the fused kernel's backward takes twice the time of plain matrix products
    attention = {} if torch.cuda.is_available() else {"attn_implementation": "eager"}
    if "text_encoder" in fresh:
        text_model = CLIPTextModel._from_config(CLIPTextConfig.from_pretrained(folder / "text_encoder"), **attention)
    else:
        text_model = CLIPTextModel.from_pretrained(folder / "text_encoder", dtype=dtype, use_safetensors=True, **attention)
    tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    schedule, prediction_type = read_schedule(folder / "scheduler" / "scheduler_config.json")
    wrapped = BACKBONES.build(backbone, part("unet", UNet2DConditionModel), schedule, prediction_type)
    autoencoder = Autoencoder(part("vae", AutoencoderTiny if tiny else AutoencoderKL))
    return BaseModel(wrapped, autoencoder, TextEncoder(tokenizer, text_model), folder)


def read_schedule(file: Path) -> tuple[Schedule, Any]:
    """The schedule and prediction type of a scheduler_config.json."""
    config = json.loads(file.read_text())
    schedule = Schedule.from_betas(
        kind=config.get("beta_schedule", "scaled_linear"),
        start=config.get("beta_start", 0.00085),
        end=config.get("beta_end", 0.012),
        steps=config.get("num_train_timesteps", 1000),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )
    return schedule, config.get("prediction_type", "epsilon")


def save_base(model: BaseModel, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write a diffusers folder that plain `StableDiffusionPipeline.from_pretrained(folder)` opens."""
    import shutil

    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(model.folder / "model_index.json", folder / "model_index.json")
    shutil.copytree(model.folder / "scheduler", folder / "scheduler", dirs_exist_ok=True)
    model.text.tokenizer.save_pretrained(folder / "tokenizer")
    for name, part in (
        ("unet", model.backbone.unet),
        ("vae", model.autoencoder.vae),
        ("text_encoder", model.text.model),
    ):
        rounded = nn.Module.to(deepcopy(part), dtype)  # diffusers' own `to` warns of an empty list
        rounded.save_pretrained(folder / name, safe_serialization=True)
        file = folder / name / "config.json"
        config = {k: v for k, v in json.loads(file.read_text()).items() if k != "_name_or_path"}  # where it was made
        if name == "text_encoder":
            config["dtype"] = "float32"  # transformers loads in this type, diffusers its parts in float32
        file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def quiet() -> None:
    """Keep the hub libraries from looking for a network that a run does not need, and from talking."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()
