"""A style LoRA, trained on pictures, in diffusers' own pipeline."""

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from sunlab.adapters.lora import ATTENTION, LoRA
from sunlab.cli.main import main
from sunlab.modules.optimization import Optimization
from sunlab.modules.teacher import TeacherModule


def test_diffusers_loads_what_a_style_lora_exports(tiny_base, tiny_base_folder, tmp_path):
    module = TeacherModule(tiny_base, train_text=False, lora=LoRA(rank=2, targets=ATTENTION), optimization=Optimization())
    for parameter in module.trainable().values():
        torch.nn.init.normal_(parameter, std=0.2)
    (file,) = module.export(tmp_path)
    assert len(load_file(file)) == len(module.trainable())
    x, t, tokens = torch.randn(1, 4, 16, 16), torch.tensor([500]), tiny_base.encode(["a red apple"])
    pipe = StableDiffusionPipeline.from_pretrained(tiny_base_folder, safety_checker=None)
    plain = pipe.unet(x, t, tokens.tokens).sample
    pipe.load_lora_weights(file)
    expected = module.base.backbone(x, (t.double() + 1) / 1000, tokens).value
    assert torch.allclose(pipe.unet(x, t, tokens.tokens).sample, expected, rtol=1e-2, atol=1e-2)  # fp16 in the file
    assert not torch.allclose(plain, expected, rtol=0.05, atol=0.05)


def test_an_adapter_that_is_no_lora_cannot_learn_a_style(tiny_config, capsys):
    code = main(["fit", "--config", str(tiny_config), "task=teacher", "model.lora=sun", "data.negatives=empty"])
    assert code == 78 and "model.lora" in capsys.readouterr().err
