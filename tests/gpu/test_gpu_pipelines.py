"""`sunlab.plug` on pipelines on the GPU: one pass a step, offloaded for real, unplugged without a trace."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

import sunlab
from sunlab.adapters.sun import SUN
from sunlab.backbones.pretrained import load_base
from sunlab.export import save_adapter
from sunlab.export.shapes import describe_base

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")]
ERROR = {torch.float32: 5e-3, torch.bfloat16: 0.1, torch.float16: 0.03}


@pytest.fixture(scope="module")
def adapter(tiny_base_folder, tmp_path_factory):
    backbone, sun = load_base(tiny_base_folder).freeze().backbone, SUN()
    sun.attach(backbone)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in sun.tensors().values():
            tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
    header = {
        "solver": "ddim",
        "steps": 4,
        "times": [1.0, 0.75, 0.5, 0.25, 0.0],
        "spacing": "trailing",
        "guidance": [2.0, 4.0],
        "prediction_type": backbone.prediction_type,
        "base": describe_base(backbone),
    }
    return save_adapter(tmp_path_factory.mktemp("file") / "sun.safetensors", sun, header, dtype=torch.float32)


def pipeline(folder, dtype=torch.float32):
    pipe = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True, torch_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def drawn(pipe):
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(pipe.unet.dtype)
    given = {"negative_prompt": ["blue", "a pizza"], "latents": noise, "num_inference_steps": 4, "output_type": "latent"}
    return pipe(["a pizza", "a large tiger"], **given).images.float().cpu()


def close(out, wanted, dtype):
    assert out.isfinite().all() and (out - wanted).norm() <= ERROR[dtype] * wanted.norm()


@pytest.mark.parametrize("dtype", ERROR, ids=str)
def test_plugged_pictures_are_those_of_the_cpu(dtype, device, adapter, tiny_base_folder):
    wanted = drawn(sunlab.plug(pipeline(tiny_base_folder), adapter))
    pipe = pipeline(tiny_base_folder, dtype).to(device)
    before = drawn(pipe)
    rows = []
    pipe.unet.register_forward_pre_hook(lambda module, args, kwargs: rows.append(len(args[0])), with_kwargs=True)
    close(drawn(sunlab.plug(pipe, adapter)), wanted, dtype)
    assert rows == [2] * 4  # one pass a step, without a second row for the negative prompt
    assert torch.equal(drawn(sunlab.unplug(pipe)), before)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("how", ["enable_model_cpu_offload", "enable_sequential_cpu_offload"])
def test_offloaded(how, when, device, adapter, tiny_base_folder):
    if device == "cpu":
        pytest.skip("offloads from a GPU")
    wanted = drawn(sunlab.plug(pipeline(tiny_base_folder), adapter))
    pipe = pipeline(tiny_base_folder)
    for step in ("offload", "plug") if when == "before" else ("plug", "offload"):
        if step == "plug":
            sunlab.plug(pipe, adapter)
        else:
            getattr(pipe, how)(device=device)
    close(drawn(pipe), wanted, torch.float32)
    assert next(pipe.text_encoder.parameters()).device.type in ("cpu", "meta")


def test_compiled(device, adapter, tiny_base_folder):
    if device == "cpu":
        pytest.skip("needs a C++ compiler on a CPU")
    wanted = drawn(sunlab.plug(pipeline(tiny_base_folder), adapter))
    pipe = sunlab.plug(pipeline(tiny_base_folder).to(device), adapter)
    pipe.unet.compile()
    close(drawn(pipe), wanted, torch.float32)
