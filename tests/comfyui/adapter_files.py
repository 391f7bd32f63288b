"""Adapter files with random tensors, written from the format's description."""

from hashlib import sha256

import torch

from sunlab.export.seal import pack

ENDINGS = {"negative": "neg", "positive": "extra_pos"}


def write(path, layers, *, kind="sun", seed=0, dtype=torch.float16, without=(), spec=(), **header):
    """layers: path -> (width, text width, heads), of all layers. without: endings of tensors to leave out."""
    generator, tensors = torch.Generator().manual_seed(seed), {}

    def random(*shape, mean=0.0, spread=1.0):
        return (mean + spread * torch.randn(*shape, generator=generator)).to(dtype)

    for layer, (width, text, _) in layers.items():
        for ending in ENDINGS.values():
            tensors[f"{layer}.to_k_{ending}.weight"] = random(width, text, spread=text**-0.5)
            tensors[f"{layer}.to_v_{ending}.weight"] = random(width, text, spread=text**-0.5)
            tensors[f"{layer}.to_k_{ending}_alpha"] = random(width, mean=1.0, spread=0.2)
            tensors[f"{layer}.to_k_{ending}_beta"] = random(width, spread=0.1)
        if kind == "sun_w":
            tensors[f"{layer}.guidance_saturation"] = random(1)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith(tuple(without))}
    lines = "".join(f"{name} {w} {t} {h}\n" for name, (w, t, h) in sorted(layers.items()))
    stated = {
        "format": 2, "sunlab": "0.0", "dtype": str(dtype).removeprefix("torch."), "prediction_type": "epsilon",
        "solver": "ddim", "spacing": "trailing", "steps": 4, "times": [999, 749, 499, 249, -1], "guidance": [2.0, 4.0],
        "adapter": {"name": kind, "extra_positive": True, "negative": True, "normalise": True, "scale": True, "init": "copy",
                    "compat": False, **({"saturation": 1.0} if kind == "sun_w" else {}), **dict(spec)},
        "base": {"family": "other", "cross_attention": sha256(lines.encode()).hexdigest()},
    }  # fmt: skip
    path.write_bytes(pack(tensors, {**stated, **header}))
    return tensors
