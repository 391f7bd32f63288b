import numpy as np
import torch

from sunlab.draws import Draws, keyed_seed, starting_noise

SEEDS = [keyed_seed(0, 0, key) for key in "abcd"]
KINDS = {
    "normal": lambda draws, purpose="p": draws.normal(purpose, (2, 3)),
    "uniform": lambda draws, purpose="p": draws.uniform(purpose, 2.0, 8.0),
    "integers": lambda draws, purpose="p": draws.integers(purpose, 0, 1 << 40),
}
MANY = Draws([keyed_seed(2, i) for i in range(4000)])


def words(seed: int, purpose: str, count: int) -> np.ndarray:
    """The first `count` words of a sample's stream, by numpy's unsigned integers, one block of four after the other."""
    stream, found = keyed_seed(purpose), []
    for block in range(-(-count // 4)):
        x = np.array([block, 0, stream % 2**32, stream >> 32], dtype=np.uint64)
        key = np.array([seed % 2**32, seed >> 32], dtype=np.uint64)
        for _ in range(10):
            product = x[[0, 2]] * np.array([0xD2511F53, 0xCD9E8D57], dtype=np.uint64)
            high, low = product >> np.uint64(32), product & np.uint64(2**32 - 1)
            x = np.array([high[1] ^ x[1] ^ key[0], low[1], high[0] ^ x[3] ^ key[1], low[0]])
            key = (key + np.array([0x9E3779B9, 0xBB67AE85], dtype=np.uint64)) % np.uint64(2**32)
        found += [int(word) for word in x]
    return np.array(found[:count], dtype=np.float64)


def test_normal_numbers_against_numpy():
    """cos and sin of the second word of each pair, by the root of the first one's logarithm, in float64."""
    drawn = Draws(SEEDS).normal("noise", (3, 3))
    for seed, row in zip(SEEDS, drawn, strict=True):
        first, second = words(seed, "noise", 12).reshape(6, 2).T / 2**32
        radius, angle = np.sqrt(-2 * np.log(first + 2**-33)), 2 * np.pi * second
        wanted = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1).ravel()[:9]
        np.testing.assert_allclose(row.flatten().numpy(), wanted, rtol=1e-5, atol=2e-6)


def test_uniform_and_whole_numbers_against_numpy():
    for seed in SEEDS:
        high, low = (int(word) for word in words(seed, "p", 2))
        unit = (high * 2**21 + low // 2**11) / 2**53
        assert Draws([seed], dtype=torch.float64).uniform("p", 2.0, 8.0).item() == 2 + 6 * unit
        assert Draws([seed]).integers("p", -5, 12).item() == -5 + int(17 * unit)


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
    assert abs(torch.corrcoef(torch.stack([a[:, :-1].flatten(), a[:, 1:].flatten()]))[0, 1].item()) < 0.03
    u, v = draws.uniform("a"), draws.uniform("b")
    assert abs(torch.corrcoef(torch.stack([u, v]))[0, 1].item()) < 0.2
    assert len(set(u.tolist())) == 400


def test_the_normal_distribution():
    """Moments, tails, and the distance of Kolmogorov and Smirnov at its 1 % level: also of torch's own numbers, which these
    replace."""
    for z in (MANY.normal("z", (5, 5)), torch.randn(4000, 25, generator=torch.Generator().manual_seed(0))):
        z, n = z.flatten().double(), z.numel()
        for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
            assert abs(z.pow(power).mean().item() - moment) < 4 * (variance / n) ** 0.5, power
        assert kolmogorov(torch.special.ndtr(z)) < 1.63
        assert 3.8 < z.abs().max().item() < 6.7  # the largest that 32 bits allow is 6.76


def test_uniform_distributions():
    u = MANY.uniform("u", 2.0, 8.0)
    assert bool(((u >= 2) & (u < 8)).all()) and kolmogorov((u.double() - 2) / 6) < 1.63
    counts = MANY.integers("i", 3, 7).bincount(minlength=8).double()
    assert counts[:3].sum() == 0 and counts[7] == 0
    assert ((counts[3:7] - 1000) ** 2 / 1000).sum().item() < 11.3  # chi-squared, 3 degrees of freedom, 1 %


def kolmogorov(p: torch.Tensor) -> float:
    """sqrt(N) times the largest distance of the empirical distribution to the uniform one."""
    p, n = p.flatten().sort().values, p.numel()
    place = torch.arange(n, dtype=torch.float64)
    return n**0.5 * max((p - place / n).max().item(), ((place + 1) / n - p).max().item())


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


def test_starting_noise_is_that_of_torchs_generator():
    """Shipped trajectory files state the seeds of their noise."""
    wanted = [torch.randn(2, 3, generator=torch.Generator().manual_seed(keyed_seed(seed, "noise"))) for seed in SEEDS]
    assert torch.equal(starting_noise(SEEDS, (2, 3)), torch.stack(wanted))


def test_keyed_seeds():
    assert keyed_seed(0, "a") == keyed_seed(0, "a")
    assert keyed_seed(1, 23) != keyed_seed(12, 3)  # parts are kept apart
    assert all(0 <= seed < 1 << 63 for seed in SEEDS) and len(set(SEEDS)) == 4
