"""A training step of the public LCM-LoRA recipe beside one written from its formulas (arXiv 2310.04378, 2311.05556) with
diffusers' U-Net and scheduler and peft's LoRA: states, loss, gradients, and the weights after the optimizer."""

import json
import shutil

import pytest
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from sunlab.app.compose import build_base, build_data, build_module
from sunlab.config.load import load_config

LAYERS = [
    "to_q", "to_k", "to_v", "to_out.0", "proj_in", "proj_out", "ff.net.0.proj", "ff.net.2", "conv1", "conv2",
    "conv_shortcut", "downsamplers.0.conv", "upsamplers.0.conv", "time_emb_proj",
]  # fmt: skip
RANK, W, RATE, STRIDE = 3, 4.0, 1e-4, 20
RECIPE = [
    "task=student", "loss=lcm", "weighting=uniform", "data.negatives=empty", "trainer.precision=32-true",
    f"adapter={{name: lora, rank: {RANK}}}", "distance={name: huber, c: 1.0e-3}", "student={solver: lcm, steps: 4}",
    f"teacher={{solver: ddim, steps: 48, guidance: [{W}]}}",
    f"optimizer={{lr: {RATE}, betas: [0.9, 0.999], warmup_steps: 0, schedule: constant}}",
]  # fmt: skip


class Recipe:
    """The published recipe on a U-Net of diffusers' with a LoRA of peft's."""

    def __init__(self, folder, weights):
        from peft import LoraConfig, get_peft_model

        self.teacher = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").requires_grad_(False)
        unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet")
        self.student = get_peft_model(unet, LoraConfig(r=RANK, lora_alpha=RANK, target_modules=LAYERS))
        self.trained = {_plain(n): p for n, p in self.student.named_parameters() if p.requires_grad}
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(weights[name].reshape(parameter.shape))
        scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
        assert scheduler.config.prediction_type == "v_prediction"
        self.alpha, self.sigma = scheduler.alphas_cumprod.sqrt(), (1 - scheduler.alphas_cumprod).sqrt()

    def at(self, step):
        return [schedule[step].view(-1, 1, 1, 1) for schedule in (self.alpha, self.sigma)]

    def clean(self, network, x, step, tokens):
        """x_0 and the noise of the network's v."""
        a, s = self.at(step)
        v = network(x, step, tokens).sample
        return a * x - s * v, a * v + s * x

    def consistent(self, x, step, tokens):
        """c_skip x + c_out x_0, with sigma_data 0.5 and times scaled by 10."""
        scaled = 10.0 * step.view(-1, 1, 1, 1)
        x_0, _ = self.clean(self.student, x, step, tokens)
        return 0.25 / (scaled**2 + 0.25) * x + scaled / (scaled**2 + 0.25) ** 0.5 * x_0

    def loss(self, x, step, tokens, empty):
        after = (step - STRIDE).clamp(min=0)
        carried = self.consistent(x, step, tokens)
        with torch.no_grad():
            positive, negative = self.clean(self.teacher, x, step, tokens), self.clean(self.teacher, x, step, empty)
            x_0, noise = (p + (W - 1) * (p - n) for p, n in zip(positive, negative, strict=True))
            a, s = self.at(after)
            target = self.consistent(a * x_0 + s * noise, after, tokens)
        return (((carried - target) ** 2 + 1e-6).sqrt() - 1e-3).mean()


def _plain(name):
    """`down_blocks.0.resnets.0.conv1.lora_A` of a parameter's name in peft and in sunlab."""
    name = name.replace("base_model.model.", "").replace("lora.updates.", "").replace("/", ".")
    return name.removesuffix(".weight").removesuffix(".default")


@pytest.fixture
def folder(tiny_base_folder, tmp_path):
    """The tiny base as one that predicts v, without a shift of its own."""
    shutil.copytree(tiny_base_folder, tmp_path / "base")
    file = tmp_path / "base" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "prediction_type": "v_prediction"}))
    return tmp_path / "base"


def test_one_step(folder, tiny_config):
    config = load_config([tiny_config], [f"model.base={folder}", *RECIPE]).config
    torch.manual_seed(0)
    base = build_base(config)
    module = build_module(config, base)
    mine = {_plain(name): parameter for name, parameter in module.trainable().items()}
    with torch.no_grad():
        for name, parameter in mine.items():
            if name.endswith("lora_B"):  # zero at first, when the student is the base
                parameter.normal_(std=0.05)
    batch = module.encode(next(iter(build_data(config, base, accumulate=1).loader())))
    asked, predict = [], module.predict_student
    module.predict_student = lambda x, t, b: asked.append((x.detach(), t, torch.is_grad_enabled())) or predict(x, t, b)
    loss = module.loss(batch, module.student_sampler(batch), module.teacher_sampler(batch), module.distance).values.mean()
    ((x, t),) = [(x, t) for x, t, trained in asked if trained]
    step = base.backbone.path.step(t).long()
    assert set(step.tolist()) <= set(range(STRIDE - 1, 1000, STRIDE)) and len(set(step.tolist())) > 1

    theirs = Recipe(folder, {name: parameter.detach().clone() for name, parameter in mine.items()})
    assert theirs.trained.keys() == mine.keys()
    expected = theirs.loss(x, step, batch.positive.tokens, base.text([""] * len(x)).tokens)
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-7)
    loss.backward()
    expected.backward()
    for name, parameter in mine.items():
        other = theirs.trained[name].grad.reshape(parameter.shape)
        torch.testing.assert_close(parameter.grad, other, rtol=2e-3, atol=1e-3 * float(other.abs().max()), msg=name)
    optimizer = module.optimization.configure(mine.values(), 10)["optimizer"]
    plain = torch.optim.AdamW(theirs.trained.values(), lr=RATE, betas=(0.9, 0.999), weight_decay=0.0)
    for one in (optimizer, plain):
        one.step()
    apart = [(mine[n].detach() - p.detach().reshape(mine[n].shape)).abs().flatten() for n, p in theirs.trained.items()]
    # Adam's first step is the gradient's sign times the rate, which rounding turns where a gradient is near zero.
    assert float((torch.cat(apart) < 0.02 * RATE).float().mean()) > 0.98
