"""A full-size base of a known family with random weights, as a diffusers folder: speed and memory do not depend on the
weights' values, pictures do, and are noise.

    python tools/make_random_base.py --family sd15 --out random-sd15
    python tools/make_random_base.py --single random-sd15.safetensors --out random-sd15

The second writes that folder's tensors as one file too, in the original layout, as model sites share them.

The configurations are the ones in the package, sunlab/assets/families. The same seed and torch version give the same file.
"""

import argparse
import json
import shutil
import string
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from safetensors.torch import load_file, save_file

from sunlab.backbones.pretrained import quiet
from sunlab.backbones.sana.tiny import tiny_tokenizer
from sunlab.backbones.sd.original_layout import original
from sunlab.backbones.sd.tokenizer import ASSETS, read_tokenizer


def random_part(folder: Path, library: str, kind: str, dtype: torch.dtype) -> Any:
    """A model of the class `kind` from the configuration in `folder`, its library's own initial weights in `dtype`."""
    cls = getattr(diffusers if library == "diffusers" else transformers, kind)
    if library == "diffusers":
        return cls.from_config(cls.load_config(folder))
    return cls._from_config(cls.config_class.from_pretrained(folder), dtype=dtype)


def tokenizer(folder: Path, kind: str) -> Any:
    """CLIP's own; one of T5's or Gemma's class that knows letters alone, since the package has no vocabulary of theirs."""
    if kind.startswith("CLIP"):
        return read_tokenizer(folder)
    if kind.startswith("Gemma"):
        return tiny_tokenizer()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", -9.0), ("▁", -3.0), *((letter, -2.0) for letter in string.printable)]
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_text()) if file.is_file() else {}
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=settings.get("model_max_length", 512))


def make(family: str, out: Path, *, dtype: torch.dtype = torch.float16, seed: int = 0) -> dict[str, int]:
    """Write the folder `out`; returns the number of parameters of each part."""
    source = ASSETS / "families" / family
    index = json.loads((source / "model_index.json").read_text())
    shutil.copytree(source, out, dirs_exist_ok=True)
    counts = {}
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for number, (name, entry) in enumerate(index.items()):
            if not isinstance(entry, list) or not (source / name / "config.json").is_file():
                continue
            torch.manual_seed(seed + number)
            part = random_part(source / name, *entry, dtype)
            part.save_pretrained(out / name, safe_serialization=True)
            counts[name] = sum(p.numel() for p in part.parameters())
    finally:
        torch.set_default_dtype(default)
    for name in (n for n in index if n.startswith("tokenizer")):
        tokenizer(source / name, index[name][1]).save_pretrained(out / name)
    return counts


def write_single(folder: Path, file: Path) -> int:
    """The weights of a diffusers folder as one file in the original layout; returns the number of tensors."""
    states = {}
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        for path in sorted((folder / name).glob("*.safetensors")):
            states.setdefault(name, {}).update(load_file(path))
    unet, vae = (json.loads((folder / name / "config.json").read_text()) for name in ("unet", "vae"))
    tensors = original(states, unet, vae)
    save_file(tensors, file, metadata={"format": "pt"})
    return len(tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--family", choices=sorted(path.name for path in (ASSETS / "families").iterdir()), help="write the folder"
    )
    parser.add_argument("--single", type=Path, metavar="FILE", help="write the folder's weights as one file")
    parser.add_argument("--out", type=Path, required=True, help="the folder, outside the repository")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet()
    started = time.perf_counter()
    if arguments.family is None and arguments.single is None:
        parser.error("give --family, --single or both")
    counts = (
        {}
        if arguments.family is None
        else make(arguments.family, arguments.out, dtype=getattr(torch, arguments.dtype), seed=arguments.seed)
    )
    for name, count in counts.items():
        print(f"{name}: {count:,} parameters")
    if arguments.single is not None:
        print(f"{arguments.single}: {write_single(arguments.out, arguments.single)} tensors")
    size = sum(f.stat().st_size for f in arguments.out.rglob("*.safetensors"))
    print(f"{arguments.out}: {size / 1e9:.2f} GB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
