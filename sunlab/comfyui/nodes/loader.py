"""The three nodes: a file becomes an adapter, an adapter patches a model, a model states the sigmas to sample at."""

import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import folder_paths
import torch

from .adapter import SUNAdapter, read_adapter
from .errors import DataError
from .layers import cross_attention, fit
from .negative import Negative
from .patches import SUNPatch

FOLDER = "sun"  # in ComfyUI's folder `models`
SAMPLERS = {"ddim": "euler", "dpmpp_2m": "dpmpp_2m", "lcm": "lcm"}
"""Our solver -> ComfyUI's sampler that computes the same at trailing sigmas."""
log = logging.getLogger(__name__)

folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))
with suppress(OSError):  # a folder that is read-only, or whose parent is elsewhere
    os.makedirs(os.path.join(folder_paths.models_dir, FOLDER), exist_ok=True)


class LoadSUNAdapter:
    """Read and check an adapter file of `models/sun`."""

    CATEGORY = "loaders/sunlab"
    RETURN_TYPES = ("SUN_ADAPTER", "INT")
    RETURN_NAMES = ("adapter", "steps")
    OUTPUT_TOOLTIPS = ("For Apply SUN.", "The number of steps that the adapter was trained for.")
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        files = [name for name in folder_paths.get_filename_list(FOLDER) if name.endswith(".safetensors")]
        return {"required": {"adapter_name": (files, {"tooltip": f"A .safetensors file in models/{FOLDER}."})}}

    @classmethod
    def IS_CHANGED(cls, adapter_name: str, **_: Any) -> Any:  # noqa: N802
        with suppress(OSError, TypeError):
            stat = os.stat(folder_paths.get_full_path(FOLDER, adapter_name))
            return stat.st_mtime_ns, stat.st_size
        return adapter_name

    def load(self, adapter_name: str, **_: Any) -> tuple[SUNAdapter, int]:
        from comfy import model_management, model_patcher

        path = folder_paths.get_full_path(FOLDER, adapter_name)
        if path is None:
            raise DataError(f"{adapter_name}: no such file in models/{FOLDER}; copy it there, and reload the page")
        adapter = read_adapter(path)
        patcher = model_patcher.ModelPatcher(
            adapter.layers,
            load_device=model_management.get_torch_device(),
            offload_device=model_management.unet_offload_device(),
        )
        header = adapter.header
        sampler = SAMPLERS.get(str(header.get("solver")), header.get("solver"))
        log.info(
            "%s: %s, %s steps of the sampler %s at %s sigmas, cfg 1",
            adapter_name, adapter.spec["name"], header.get("steps"), sampler, header.get("spacing", "trailing"),
        )  # fmt: skip
        return replace(adapter, patcher=patcher), header.get("steps", 4)


class ApplySUN:
    """A clone of the model in which the adapter acts, with a negative prompt of its own. Sample it at cfg 1."""

    CATEGORY = "model_patches/sunlab"
    RETURN_TYPES = ("MODEL",)
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        number = {"min": 0.0, "max": 30.0, "step": 0.05}
        return {
            "required": {
                "model": ("MODEL",),
                "adapter": ("SUN_ADAPTER",),
                "negative": ("CONDITIONING", {"tooltip": "ComfyUI skips its own negative prompt at cfg 1."}),
                "scale": ("FLOAT", {"default": 1.0, **number, "tooltip": "1 as trained, 0 without the adapter."}),
            },
            "optional": {
                "guidance": (
                    "FLOAT",
                    {
                        "default": 0.0,
                        **number,
                        "tooltip": "For adapters of the kind sun_w; 0: the middle of their training.",
                    },
                )
            },
        }

    def apply(
        self, model: Any, adapter: SUNAdapter, negative: Any, scale: float, guidance: float = 0.0, **_: Any
    ) -> tuple[Any]:
        sampling = model.get_model_object("model_sampling")
        _check_prediction(adapter, sampling)
        layers = cross_attention(model.get_model_object("diffusion_model"))
        fitted = fit(adapter, layers)
        _check_alone(model.model_options)
        text = next(iter(layers.values())).text
        w = guidance or adapter.guidance()
        patch = SUNPatch(adapter, fitted, Negative(negative, sampling, text), float(scale), float(w))
        patched = model.clone()
        patched.set_model_attn2_patch(patch)
        patched.set_model_attn2_output_patch(patch.output)
        return (patched,)


class SUNSigmas:
    """The sigmas of trailing times: of 1,000, at 4 steps, those of 999, 749, 499 and 249, then 0. They are shifted as the
    adapter in the model was trained."""

    CATEGORY = "sampling/custom_sampling/schedulers"
    RETURN_TYPES = ("SIGMAS",)
    FUNCTION = "sigmas"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {
            "required": {
                "model": ("MODEL",),
                "steps": ("INT", {"default": 4, "min": 1, "max": 1000}),
                "denoise": ("FLOAT", {"default": 1.0, "min": 0.01, "max": 1.0, "step": 0.01}),
            }
        }

    def sigmas(self, model: Any, steps: int, denoise: float = 1.0, **_: Any) -> tuple[torch.Tensor]:
        sampling = model.get_model_object("model_sampling")
        of = getattr(sampling, "num_timesteps", 1000)
        total = min(of, int(steps / denoise))
        stride = (
            of - of / total
        ) - of  # as numpy's arange, and so diffusers, has it: its last bit decides how 937.5 is rounded
        shift = _shift(model.model_options)
        parts = [round(of + i * stride) / of for i in range(total)]
        times = torch.tensor([round(of * shift * t / (1 + (shift - 1) * t)) - 1 for t in parts])[-steps:]
        return (torch.cat([sampling.sigma(times).float().cpu(), torch.zeros(1)]),)


def _shift(options: Mapping[str, Any]) -> float:
    """Of the times of the adapter that patches the model; 1 where there is none."""
    patches = options.get("transformer_options", {}).get("patches", {}).get("attn2_patch", [])
    return next((float(each.adapter.header.get("shift", 1.0)) for each in patches if isinstance(each, SUNPatch)), 1.0)


def _check_prediction(adapter: SUNAdapter, sampling: Any) -> None:
    """By the names of ComfyUI's classes, of which V_PREDICTION derives from EPS."""
    names = [cls.__name__ for cls in type(sampling).__mro__]
    found = "v_prediction" if "V_PREDICTION" in names else "epsilon" if "EPS" in names else None
    stated = adapter.header.get("prediction_type")
    if stated is not None and found is not None and stated != found:
        raise DataError(
            f"{adapter.name}: trained on a base that predicts {stated}, this model predicts {found}; load such a base"
        )


def _check_alone(model_options: Mapping[str, Any]) -> None:
    patches = model_options.get("transformer_options", {}).get("patches", {}).get("attn2_patch", [])
    if any(isinstance(patch, SUNPatch) for patch in patches):
        raise DataError("Apply SUN: an adapter is applied to this model already; connect the model from before that node")
