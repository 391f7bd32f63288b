"""A base model: text encoder, backbone and autoencoder, wrapped and ready to be composed."""

import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from sunlab.backbones import BACKBONES, Backbone
from sunlab.backbones.locate import locate
from sunlab.backbones.sd.autoencoder import Autoencoder
from sunlab.backbones.sd.folder import read_folder
from sunlab.backbones.sd.parts import Parts
from sunlab.backbones.sd.save import save_base
from sunlab.backbones.sd.single_file import read_single_file
from sunlab.backbones.sdxl.text import CLIPTextPair
from sunlab.backbones.text import CLIPText, TextEncoder
from sunlab.diffusion.path import DiscreteVP
from sunlab.diffusion.prediction import check_parametrisation
from sunlab.errors import ConfigError
from sunlab.hashing import files_hash
from sunlab.types import Conditioning, PredictionType

__all__ = ["BaseModel", "load_base", "quiet", "save_base", "wrap"]


@dataclass(frozen=True)
class BaseModel:
    """What Stable Diffusion consists of, ready to be composed.

    Attributes:
        backbone, autoencoder, text: wrapped.
        folder: where the configurations are.
        weights: part (`unet`, `vae`, `text_encoder`, ...) -> the files with its weights.
        said: what the user or the file states over the configurations (prediction type, zero terminal SNR).
    """

    backbone: Backbone
    autoencoder: Autoencoder
    text: TextEncoder
    folder: Path
    weights: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    said: Mapping[str, Any] = field(default_factory=dict)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return self.text.remembered(prompts)

    def fingerprint(self) -> str:
        """SHA-256 of the weights that make a trajectory: the files of the U-Net and the text encoders."""
        names = ("unet", "text_encoder", "text_encoder_2")
        files = dict.fromkeys(file for name in names for file in self.weights.get(name, ()))
        digest = files_hash(list(files))
        return digest if not self.said else sha256(f"{digest} {_sorted(self.said)}".encode()).hexdigest()

    def identity(self, *parts: str) -> str:
        """SHA-256 of every file that has a part in what these parts compute; of the whole base without any."""
        wanted = parts or ("unet", "text_encoder", "text_encoder_2", "vae", "scheduler", "tokenizer", "tokenizer_2")
        files = [f for name in wanted for f in (*sorted((self.folder / name).glob("*")), *self.weights.get(name, ()))]
        digest = files_hash([file for file in dict.fromkeys(files) if file.is_file()])
        return digest if parts or not self.said else sha256(f"{digest} {_sorted(self.said)}".encode()).hexdigest()

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


def load_base(
    base: str | Path,
    *,
    backbone: Any = "diffusers_unet",
    fresh: Collection[str] = (),
    dtype: torch.dtype = torch.float32,
    family: str | None = None,
    prediction_type: PredictionType | None = None,
    zero_terminal_snr: bool | None = None,
) -> BaseModel:
    """Load a base of SD 1.x, SD 2.x or SDXL. Only safetensors are read.

    Args:
        base: a diffusers folder, a .safetensors file of a whole model, a hub id, or the name of a model inside the package.
        backbone: the plug that wraps the U-Net.
        fresh: parts of a folder (`vae`, `unet`, `text_encoder`) that start at random weights, from their configuration.
        dtype: of the weights.
        family: whose configuration a single file has: `sd15`, `sd21`, `sd21_base`, `sdxl`, or a diffusers folder; None: told
            by its tensors.
        prediction_type: over what the base states, for fine-tunes to v prediction whose file does not say so.
        zero_terminal_snr: likewise, whether the schedule is rescaled to end in pure noise (arXiv 2305.08891).

    Raises:
        ConfigError: no such base, or one of another kind; pickled weights; epsilon prediction from pure noise.
        DataError: damaged or incomplete weights.
        StorageError: a hub id that cannot be fetched.
    """
    place = locate(base)
    if place.is_dir():
        parts = read_folder(place, fresh=fresh, dtype=dtype)
    elif fresh:
        raise ConfigError(f"model.fresh: {list(fresh)} needs a diffusers folder, {place} is a single file")
    else:
        parts = read_single_file(place, family=family, dtype=dtype)
    return wrap(parts, backbone=backbone, prediction_type=prediction_type, zero_terminal_snr=zero_terminal_snr)


def wrap(
    parts: Parts,
    *,
    backbone: Any = "diffusers_unet",
    prediction_type: PredictionType | None = None,
    zero_terminal_snr: bool | None = None,
) -> BaseModel:
    """The parts composed. Args: see `load_base`."""
    own = {"prediction_type": prediction_type, "rescale_betas_zero_snr": zero_terminal_snr}
    said = {key: value for key, value in own.items() if value is not None}
    path, kind = read_path({**parts.scheduler, **said})
    wrapped = BACKBONES.build(backbone, parts.unet, path, kind)
    autoencoder = Autoencoder(parts.vae)
    channels = wrapped.sample_shape[0]
    if channels != parts.vae.config.latent_channels:
        raise ConfigError(
            f"{parts.folder}: its U-Net takes {channels} channels, its autoencoder makes "
            f"{parts.vae.config.latent_channels}: an inpainting or depth model; a text-to-image base is needed"
        )
    if len(parts.texts) == 1:
        text: TextEncoder = CLIPText(*parts.texts[0])
    else:
        tokenizers, models = zip(*parts.texts, strict=True)
        height, width = (side * autoencoder.factor for side in wrapped.sample_shape[1:])
        zero_empty = bool(parts.index.get("force_zeros_for_empty_prompt", True))
        text = CLIPTextPair(tokenizers, models, size=(height, width), zero_empty=zero_empty)
    return BaseModel(wrapped, autoencoder, text, parts.folder, parts.weights, said)


def read_path(config: Mapping[str, Any]) -> tuple[DiscreteVP, PredictionType]:
    """The path and prediction type of a scheduler's configuration.

    Raises:
        ConfigError: a prediction that the path cannot be sampled with.
    """
    path = DiscreteVP.from_betas(
        kind=config.get("beta_schedule", "scaled_linear"),
        start=config.get("beta_start", 0.00085),
        end=config.get("beta_end", 0.012),
        steps=config.get("num_train_timesteps", 1000),
        zero_terminal_snr=bool(config.get("rescale_betas_zero_snr", False)),
    )
    kind = config.get("prediction_type", "epsilon")
    check_parametrisation(kind, path)
    return path, kind


def quiet(*, online: bool = False) -> None:
    """Keep the hub libraries from looking for a network that a run does not need, and from talking.

    Args:
        online: the base is on the hub, so the network is needed, unless HF_HUB_OFFLINE says otherwise.
    """
    if not online:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()
        logging.disable_progress_bar()


def _sorted(said: Mapping[str, Any]) -> str:
    return json.dumps(dict(said), sort_keys=True)
