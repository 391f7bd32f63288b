"""ComfyUI's contract for patches, as far as the nodes rely on it, over a U-Net of toy layers.

Written from the contract: patch lists and their arguments, one slot a block for `attn2_replace`, `cond_or_uncond`, deep
copies of the options by `clone`, `to` and `models` of patches, Linear layers that cast their weights to their input.
"""

import copy
import types

import torch
from torch import nn
from torch.nn.functional import linear, scaled_dot_product_attention


class CastLinear(nn.Linear):
    """Weights in any type, float8 included, on any device; computes in the type of its input."""

    def forward(self, x):
        return linear(x, self.weight.to(x), None if self.bias is None else self.bias.to(x))


class CrossAttention(nn.Module):
    def __init__(self, width, text, heads):
        super().__init__()
        self.heads, self.dim_head = heads, width // heads
        self.to_q = CastLinear(width, width, bias=False)
        self.to_k, self.to_v = (CastLinear(text, width, bias=False) for _ in range(2))
        self.to_out = nn.Sequential(CastLinear(width, width), nn.Dropout())

    def forward(self, x, context, value):
        q, k, v = self.to_q(x), self.to_k(context), self.to_v(value)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in (q, k, v))
        return self.to_out(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Transformer(nn.Module):
    """x + attn2(norm(x)), with the patches around it."""

    def __init__(self, width, text, heads):
        super().__init__()
        self.attn2, self.norm2 = CrossAttention(width, text, heads), nn.LayerNorm(width)

    def forward(self, x, context, options):
        extra = {k: v for k, v in options.items() if k not in ("patches", "patches_replace")}
        extra |= {"n_heads": self.attn2.heads, "dim_head": self.attn2.dim_head}
        patches, value = options.get("patches", {}), context
        n = self.norm2(x.float()).to(x)
        for patch in patches.get("attn2_patch", []):
            n, context, value = patch(n, context, value, extra)
        replace = options.get("patches_replace", {}).get("attn2", {})
        block = (*options["block"], options["block_index"])
        block = block if block in replace else options["block"]
        if block in replace:
            projected = self.attn2.to_q(n), self.attn2.to_k(context), self.attn2.to_v(value)
            n = self.attn2.to_out(replace[block](*projected, extra))
        else:
            n = self.attn2(n, context, value)
        for patch in patches.get("attn2_output_patch", []):
            n = patch(n, extra)
        return x + n


class SpatialTransformer(nn.Module):
    def __init__(self, width, text, heads, depth):
        super().__init__()
        self.transformer_blocks = nn.ModuleList(Transformer(width, text, heads) for _ in range(depth))

    def forward(self, x, context, options):
        shape, tokens = x.shape, x.flatten(2).transpose(1, 2)
        for index, block in enumerate(self.transformer_blocks):
            tokens = block(tokens, context, {**options, "block_index": index})
        return tokens.transpose(1, 2).reshape(shape)


class Downsample(nn.Module):
    def forward(self, x, *_):
        return x[..., ::2, ::2]


class Upsample(nn.Module):
    def forward(self, x, *_):
        return x.repeat_interleave(2, -1).repeat_interleave(2, -2)


class UNet(nn.Module):
    """Two levels; keys ("input", 1), ("input", 3), ("middle", 0), ("output", 0), ("output", 1)."""

    def __init__(self, width=8, text=6, heads=2, depth=1):
        super().__init__()

        def block(*more):
            return nn.ModuleList([SpatialTransformer(width, text, heads, depth), *more])

        self.input_blocks = nn.ModuleList([nn.ModuleList(), block(), nn.ModuleList([Downsample()]), block()])
        self.middle_block = block()
        self.output_blocks = nn.ModuleList([block(Upsample()), block()])

    def forward(self, x, context, options):
        options["original_shape"] = list(x.shape)
        sides = (("input", self.input_blocks), ("middle", [self.middle_block]), ("output", self.output_blocks))
        for name, blocks in sides:
            for number, parts in enumerate(blocks):
                options["block"] = (name, number)
                for part in parts:
                    x = part(x, context, options)
        return x


class EPS:
    num_timesteps = 1000

    def __init__(self):
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
        kept = (1 - betas).cumprod(0)
        self.sigmas = ((1 - kept) / kept).sqrt().float()

    def sigma(self, times):
        return self.sigmas[times]

    def percent_to_sigma(self, percent):
        return 1e9 if percent <= 0 else 0.0 if percent >= 1 else float(self.sigmas[round((1 - percent) * 999)])


class V_PREDICTION(EPS):  # noqa: N801
    pass


class ModelPatcher:
    def __init__(self, model, load_device=None, offload_device=None):
        self.model, self.load_device, self.offload_device = model, load_device, offload_device
        self.model_options = {"transformer_options": {}}

    def clone(self):
        other = ModelPatcher(self.model, self.load_device, self.offload_device)
        other.model_options = copy.deepcopy(self.model_options)
        return other

    def get_model_object(self, name):
        return getattr(self.model, name)

    def set_model_attn2_patch(self, patch):
        self._append("attn2_patch", patch)

    def set_model_attn2_output_patch(self, patch):
        self._append("attn2_output_patch", patch)

    def set_model_attn2_replace(self, patch, name, number):
        slots = self.model_options["transformer_options"].setdefault("patches_replace", {}).setdefault("attn2", {})
        slots[name, number] = patch

    def _append(self, name, patch):
        self.model_options["transformer_options"].setdefault("patches", {}).setdefault(name, []).append(patch)

    def patches(self):
        return [p for each in self.model_options["transformer_options"].get("patches", {}).values() for p in each]


class Model(nn.Module):
    def __init__(self, unet, sampling=None):
        super().__init__()
        self.diffusion_model, self.model_sampling = unet, sampling or EPS()

    def apply(self, patcher, x, context, marks=(0,), sigma=5.0):
        """One pass with the patcher's options; x (B, C, H, W)."""
        options = {**patcher.model_options["transformer_options"], "cond_or_uncond": list(marks)}
        options["sigmas"] = torch.full((len(x) // len(marks),), sigma)
        with torch.inference_mode():
            return self.diffusion_model(x, context.expand(len(x), -1, -1), options)


def modules(models_dir):
    """The modules that the nodes import, by name."""
    management = types.ModuleType("comfy.model_management")
    management.get_torch_device = management.unet_offload_device = lambda: torch.device("cpu")
    patcher = types.ModuleType("comfy.model_patcher")
    patcher.ModelPatcher = ModelPatcher
    comfy = types.ModuleType("comfy")
    comfy.model_management, comfy.model_patcher = management, patcher
    paths, folders = types.ModuleType("folder_paths"), {}
    paths.models_dir = str(models_dir)
    paths.add_model_folder_path = lambda name, path: folders.setdefault(name, path)
    paths.get_filename_list = lambda name: sorted(p.name for p in (models_dir / name).iterdir())
    paths.get_full_path = lambda name, file: str(p) if (p := models_dir / name / file).is_file() else None
    return {"comfy": comfy, "comfy.model_management": management, "comfy.model_patcher": patcher, "folder_paths": paths}


NAME_OF_LAYERS = {
    ("input", 1, 0): "down_blocks.0.attentions.0.transformer_blocks.0.attn2",
    ("input", 3, 0): "down_blocks.1.attentions.0.transformer_blocks.0.attn2",
    ("middle", 0, 0): "mid_block.attentions.0.transformer_blocks.0.attn2",
    ("output", 0, 0): "up_blocks.0.attentions.0.transformer_blocks.0.attn2",
    ("output", 1, 0): "up_blocks.1.attentions.0.transformer_blocks.0.attn2",
}
"""Keys of `UNet`'s layers -> paths in the U-Net of diffusers that is built alike."""
