"""A full-size base of a known family with random weights, as a diffusers folder: speed and memory do not depend on the
weights' values, pictures do, and are noise.

    python tools/make_random_base.py --family sd15 --out random-sd15

The configurations are the ones in the package, sunlab/assets/families. The same seed and torch version give the same file.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from sunlab.pipelines.base import ASSETS, quiet

FAMILIES = ASSETS / "families"


def random_part(folder: Path, library: str, kind: str, dtype: torch.dtype) -> Any:
    """A model of the class `kind` from the configuration in `folder`, its library's own initial weights in `dtype`."""
    cls = getattr(diffusers if library == "diffusers" else transformers, kind)
    if library == "diffusers":
        return cls.from_config(cls.load_config(folder))
    return cls._from_config(transformers.CLIPTextConfig.from_pretrained(folder), dtype=dtype)


def make(family: str, out: Path, *, dtype: torch.dtype = torch.float16, seed: int = 0) -> dict[str, int]:
    """Write the folder `out`; returns the number of parameters of each part."""
    source = FAMILIES / family
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
        shutil.copytree(ASSETS / "emoji-sd" / "tokenizer", out / name, dirs_exist_ok=True)
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--family", required=True, choices=sorted(p.parent.name for p in FAMILIES.glob("*/model_index.json"))
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write, outside the repository")
    parser.add_argument("--dtype", default="float16", choices=["float16", "bfloat16", "float32"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    quiet()
    started = time.perf_counter()
    counts = make(arguments.family, arguments.out, dtype=getattr(torch, arguments.dtype), seed=arguments.seed)
    for name, count in counts.items():
        print(f"{name}: {count:,} parameters")
    size = sum(f.stat().st_size for f in arguments.out.rglob("*.safetensors"))
    print(f"{arguments.out}: {size / 1e9:.2f} GB, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
