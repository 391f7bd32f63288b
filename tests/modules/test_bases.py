"""Training over several bases: which network a step has, and that the base is what it was afterwards."""

import signal
from collections import Counter

import pytest
import torch
from checkpoints import KILL, equal, saved

from sunlab.adapters.sun import SUN
from sunlab.cli.main import main
from sunlab.config.load import load_config
from sunlab.draws import Draws
from sunlab.errors import ConfigError, DataError
from sunlab.losses import LossOutput
from sunlab.losses.base import Loss
from sunlab.losses.cfg import CFG
from sunlab.losses.dmd import DMD
from sunlab.modules.adapter import AdapterModule
from sunlab.modules.bases import Bases, Member, perturbed
from sunlab.testing.toy_backbone import toy_base
from sunlab.types import Samples

pytestmark = pytest.mark.filterwarnings("ignore:You are trying to `self.log:UserWarning")  # without a trainer
X, T = torch.ones(2, 2, 4, 4), torch.tensor([0.9, 0.3], dtype=torch.float64)
SAMPLES = Samples(("a", "b"), ("a pizza", "a large tiger"), ("", "blue"), (1, 2), latents=torch.ones(2, 2, 4, 4))


def fine_tune(strength=0.2):
    """The toy, moved: network and text encoder."""
    base = toy_base()
    with torch.no_grad():
        for seed, parameter in enumerate((*base.backbone.parameters(), *base.text.parameters())):
            parameter.add_(strength * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed)))
    return base.freeze()


def ask(base, prompts=("a pizza", "a tiger")):
    return base.backbone.predict(X, T, base.encode(prompts))


@pytest.fixture
def base():
    return toy_base().freeze()


MEMBERS = (Member("0"), Member("1", fine_tune()), Member("2", strength=0.3, rank=2), Member("3", fine_tune(), 0.1, 1))


def test_a_draw_is_a_function_of_seed_and_step(base):
    members = (Member("0", weight=3.0), Member("1", strength=0.1), Member("2", weight=0.0))
    first, again, other = (Bases(base, members, seed=seed) for seed in (1, 1, 2))
    drawn = [first.draw(step) for step in range(400)]
    assert drawn == [again.draw(step) for step in range(400)] != [other.draw(step) for step in range(400)]
    count = Counter(drawn)
    assert set(count) == {0, 1} and 0.65 < count[0] / 400 < 0.85


@pytest.mark.parametrize("shape", [(12, 8), (6, 4, 3, 3)])
def test_a_perturbation_has_its_strength_and_rank(shape):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    before = weight.clone()
    delta = (perturbed(weight, 0.2, 3, Draws((5,)), "w") - weight).flatten(1)
    assert torch.equal(weight, before)
    assert float(delta.norm() / weight.norm()) == pytest.approx(0.2, rel=1e-4)
    values = torch.linalg.svdvals(delta)
    assert int((values > 1e-4 * values[0]).sum()) == 3
    b, a = (Draws((5,)).normal(f"w.{part}", (3, size))[0] for part, size in zip("BA", delta.shape, strict=True))
    torch.testing.assert_close(delta, 0.2 * weight.norm() * (b.mT @ a) / (b.mT @ a).norm(), atol=1e-5, rtol=1e-4)
    for seed, name in ((6, "w"), (5, "v")):
        other = (perturbed(weight, 0.2, 3, Draws((seed,)), name) - weight).flatten(1)
        assert abs(float(torch.nn.functional.cosine_similarity(delta.flatten(), other.flatten(), dim=0))) < 0.5


def test_a_step_has_the_drawn_network_and_the_base_is_restored(base):
    """Against fine-tunes that were never swapped, with their own text encoder, and a copy that was perturbed by hand."""
    identity, objects, plain = base.backbone.identity(), dict(base.backbone.named_parameters()), ask(base)
    bases = Bases(base, MEMBERS, seed=3)
    with bases.drawn(0, 7) as drawn:
        assert torch.equal(ask(drawn), plain)
    with bases.drawn(1, 7) as drawn:
        assert torch.equal(ask(drawn), ask(fine_tune())) and not torch.allclose(ask(drawn), plain)
    outs = []
    for step in (7, 7, 8):
        with bases.drawn(2, step) as drawn:
            outs.append(ask(drawn))
            moved = {n: p.clone() for n, p in base.backbone.named_parameters() if not torch.equal(p, objects[n])}
    assert torch.equal(outs[0], outs[1]) and not torch.allclose(outs[0], outs[2])
    assert moved.keys() == {f"{path}.weight" for path in base.backbone.layers()}
    by_hand = toy_base().freeze()
    by_hand.backbone.load_state_dict(moved, strict=False)
    assert torch.equal(ask(by_hand), outs[2])
    with bases.drawn(3, 8) as drawn:
        assert not torch.allclose(ask(drawn), ask(fine_tune()))
    with pytest.raises(RuntimeError, match="in the midst"), bases.drawn(1, 9):
        raise RuntimeError("in the midst")
    assert base.backbone.identity() == identity and torch.equal(ask(base), plain)
    after = dict(base.backbone.named_parameters())
    assert after.keys() == objects.keys() and all(after[name] is objects[name] for name in objects)


class Spy(Loss):
    """Keeps what teacher and student predict."""

    def __call__(self, batch, student, teacher, distance):
        t = T.to(batch.guidance.device)
        self.teacher, self.student = teacher.denoise(X, t), student.denoise(X, t)
        return LossOutput((self.student.value - self.teacher.value).square().flatten(1).mean(1), t, t)


def module_of(base, loss, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AdapterModule(base, SUN(init="identity"), loss, guidance=(3.0, 3.0), **options)


def test_teacher_and_student_of_a_step_are_the_drawn_network(base):
    loss, reference = Spy(), Spy()
    module = module_of(base, loss, bases=Bases(base, [Member("0", fine_tune())]))
    module.training_step(SAMPLES, 0)
    module_of(fine_tune(), reference).training_step(SAMPLES, 0)
    torch.testing.assert_close(loss.teacher.value, reference.teacher.value, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(loss.student.value, reference.student.value, atol=1e-6, rtol=1e-5)
    assert base.backbone.identity() == toy_base().backbone.identity()


def test_gradients_are_of_the_drawn_network_also_recomputed(base):
    grads = []
    for recomputed in (False, True, None):
        own = toy_base().freeze() if recomputed is not None else fine_tune()
        if recomputed:
            own.backbone.enable_checkpointing()
        bases = None if recomputed is None else Bases(own, [Member("0", fine_tune())])
        module = module_of(own, CFG(), bases=bases)
        started = module_of(toy_base().freeze(), CFG()).adapter.tensors()
        with torch.no_grad():  # SUN's initial values are those of the network that it is attached to
            for name, tensor in module.adapter.tensors().items():
                tensor.copy_(started[name] + 0.1)
        loss = module.training_step(SAMPLES, 0)["loss"]
        module.backward(loss)
        grads.append([p.grad for p in module.adapter.trainable()])
    for plain, recomputed, reference in zip(*grads, strict=True):
        torch.testing.assert_close(plain, reference, atol=1e-6, rtol=1e-4)
        torch.testing.assert_close(recomputed, reference, atol=1e-6, rtol=1e-4)
    assert any(bool(g.any()) for g in grads[0])


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ((), "nothing to draw"),
        ((Member("model.bases.0", weight=0.0),), "nothing to draw"),
        ((Member("model.bases.0", strength=-0.1),), r"model.bases.0: needs strength >= 0"),
        ((Member("model.bases.0", rank=0),), "rank >= 1"),
    ],
)
def test_impossible_members(base, members, match):
    with pytest.raises(ConfigError, match=match):
        Bases(base, members)


def test_a_base_of_another_shape_is_refused(base, tiny_base):
    with pytest.raises(ConfigError, match=r"model.bases.1.base: its network has other layers"):
        Bases(base, [Member("model.bases.0"), Member("model.bases.1", tiny_base)])


@pytest.fixture(scope="module")
def moved_folder(tiny_base_folder, tmp_path_factory):
    """A fine-tune of the tiny base."""
    from sunlab.backbones.pretrained import load_base, save_base

    base = load_base(tiny_base_folder)
    with torch.no_grad():
        for parameter in base.backbone.parameters():
            parameter.mul_(1.05)
    save_base(base, folder := tmp_path_factory.mktemp("moved") / "base", dtype=torch.float32)
    return folder


def fit(config, folder, moved, *words):
    bases = f"model.bases=[{{}}, {{base: {moved}}}, {{strength: 0.1, rank: 2}}]"
    return main(["fit", "--config", str(config), f"run.dir={folder}", bases, "trainer.max_steps=5", *map(str, words)])


def test_a_run_over_several_bases_resumes_exactly(tiny_config, moved_folder, tmp_path):
    assert fit(tiny_config, tmp_path / "a", moved_folder) == 0
    assert fit(tiny_config, tmp_path / "b", moved_folder, "--time-limit", "0s") == 75
    assert fit(tiny_config, tmp_path / "b", moved_folder, "--resume", "last") == 0
    whole, resumed = saved(tmp_path / "a"), saved(tmp_path / "b")
    assert whole["state_dict"].keys() == resumed["state_dict"].keys() and whole["nfe"] == resumed["nfe"]
    assert all(torch.equal(whole["state_dict"][k], resumed["state_dict"][k]) for k in whole["state_dict"])
    (optimizer,) = whole["optimizer_states"]
    assert len(optimizer["state"]) == len(whole["state_dict"])  # one adapter, one optimizer: no base is in the checkpoint
    assert not any("bases" in name for name in whole["state_dict"])


LOSSES = {
    "msc": ("loss={name: msc, states: data, substeps: 2}",),
    "dmd": ("loss={name: dmd, critic_steps: 1, fake: {name: lora, rank: 2}}", "adapter={name: sun_lora, rank: 2}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("loss", LOSSES)
def test_a_killed_run_over_several_bases_resumed_is_the_unbroken_one(
    loss, tiny_config, moved_folder, sunlab_process, tmp_path
):
    """By `kill -9` between two checkpoints: weights, optimizers and counts of evaluations."""

    def words(folder, *more):
        bases = f"model.bases=[{{}}, {{base: {moved_folder}}}, {{strength: 0.1, rank: 2}}]"
        given = "--plugin", KILL, f"run.dir={folder}", bases, "run.checkpoint_every=2"
        return ["fit", "--config", str(tiny_config), *given, *LOSSES[loss], "trainer.max_steps=7", *more]

    assert main(words(tmp_path / "whole", "callbacks=[]")) == 0
    killed = sunlab_process(*words(tmp_path / "cut", "callbacks=[{name: kill_of_the_tests, after: 5}]"))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert saved(tmp_path / "cut")["global_step"] == 4
    assert main(words(tmp_path / "cut", "callbacks=[]", "--resume", "last")) == 0
    ours, theirs = saved(tmp_path / "cut"), saved(tmp_path / "whole")
    for key in ("state_dict", "optimizer_states", "global_step", "nfe"):
        assert equal(ours[key], theirs[key]), key


class Kept(DMD):
    """Keeps what the fake score is asked, and what it predicts."""

    def score(self, network, x, t):
        prediction = super().score(network, x, t)
        self.fakes.append((x.detach(), t, prediction.value.detach()))
        return prediction


def test_dmd_scores_by_the_drawn_network(base):
    """The fake score, zero at first, is the drawn network itself; its evaluations are counted as over one base."""
    loss = Kept(critic_steps=1, fake={"name": "lora", "rank": 2})
    loss.fakes = []
    module = module_of(base, loss, bases=Bases(base, [Member("0", fine_tune()), Member("1", weight=0.0)]))
    assert module.training_step(SAMPLES, 0)["turn"] == "critic"
    (x, t, value), *_ = loss.fakes
    reference = fine_tune()
    wanted = reference.backbone.predict(x, t, reference.encode(SAMPLES.prompts))
    torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-5)
    assert (module.nfe.student, module.nfe.critic, module.nfe.backward) == (8, 2, 2)  # 4 passes of the student's rollout
    assert base.backbone.identity() == toy_base().backbone.identity()


def test_each_base_has_its_own_trajectories(tiny_config, tiny_trajectories, moved_folder, tmp_path):
    from sunlab.app.compose import build_base, build_data
    from sunlab.app.trajectories import make_trajectories

    grids = ["teacher.steps=24", "student.steps=4"]
    own = tmp_path / "trajectories"
    make_trajectories(load_config([tiny_config], [*grids, f"model.base={moved_folder}"]), out=own, count=16)
    source = f"data.source={{name: trajectories, path: {tiny_trajectories}}}"
    given = [*grids, source, "data.batch_size=4", "loss={name: msc, states: teacher}"]

    def data(bases):
        config = load_config([tiny_config], [*given, f"model.bases={bases}"]).config
        return build_data(config, build_base(config))

    trajectories = f"{{name: trajectories, path: {own}}}"
    loader = iter(data(f"[{{}}, {{base: {moved_folder}, source: {trajectories}}}]").loader())
    batches = [next(loader) for _ in range(8)]
    assert Counter(batch.bases[0] for batch in batches) == {0: 4, 1: 4}
    assert all(len(set(batch.bases)) == 1 for batch in batches)
    keys = [key for batch in batches for key in batch.keys]
    assert len(keys) == len(set(keys)) == 32 and all(key.startswith(f"{b.bases[0]}/") for b in batches for key in b.keys)
    with pytest.raises(DataError, match="made by teacher"):
        data(f"[{{}}, {{base: {moved_folder}, source: {{name: trajectories, path: {tiny_trajectories}}}}}]")
    with pytest.raises(DataError, match="made by teacher"):
        data(f"[{{}}, {{base: {moved_folder}}}]")
    with pytest.raises(ConfigError, match=r"model.bases.0.strength: a perturbed network has no stored"):
        data("[{strength: 0.1}]")
    with pytest.raises(ConfigError, match="omit weight"):
        data(f"[{{weight: 2}}, {{base: {moved_folder}, source: {trajectories}}}]")


@pytest.mark.parametrize(("word", "match"), [("task=student", "only the task 'adapter'"), ("trainer.strategy=fsdp", "ddp")])
def test_what_does_not_go_with_several_bases(tiny_config, word, match):
    with pytest.raises(ConfigError, match=match):
        load_config([tiny_config], ["model.bases=[{}]", word])
