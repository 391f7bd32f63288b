import torch

from sunlab.draws import Draws, keyed_seed

SEEDS = [keyed_seed(0, 0, key) for key in "abcd"]
KINDS = {
    "normal": lambda draws, purpose="p": draws.normal(purpose, (2, 3)),
    "uniform": lambda draws, purpose="p": draws.uniform(purpose, 2.0, 8.0),
    "integers": lambda draws, purpose="p": draws.integers(purpose, 0, 1 << 40),
}


def test_a_samples_draws_do_not_depend_on_its_batch():
    for draw in KINDS.values():
        together = draw(Draws(SEEDS))
        alone = torch.cat([draw(Draws([seed])) for seed in SEEDS])
        turned = draw(Draws(SEEDS[::-1])).flip(0)
        assert torch.equal(together, alone) and torch.equal(together, turned)


def test_draws_repeat_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    for draw in KINDS.values():
        draws = Draws(SEEDS)
        assert torch.equal(draw(draws), draw(draws))
    assert torch.equal(before, torch.get_rng_state())


def test_purposes_and_samples_are_independent():
    draws = Draws([keyed_seed(1, i) for i in range(400)])
    a, b = draws.normal("a", (50,)), draws.normal("b", (50,))
    assert abs(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()) < 0.03  # 4 standard errors
    assert abs(torch.corrcoef(torch.stack([a[:-1].flatten(), a[1:].flatten()]))[0, 1].item()) < 0.03
    u, v = draws.uniform("a"), draws.uniform("b")
    assert abs(torch.corrcoef(torch.stack([u, v]))[0, 1].item()) < 0.2
    assert len(set(u.tolist())) == 400


def test_the_distributions():
    draws = Draws([keyed_seed(2, i) for i in range(2000)])
    z = draws.normal("z", (10,))
    assert abs(z.mean().item()) < 0.03 and abs(z.std().item() - 1) < 0.03
    u = draws.uniform("u", 2.0, 8.0)
    assert bool(((u >= 2) & (u < 8)).all()) and abs(u.mean().item() - 5) < 0.2
    counts = draws.integers("i", 3, 7).bincount(minlength=8).tolist()
    assert counts[:3] == [0, 0, 0] and counts[7] == 0 and min(counts[3:7]) > 400


def test_shape_dtype_and_device():
    draws = Draws(SEEDS, device="meta", dtype=torch.bfloat16)
    assert draws.normal("p", (2, 3)).shape == (4, 2, 3)
    for name, draw in KINDS.items():
        drawn = draw(draws)
        assert drawn.device.type == "meta" and len(drawn) == 4
        assert drawn.dtype == (torch.int64 if name == "integers" else torch.bfloat16)


def test_a_lower_precision_rounds_the_same_numbers():
    exact, rounded = Draws(SEEDS).normal("p", (5,)), Draws(SEEDS, dtype=torch.bfloat16).normal("p", (5,))
    assert torch.equal(exact.to(torch.bfloat16), rounded)


def test_keyed_seeds():
    assert keyed_seed(0, "a") == keyed_seed(0, "a")
    assert keyed_seed(1, 23) != keyed_seed(12, 3)  # parts are kept apart
    assert all(0 <= seed < 1 << 63 for seed in SEEDS) and len(set(SEEDS)) == 4
