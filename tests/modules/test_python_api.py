"""Modules from Python, without a configuration, as docs/python.md shows."""

import pytest
import torch
from lightning.pytorch import Trainer

from sunlab.adapters.lora import ATTENTION, LoRA
from sunlab.adapters.sun import SUN
from sunlab.backbones.pretrained import load_base
from sunlab.callbacks.before_after import BeforeAfter
from sunlab.callbacks.sample_images import SampleImages
from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Mixture
from sunlab.data.shards import Shards
from sunlab.errors import ConfigError
from sunlab.losses import LossOutput
from sunlab.losses.cfg import CFG
from sunlab.losses.msc import MSC
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.autoencoder import AutoencoderModule
from sunlab.modules.optimization import Optimization
from sunlab.modules.student import StudentModule
from sunlab.modules.teacher import TeacherModule
from sunlab.pipelines.draw import Request, draw, with_backbone, with_guidance

KINDS = ("adapter", "lora", "copy", "teacher", "style", "autoencoder")


def make(kind, base, **options):
    options = {"optimization": Optimization(lr=1e-2), **options}
    if kind == "adapter":
        return AdapterModule(base, SUN(), MSC(states="data", substeps=2), **options)
    if kind == "lora":
        return StudentModule(base, CFG(), lora=LoRA(rank=2, targets=ATTENTION), **options)
    if kind == "copy":
        return StudentModule(base, CFG(), **options)
    if kind == "style":
        return TeacherModule(base, train_text=False, lora=LoRA(rank=2, targets=ATTENTION), **options)
    return (TeacherModule if kind == "teacher" else AutoencoderModule)(base, **options)


def train(module, data, folder, steps=2, **options):
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_progress_bar=False, enable_model_summary=False,
        enable_checkpointing=False, default_root_dir=folder, **options,
    )  # fmt: skip
    trainer.fit(module, datamodule=data)
    return trainer


def parameters(base):
    """Every parameter of the base by name; where peft wraps a layer, by the name that it had."""
    parts = {"unet": base.backbone.unet, "vae": base.autoencoder.vae, "text": base.text.model}
    named = ((f"{part}.{k}", p) for part, module in parts.items() for k, p in module.named_parameters())
    return {k.replace(".base_layer.", "."): p for k, p in named}


def test_the_example_of_the_docs(tiny_base_folder, tiny_shards, tmp_path):
    data = DataModule(Shards(urls=[tiny_shards]), Mixture(), batch_size=8)
    module = AdapterModule(load_base(tiny_base_folder), SUN(), MSC(states="data"))
    trainer = Trainer(max_steps=2, accelerator="cpu", default_root_dir=tmp_path, logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    trainer.fit(module, datamodule=data)
    (file,) = module.export(tmp_path)
    assert trainer.global_step == 2 and file.is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_trained_moves_and_is_saved(kind, tiny_base, tiny_data, tmp_path):
    module = make(kind, tiny_base)
    before = {k: p.detach().clone() for k, p in parameters(tiny_base).items()}
    trained = {k: v.detach().clone() for k, v in module.trainable().items()}
    trainer = train(module, tiny_data(), tmp_path, steps=3)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    saved = torch.load(tmp_path / "x.ckpt", weights_only=True)
    assert saved["state_dict"].keys() == trained.keys()
    moved = [k for k, v in module.trainable().items() if not torch.equal(v, trained[k])]
    assert len(moved) > len(trained) / 3
    own = {id(p) for p in module.trainable().values()}
    now = parameters(tiny_base)
    frozen = [k for k in before if id(now[k]) not in own]
    assert all(torch.equal(now[k], before[k]) for k in frozen)
    vae = sum(name.startswith("vae.") for name in before)
    base = sum("lora_" not in name for name in before)
    assert len(frozen) == {"teacher": vae, "autoencoder": base - vae}.get(kind, base)


@pytest.mark.parametrize("kind", ["adapter", "lora", "copy"])
def test_one_unet_in_memory_and_the_teacher_in_eval(kind, tiny_base, tiny_data, tmp_path):
    count = sum(p.numel() for p in tiny_base.backbone.unet.parameters())
    others = sum(p.numel() for part in (tiny_base.text, tiny_base.autoencoder) for p in part.parameters())
    seen = []

    class Watch(MSC):
        def __call__(self, *args):
            seen.append([m.training for part in (tiny_base.backbone, tiny_base.text, tiny_base.autoencoder)
                         for m in list(part.modules())[1:]])  # fmt: skip
            return super().__call__(*args)

    module = make(kind, tiny_base)
    module.loss = Watch(substeps=2)
    train(module, tiny_data(), tmp_path)
    assert len(seen) == 2 and not any(map(any, seen))
    own = sum(p.numel() for p in module.trainable().values())
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage().nbytes() // 4 for p in reachable(module)}
    assert sum(storages.values()) == count + others + own
    if kind == "copy":
        assert own == count
    else:
        assert own < count


def reachable(module):
    """Every parameter that the module holds, registered or hidden in a plain attribute."""
    found = {id(p): p for p in module.parameters()}
    for value in (*vars(module).values(), *vars(module.base).values()):
        if isinstance(value, torch.nn.Module):
            found |= {id(p): p for p in value.parameters()}
    return found.values()


@pytest.mark.parametrize(
    ("kind", "falls"), [("adapter", 0.97), ("lora", 0.9), ("teacher", 0.9), ("style", 0.95), ("autoencoder", 0.8)]
)
def test_the_loss_falls_on_one_batch(kind, falls, tiny_base, tiny_data, tmp_path):
    module = make(kind, tiny_base)
    samples = next(iter(tiny_data().loader()))
    values = []

    class Repeated(torch.utils.data.IterableDataset):
        def __iter__(self):
            while True:
                yield samples

    original = module.training_step

    def step(batch, batch_idx):
        out = original(batch, batch_idx)
        values.append(float((out["loss"] if isinstance(out, dict) else out).detach()))
        return out

    module.training_step = step
    loader = torch.utils.data.DataLoader(Repeated(), batch_size=None)
    trainer = Trainer(accelerator="cpu", max_steps=12, logger=False, enable_progress_bar=False,
                      enable_model_summary=False, enable_checkpointing=False, default_root_dir=tmp_path)  # fmt: skip
    trainer.fit(module, train_dataloaders=loader)
    assert values[-1] < falls * values[0], values


class TeacherLast(CFG):
    """Asks the student before the teacher, so that the teacher's switch is the last before the backward pass."""

    def __call__(self, batch, student, teacher, distance):
        t = torch.full((len(batch),), 0.5)
        asked = student.denoise(batch.latents, t).epsilon
        return LossOutput(distance(asked, teacher.denoise(batch.latents, t).epsilon), t, t)


@pytest.mark.parametrize("kind", ["adapter", "lora"])
def test_gradient_checkpointing_changes_no_gradient(kind, tiny_base_folder, tiny_data):
    """The teacher's passes lie between the student's forward and backward: what is recomputed must be the student's."""
    gradients = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        base = load_base(tiny_base_folder, backbone={"name": "sd", "gradient_checkpointing": checkpointing})
        module = make(kind, base)
        module.loss, module.log = TeacherLast(), lambda *a, **k: None
        with torch.no_grad():
            for p in module.trainable().values():
                p.add_(0.01)
        module.training_step(next(iter(tiny_data().loader())), 0)["loss"].backward()
        gradients.append({k: p.grad for k, p in module.trainable().items()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-7, rtol=1e-4)


@pytest.mark.parametrize("kind", ["adapter", "lora", "copy"])
def test_pictures_while_training_are_the_students(kind, tiny_base, tiny_data, tmp_path):
    callbacks = [
        SampleImages(prompts=["a pizza"], every=1, steps=2),
        BeforeAfter(prompts=["a pizza"], negatives=["red"], measured=2, steps=2),
    ]
    module = make(kind, tiny_base)
    train(module, tiny_data(), tmp_path, steps=1, callbacks=callbacks)
    assert (tmp_path / "pictures" / "0000001.png").is_file() and (tmp_path / "before_after.png").is_file()


def test_the_answer_is_drawn_on_the_device_of_the_training(tiny_base, tiny_data, tmp_path, monkeypatch):
    """Lightning moves the module to the CPU before `on_fit_end`."""
    moved, report = [], BeforeAfter.report
    to, cpu = AdapterModule.to, AdapterModule.cpu
    monkeypatch.setattr(AdapterModule, "to", lambda self, *where: (moved.append(where[0]), to(self, *where))[1])
    monkeypatch.setattr(AdapterModule, "cpu", lambda self: (moved.append("the CPU"), cpu(self))[1])
    monkeypatch.setattr(BeforeAfter, "report", lambda *given: (moved.append("drawn"), report(*given))[1])
    answer = BeforeAfter(prompts=["a pizza"], negatives=["red"], measured=2, steps=2)
    module = make("adapter", tiny_base)
    train(module, tiny_data(), tmp_path, steps=1, callbacks=[answer])
    assert moved[-4:] == ["the CPU", torch.device("cpu"), "drawn", "the CPU"]  # the second is the device of the training


@pytest.mark.parametrize("kind", ["adapter", "lora", "copy"])
def test_the_teacher_is_drawn_with_the_student_off(kind, tiny_base, tiny_base_folder, tiny_data, tmp_path):
    untouched = load_base(tiny_base_folder).freeze()
    module = make(kind, tiny_base)
    train(module, tiny_data(), tmp_path, steps=3)
    request = Request(["a pizza", "a red background"], ["red", ""], [1, 2])

    def latents(base, bind):
        return draw(base, module.student, bind, request, w=3.0).latents

    expected = latents(untouched, with_guidance(untouched))
    for _ in range(2):
        assert torch.equal(latents(tiny_base, module.bind_teacher()), expected)
        student = draw(tiny_base, module.student, module.bind_student(), request, w=3.0)
        assert student.nfe == module.student.steps and not torch.allclose(student.latents, expected, atol=1e-3)
        assert not torch.equal(student.latents, latents(untouched, with_backbone(untouched.backbone)))


def test_the_last_checkpoint_of_another_model_is_refused(tiny_base_folder, tiny_data, tmp_path):
    trainer = train(make("adapter", load_base(tiny_base_folder)), tiny_data(), tmp_path)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    other = AdapterModule(load_base(tiny_base_folder), SUN(extra_positive=False), MSC())
    trainer = Trainer(accelerator="cpu", max_steps=3, logger=False, enable_progress_bar=False, enable_checkpointing=False)
    with pytest.raises(ConfigError, match="does not fit this model"):
        trainer.fit(other, datamodule=tiny_data(), ckpt_path=tmp_path / "x.ckpt", weights_only=True)
