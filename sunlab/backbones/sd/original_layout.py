"""diffusers' and transformers' names of Stable Diffusion's tensors -> those of the original code, in which model sites share
single files; for text encoders, back as well."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

State = Mapping[str, Tensor]
POSITIONS = "embeddings.position_ids"  # 0 ... 76, in older files
RESNET = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
          "conv2": "out_layers.3", "conv_shortcut": "skip_connection"}  # fmt: skip
OUTSIDE = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
           "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
           "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
           "mid_block.resnets.1": "middle_block.2"}  # fmt: skip
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
CLIP_LAYER = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
              "self_attn.out_proj": "attn.out_proj"}  # fmt: skip
CLIP_OUTSIDE = {"embeddings.token_embedding.weight": "token_embedding.weight",
                "embeddings.position_embedding.weight": "positional_embedding",
                "final_layer_norm.weight": "ln_final.weight", "final_layer_norm.bias": "ln_final.bias"}  # fmt: skip


def original(states: Mapping[str, State], unet: Any, vae: Any) -> dict[str, Tensor]:
    """One file's tensors.

    Args:
        states: of `unet`, `vae`, `text_encoder` and, for SDXL, `text_encoder_2`.
        unet, vae: their configurations.
    """
    named = {f"model.diffusion_model.{k}": v for k, v in _unet(states["unet"], unet["layers_per_block"]).items()}
    named |= {f"first_stage_model.{k}": v for k, v in _vae(states["vae"], len(vae["block_out_channels"])).items()}
    for name, (prefix, open_clip) in encoders(states, unet).items():
        named |= (_open_clip if open_clip else _clip)(states[name], prefix)
    return {name: tensor.contiguous() for name, tensor in named.items()}


def encoders(states: Mapping[str, State], unet: Any) -> dict[str, tuple[str, bool]]:
    """Text encoder -> what its names start with, and whether it is OpenCLIP's."""
    if "text_encoder_2" in states:
        first, second = (f"conditioner.embedders.{end}" for end in ("0.transformer.text_model.", "1.model."))
        return {"text_encoder": (first, False), "text_encoder_2": (second, True)}
    if unet["cross_attention_dim"] == 1024 or unet.get("use_linear_projection"):
        return {"text_encoder": ("cond_stage_model.model.", True)}
    return {"text_encoder": ("cond_stage_model.transformer.text_model.", False)}


def text_state(read: Callable[[str], Tensor], names: Iterable[str], prefix: str, open_clip: bool) -> dict[str, Tensor]:
    """The other way: a text encoder's tensors under transformers' `names`. Args: read, a tensor of the file by its name."""
    state = {}
    for name in names:
        plain = name.removeprefix("text_model.")
        if not open_clip:
            state[name] = read(prefix + plain)
            continue
        place, third = _open_clip_place(plain)
        tensor = read(prefix + place)
        state[name] = tensor.T if place == "text_projection" else tensor if third is None else tensor.chunk(3)[third]
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _swap(name: str, table: Mapping[str, str]) -> str:
    found = next((old for old in sorted(table, key=len, reverse=True) if name.startswith(f"{old}.")), None)
    return name if found is None else table[found] + name[len(found) :]


def _unet(state: State, layers: int) -> dict[str, Tensor]:
    attended = {int(m[1]) for k in state if (m := re.match(r"up_blocks\.(\d+)\.attentions\.", k))}

    def place(name: str) -> str:
        match = re.match(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.*)", name)
        if match is None:
            head = _swap(name, OUTSIDE)
            return re.sub(r"^(middle_block\.[02])\.(.*)$", lambda m: f"{m[1]}.{_swap(m[2], RESNET)}", head)
        side, block, kind, number, rest = match[1], int(match[2]), match[3], int(match[4]), match[5]
        first = block * (layers + 1) + (1 if side == "down" else 0)
        root = "input_blocks" if side == "down" else "output_blocks"
        if kind == "resnets":
            return f"{root}.{first + number}.0.{_swap(rest, RESNET)}"
        if kind == "attentions":
            return f"{root}.{first + number}.1.{rest}"
        if kind == "downsamplers":
            return f"{root}.{first + layers}.0.op.{rest.removeprefix('conv.')}"
        return f"{root}.{first + layers}.{2 if block in attended else 1}.{rest}"

    return {place(name): tensor for name, tensor in state.items()}


def _vae(state: State, blocks: int) -> dict[str, Tensor]:
    def place(name: str, tensor: Tensor) -> tuple[str, Tensor]:
        name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
        name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
        name = re.sub(r"encoder\.down_blocks\.(\d+)", r"encoder.down.\1", name)
        name = re.sub(r"decoder\.up_blocks\.(\d+)", lambda m: f"decoder.up.{blocks - 1 - int(m[1])}", name)
        name = name.replace(".resnets.", ".block.")
        name = name.replace(".downsamplers.0.", ".downsample.").replace(".upsamplers.0.", ".upsample.")
        head, mark, rest = name.partition("mid_block.attentions.0.")
        if not mark:
            return name, tensor
        rest = _swap(rest, VAE_ATTENTION)  # 1 x 1 convolutions there
        return f"{head}mid.attn_1.{rest}", tensor[:, :, None, None] if tensor.dim() == 2 else tensor

    return dict(place(name, tensor) for name, tensor in state.items())


def _clip(state: State, prefix: str) -> dict[str, Tensor]:
    named = {prefix + name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    length = len(named[f"{prefix}embeddings.position_embedding.weight"])
    return {**named, prefix + POSITIONS: torch.arange(length)[None]}  # as old files have it


def _open_clip_place(name: str) -> tuple[str, int | None]:
    """OpenCLIP's name, and which third of the tensor it is: query, key and value are one there."""
    if name == "text_projection.weight":
        return "text_projection", None
    if name in CLIP_OUTSIDE:
        return CLIP_OUTSIDE[name], None
    _, _, number, rest = name.split(".", 3)
    if match := re.match(r"self_attn\.([qkv])_proj\.(weight|bias)", rest):
        return f"transformer.resblocks.{number}.attn.in_proj_{match[2]}", "qkv".index(match[1])
    return f"transformer.resblocks.{number}.{_swap(rest, CLIP_LAYER)}", None


def _open_clip(state: State, prefix: str) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    joined: dict[str, list[Tensor]] = {}
    for name, tensor in state.items():
        place, third = _open_clip_place(name.removeprefix("text_model."))
        if third is None:
            named[place] = tensor.T if place == "text_projection" else tensor
        else:
            joined.setdefault(place, [tensor] * 3)[third] = tensor
    named |= {name: torch.cat(three) for name, three in joined.items()}
    return {prefix + name: tensor for name, tensor in named.items()}
