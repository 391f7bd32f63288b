"""Run by test_real_comfyui in a process of its own: draw every case with ComfyUI's sampling code and the installed nodes.

Usage: python draw_in_comfyui.py FOLDER. In it: bases.json, cases.json, tensors.safetensors, custom_nodes, models/sun.
sunlab is not imported.
"""

import importlib.util
import json
import sys
import warnings
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import scaled_dot_product_attention

warnings.simplefilter("ignore")
folder = Path(sys.argv.pop(1))

from comfy.cli_args import args as settings  # noqa: E402

settings.cpu = True
import comfy.model_base  # noqa: E402
import comfy.model_management  # noqa: E402
import comfy.model_patcher  # noqa: E402
import comfy.sample  # noqa: E402
import comfy.samplers  # noqa: E402
import comfy.supported_models  # noqa: E402
import comfy.utils  # noqa: E402

try:
    import folder_paths
except ImportError:  # the installable fork, which gives custom nodes the module under this name
    from comfy.cmd import folder_paths

    sys.modules["folder_paths"] = folder_paths

torch.set_num_threads(1)
tensors = load_file(folder / "tensors.safetensors")
folder_paths.add_model_folder_path("sun", str(folder / "models" / "sun"))


def load_nodes():
    place = folder / "custom_nodes" / "comfyui_sunlab" / "__init__.py"
    spec = importlib.util.spec_from_file_location("comfyui_sunlab", place, submodule_search_locations=[str(place.parent)])
    sys.modules[spec.name] = package = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    return package.NODE_CLASS_MAPPINGS


def model(name, config, dtype, prediction_type):
    """The base as ComfyUI builds it, its weights renamed by ComfyUI's own table; float8 weights are cast to float32."""
    family = {"sd": comfy.supported_models.SD15, "sdxl": comfy.supported_models.SDXL}[name]
    unet_config = {**config, "dtype": dtype}
    config = family(unet_config)
    config.unet_config.update(unet_config)  # its heads, which the family overwrites
    config.manual_cast_dtype = None if dtype == torch.float32 else torch.float32
    kind = comfy.model_base.ModelType[{"epsilon": "EPS", "v_prediction": "V_PREDICTION"}[prediction_type]]
    built = (comfy.model_base.SDXL if name == "sdxl" else comfy.model_base.BaseModel)(
        config, kind, device=torch.device("cpu")
    )
    table = comfy.utils.unet_to_diffusers(unet_config)
    weights = {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}
    renamed = {table[key]: value.to(dtype) for key, value in weights.items() if key in table}
    missing, unknown = built.diffusion_model.load_state_dict(renamed, strict=False)
    assert not missing and not unknown and len(renamed) == len(weights), (missing, unknown, weights.keys() - table.keys())
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(built, load_device=cpu, offload_device=cpu)


def ip_adapter(patcher, case):
    """In every slot of attn2_replace: the layer's own attention and one over picture tokens, as IP-Adapter nodes do."""
    tokens = tensors[f"{case['name']}/ip_tokens"]

    def place(key, number):
        to_k, to_v = (tensors[f"{case['name']}/ip/{number}.to_{part}_ip.weight"] for part in "kv")

        def attention(q, k, v, extra_options):
            heads, rows = extra_options["n_heads"], len(q) // len(tokens)
            more = [(tokens @ w.T).repeat(rows, 1, 1) for w in (to_k, to_v)]
            q, k, v, k_ip, v_ip = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v, *more))
            out = scaled_dot_product_attention(q, k, v) + case["ip_scale"] * scaled_dot_product_attention(q, k_ip, v_ip)
            return out.transpose(1, 2).flatten(2)

        patcher.set_model_attn2_replace(attention, *key)

    for key, number in case["ip_keys"]:
        place(key, number)


def draw(nodes, patcher, adapter, case):
    read = {
        key.removeprefix(f"{case['name']}/"): value for key, value in tensors.items() if key.startswith(f"{case['name']}/")
    }
    patcher = patcher.clone()
    if "ip_keys" in case and case.get("ip_first"):
        ip_adapter(patcher, case)
    pooled = {"pooled_output": read["pooled"]} if "pooled" in read else {}
    size = {"width": 8 * read["noise"].shape[-1], "height": 8 * read["noise"].shape[-2]}
    negative = [[read["negative"], {}]]
    positive = [[read["positive"], {**pooled, **size}]]
    if case.get("masks"):  # halves that add up to the whole, one prompt longer than the other by repetition
        left = torch.zeros(1, *read["noise"].shape[-2:])
        left[..., : left.shape[-1] // 2] = 1
        short = read["positive"][:, : read["positive"].shape[1] // 2]
        positive = [
            [p, {**pooled, **size, "mask": m, "mask_strength": 1.0}] for p, m in ((positive[0][0], left), (short, 1 - left))
        ]
        negative = [[read["negative"], {"mask": left}], [read["negative"].repeat(1, 3, 1), {"mask": 1 - left}]]
    (patched,) = nodes["SunlabApplySUN"]().apply(patcher, adapter, negative, 1.0, guidance=case.get("guidance", 0.0))
    if "ip_keys" in case and not case.get("ip_first"):
        ip_adapter(patched, case)
    (sigmas,) = nodes["SunlabSigmas"]().sigmas(patched, case["steps"])
    calls = []

    def count(apply_model, given):
        calls.append(len(given["input"]))
        return apply_model(given["input"], given["timestep"], **given["c"])

    patched.set_model_unet_function_wrapper(count)
    latent = torch.zeros_like(read["noise"])
    sampler = comfy.samplers.sampler_object(case["sampler"])
    with torch.inference_mode():
        for _ in range(2 if case.get("unload") else 1):
            calls.clear()
            out = comfy.sample.sample_custom(
                patched,
                read["noise"].clone(),
                case.get("cfg", 1.0),
                sampler,
                sigmas,
                positive,
                positive,
                latent,
                disable_pbar=True,
            )
            if case.get("unload"):
                loaded = [each.model.model for each in comfy.model_management.current_loaded_models]
                assert adapter.layers in loaded, "ComfyUI did not load the adapter beside the model"
                comfy.model_management.unload_all_models()
                assert not comfy.model_management.current_loaded_models
        out = patched.model.process_latent_in(out)
    return out.float().contiguous(), calls


nodes, drawn, report = load_nodes(), {}, {}
assert not any(name.partition(".")[0] == "sunlab" for name in sys.modules)
bases = json.loads((folder / "bases.json").read_text())
for case in json.loads((folder / "cases.json").read_text()):
    dtype = getattr(torch, case.get("dtype", "float32"))
    built = model(case["base"], bases[case["base"]], dtype, case.get("prediction_type", "epsilon"))
    adapter, _ = nodes["SunlabLoadAdapter"]().load(f"{case['name']}.safetensors")
    drawn[case["name"]], report[case["name"]] = draw(nodes, built, adapter, case)
save_file(drawn, folder / "drawn.safetensors")
(folder / "report.json").write_text(json.dumps(report))
