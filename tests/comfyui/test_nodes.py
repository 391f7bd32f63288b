"""The nodes over a fake of ComfyUI's contract, against the formulas of SUN written out for one sample at a time."""

import sys

import pytest
import torch
from adapter_files import write
from fake_comfyui import NAME_OF_LAYERS, V_PREDICTION, CrossAttention, Model, ModelPatcher, UNet
from torch.nn.functional import softplus

WIDTH, TEXT, HEADS = 8, 6, 2
LAYERS = dict.fromkeys(NAME_OF_LAYERS.values(), (WIDTH, TEXT, HEADS))


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def reference(attn, tensors, path, n, context, negatives, *, gains=(1.0, 1.0), normalise=True):
    """W_out of the weighted P' - N' of one sample, float64. n (P, h), context (L, d); negatives: w (P, 1) and tokens."""

    def attention(key, value, tokens):
        q, k, v = n @ attn.to_q.weight.double().T, tokens.double() @ key.double().T, tokens.double() @ value.double().T
        c = WIDTH // HEADS
        heads = [slice(i * c, i * c + c) for i in range(HEADS)]
        return torch.cat([(q[:, h] @ k[:, h].T / c**0.5).softmax(-1) @ v[:, h] for h in heads], -1)

    def branch(ending, tokens):
        out = attention(tensors[f"{path}.to_k_{ending}.weight"], tensors[f"{path}.to_v_{ending}.weight"], tokens)
        factor = z.norm() / out.norm() if normalise else 1.0
        alpha = tensors.get(f"{path}.to_k_{ending}_alpha", torch.ones(1)).double()
        return alpha * factor * out + tensors.get(f"{path}.to_k_{ending}_beta", torch.zeros(1)).double()

    n = n.double()
    z = attention(attn.to_k.weight, attn.to_v.weight, context)
    total = sum(w.double() for w, _ in negatives) * gains[1] * branch("extra_pos", context)
    for w, tokens in negatives:
        total = total - gains[0] * w.double() * branch("neg", tokens)
    return total @ attn.to_out[0].weight.double().T


class Bench:
    """A model of the fake, an adapter in it, and what its first layer got and gave."""

    def __init__(self, nodes, models_dir, *, depth=1, sampling=None, **file):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.model = Model(UNet(WIDTH, TEXT, HEADS, depth), sampling).eval().requires_grad_(False)
        self.layers = LAYERS if depth == 1 else file.pop("layers")
        self.tensors = write(models_dir / "sun" / "a.safetensors", self.layers, dtype=torch.float32, **file)
        self.nodes, self.patcher = nodes.NODE_CLASS_MAPPINGS, ModelPatcher(self.model)
        self.adapter, self.steps = self.nodes["SunlabLoadAdapter"]().load("a.safetensors")

    def apply(self, negative, scale=1.0, **more):
        return self.nodes["SunlabApplySUN"]().apply(self.patcher, self.adapter, negative, scale, **more)[0]

    def offset(self, patched, x, context, key=("input", 1, 0), **more):
        """What the adapter adds to the layer, and what the layer got (B, P, h)."""
        seen = {}

        class Before:
            def __call__(self, n, c, v, options):
                if (*options["block"], options["block_index"]) == key:
                    seen["n"] = n
                return n, c, v

        def after(n, options):
            if (*options["block"], options["block_index"]) == key:
                seen["out"] = n
            return n

        patched = patched.clone()
        for patcher in (patched,):
            options = patcher.model_options["transformer_options"].setdefault("patches", {})
            options["attn2_patch"].insert(0, Before())
            options["attn2_output_patch"].append(after)
        self.model.apply(patched, x, context, **more)
        attn = self.attn(key)
        base = attn(seen["n"], context.expand(len(x), -1, -1), context.expand(len(x), -1, -1))
        return seen["out"] - base, seen["n"]

    def attn(self, key):
        unet = self.model.diffusion_model
        blocks = {"input": unet.input_blocks, "middle": [unet.middle_block], "output": unet.output_blocks}
        return blocks[key[0]][key[1]][0].transformer_blocks[key[2]].attn2


@pytest.fixture
def bench(nodes, models_dir):
    return Bench(nodes, models_dir)


X, CONTEXT, NEGATIVE = random(2, WIDTH, 4, 6), random(1, 5, TEXT, seed=1), random(1, 3, TEXT, seed=2)


def whole(n):
    return torch.ones(n, 1)


@pytest.mark.parametrize("key", list(NAME_OF_LAYERS))
def test_every_layer_adds_the_formula(bench, key):
    """Also with a context of another length than the negative's."""
    offset, n = bench.offset(bench.apply([[NEGATIVE, {}]], 0.7), X, CONTEXT, key)
    path = NAME_OF_LAYERS[key]
    for got, each in zip(offset, n, strict=True):
        expected = 0.7 * reference(bench.attn(key), bench.tensors, path, each, CONTEXT[0], [(whole(len(each)), NEGATIVE[0])])
        torch.testing.assert_close(got.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_an_adapter_without_parts(nodes, models_dir, normalise, scale):
    without = () if scale else ("_alpha", "_beta")
    bench = Bench(nodes, models_dir, spec={"normalise": normalise, "scale": scale}, without=without)
    offset, n = bench.offset(bench.apply([[NEGATIVE, {}]]), X, CONTEXT)
    key = ("input", 1, 0)
    expected = reference(
        bench.attn(key),
        bench.tensors,
        NAME_OF_LAYERS[key],
        n[0],
        CONTEXT[0],
        [(whole(24), NEGATIVE[0])],
        normalise=normalise,
    )
    torch.testing.assert_close(offset[0].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("steers", ["offset", "negative"])
def test_guidance_steers_sun_w(nodes, models_dir, steers):
    bench = Bench(nodes, models_dir, kind="sun_w", spec={"steers": steers, "saturation": 1.0})
    key = ("input", 1, 0)
    path = NAME_OF_LAYERS[key]
    rho = softplus(bench.tensors[f"{path}.guidance_saturation"].double())
    for given, w in ((0.0, 3.0), (2.5, 2.5)):  # by default, the middle of the trained range
        offset, n = bench.offset(bench.apply([[NEGATIVE, {}]], guidance=given), X, CONTEXT)
        g = (w - 1) / (1 + rho * (w - 1))
        gains = (g, g if steers == "offset" else 1.0)
        negatives = [(whole(24), NEGATIVE[0])]
        expected = reference(bench.attn(key), bench.tensors, path, n[0], CONTEXT[0], negatives, gains=gains)
        torch.testing.assert_close(offset[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_rows_of_the_negative_go_round_the_batch(bench):
    many = random(2, 3, TEXT, seed=3)
    together = bench.model.apply(bench.apply([[many, {}]]), random(3, WIDTH, 4, 6), CONTEXT)
    for i in range(3):
        alone = bench.model.apply(bench.apply([[many[i % 2 : i % 2 + 1], {}]]), random(3, WIDTH, 4, 6)[i : i + 1], CONTEXT)
        torch.testing.assert_close(together[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_chunks_of_the_negative_pass_stay_the_base(bench):
    """At another cfg ComfyUI batches both prompts: [1, 0] marks a negative chunk, then a positive one."""
    patched = bench.apply([[random(2, 3, TEXT, seed=3), {}]])
    both = bench.model.apply(patched, torch.cat([X, X]), CONTEXT, marks=(1, 0))
    torch.testing.assert_close(both[:2], bench.model.apply(bench.patcher, X, CONTEXT), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(both[2:], bench.model.apply(patched, X, CONTEXT), atol=1e-6, rtol=1e-6)
    two = bench.model.apply(patched, torch.cat([X, X]), CONTEXT, marks=(0, 0))  # a positive prompt of two entries
    torch.testing.assert_close(two, torch.cat([both[2:], both[2:]]), atol=1e-6, rtol=1e-6)
    assert torch.equal(bench.model.apply(patched, X, CONTEXT, marks=(1,)), bench.model.apply(bench.patcher, X, CONTEXT))


def test_masks_and_areas_place_entries(bench):
    left = torch.zeros(1, 8, 12)
    left[..., :6] = 1
    other = random(1, 7, TEXT, seed=4)
    masked = [NEGATIVE, {"mask": left, "mask_strength": 0.5, "strength": 1.0}]
    area = [other, {"area": (4, 3, 0, 3), "strength": 0.8}]
    offset, n = bench.offset(bench.apply([masked, area]), X, CONTEXT)
    key, grid = ("input", 1, 0), torch.zeros(4, 6)
    grid[:, :3] = 1
    inside = grid.flatten()[:, None]
    negatives = [(0.5 * inside, NEGATIVE[0]), (0.8 * (1 - inside), other[0])]
    expected = reference(bench.attn(key), bench.tensors, NAME_OF_LAYERS[key], n[1], CONTEXT[0], negatives)
    torch.testing.assert_close(offset[1].double(), expected, atol=1e-5, rtol=1e-5)
    percentage = [other, {"area": ("percentage", 1.0, 0.5, 0.0, 0.5), "strength": 0.8}]
    assert torch.allclose(bench.offset(bench.apply([masked, percentage]), X, CONTEXT)[0], offset, atol=1e-6)
    deep, n = bench.offset(bench.apply([[NEGATIVE, {"mask": left}]]), X, CONTEXT, ("middle", 0, 0))  # half the size: 2 x 3
    half = torch.tensor([[1.0, 0.5, 0.0]] * 2).flatten()[:, None]
    expected = reference(bench.attn(("middle", 0, 0)), bench.tensors, "mid_block.attentions.0.transformer_blocks.0.attn2",
                         n[0], CONTEXT[0], [(half, NEGATIVE[0])])  # fmt: skip
    torch.testing.assert_close(deep[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_entries_share_and_defaults_fill(bench):
    other, key = random(1, 7, TEXT, seed=4), ("input", 1, 0)
    given = bench.attn(key), bench.tensors, NAME_OF_LAYERS[key]
    offset, n = bench.offset(bench.apply([[NEGATIVE, {}], [other, {}]]), X, CONTEXT)
    half = 0.5 * whole(24)
    expected = reference(*given, n[0], CONTEXT[0], [(half, NEGATIVE[0]), (half, other[0])])
    torch.testing.assert_close(offset[0].double(), expected, atol=1e-5, rtol=1e-5)
    offset, n = bench.offset(bench.apply([[NEGATIVE, {"strength": 0.25}], [other, {"default": True}]]), X, CONTEXT)
    expected = reference(*given, n[0], CONTEXT[0], [(0.25 * whole(24), NEGATIVE[0]), (0.75 * whole(24), other[0])])
    torch.testing.assert_close(offset[0].double(), expected, atol=1e-5, rtol=1e-5)


def test_an_entry_acts_in_its_range(bench):
    base = bench.model.apply(bench.patcher, X, CONTEXT)
    patched = bench.apply([[NEGATIVE, {"start_percent": 0.0, "end_percent": 0.5}]])
    border = bench.model.model_sampling.percent_to_sigma(0.5)
    early, late = (bench.model.apply(patched, X, CONTEXT, sigma=border * f) for f in (1.1, 0.9))
    assert torch.equal(late, base)
    torch.testing.assert_close(early, bench.model.apply(bench.apply([[NEGATIVE, {}]]), X, CONTEXT))


def test_beside_a_patch_in_the_one_slot_of_attn2_replace(bench):
    """As an IP-Adapter's: it changes the layer's own attention, and the same offset is added."""
    extra = random(1, 4, TEXT, seed=5)

    def ip(q, k, v, options):
        attn = bench.attn(("input", 1, 0))
        more = [attn.to_k(extra).expand(len(q), -1, -1), attn.to_v(extra).expand(len(q), -1, -1)]
        parts = [p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in (q, k, v, *more)]
        attend = torch.nn.functional.scaled_dot_product_attention
        out = attend(*parts[:3]) + attend(parts[0], *parts[3:])
        return out.transpose(1, 2).flatten(2)

    plain, n = bench.offset(bench.apply([[NEGATIVE, {}]]), X, CONTEXT)
    bench.patcher.set_model_attn2_replace(ip, "input", 1)
    with_ip = bench.apply([[NEGATIVE, {}]])
    got, _ = bench.offset(with_ip, X, CONTEXT)
    alone = CrossAttention.forward(bench.attn(("input", 1, 0)), n, CONTEXT.expand(2, -1, -1), CONTEXT.expand(2, -1, -1))
    q = bench.attn(("input", 1, 0))
    replaced = q.to_out(ip(q.to_q(n), q.to_k(CONTEXT).expand(2, -1, -1), q.to_v(CONTEXT).expand(2, -1, -1), {}))
    torch.testing.assert_close(got - (replaced - alone), plain, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float16])
def test_weights_in_float8_and_float16(bench, dtype):
    """Computed in bfloat16, as ComfyUI casts such weights when a layer runs."""
    expected = bench.model.apply(bench.apply([[NEGATIVE, {}]]), X, CONTEXT)
    for path in list(NAME_OF_LAYERS):
        bench.attn(path).to(dtype)
    patched = bench.apply([[NEGATIVE, {}]])
    got = bench.model.apply(patched, X.bfloat16(), CONTEXT.bfloat16())
    assert got.dtype == torch.bfloat16 and got.isfinite().all()
    bound = 0.2 if dtype == torch.float8_e4m3fn else 0.05
    assert (got.float() - expected).norm() < bound * (expected - X).norm()


def test_clones_share_weights_and_loading_forgets_projections(bench):
    patched = bench.apply([[NEGATIVE, {}]])
    before = bench.model.apply(patched, X, CONTEXT)
    again = patched.clone()
    assert [id(p) for p in again.patches()] == [id(p) for p in patched.patches()]
    first = patched.patches()[0]
    assert first.models() == [bench.adapter.patcher] and bench.adapter.patcher.model is bench.adapter.layers
    with torch.no_grad():
        for parameter in bench.adapter.layers.parameters():
            parameter.zero_()
    assert first.to(torch.device("cpu")) is first and first.to(torch.float16) is first
    after = bench.model.apply(again, X, CONTEXT)
    assert not torch.allclose(after, before)
    torch.testing.assert_close(after, bench.model.apply(bench.patcher, X, CONTEXT))


def test_sdxl_has_several_transformers_in_a_block(nodes, models_dir):
    layers = {path.replace("blocks.0.attn2", f"blocks.{i}.attn2"): s for path, s in LAYERS.items() for i in range(2)}
    bench = Bench(nodes, models_dir, depth=2, layers=layers)
    for key in (("input", 3, 1), ("output", 1, 0)):
        offset, n = bench.offset(bench.apply([[NEGATIVE, {}]]), X, CONTEXT, key)
        path = NAME_OF_LAYERS[*key[:2], 0].replace("blocks.0.attn2", f"blocks.{key[2]}.attn2")
        expected = reference(bench.attn(key), bench.tensors, path, n[0], CONTEXT[0], [(whole(len(n[0])), NEGATIVE[0])])
        torch.testing.assert_close(offset[0].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("steps", "times"), [(4, [999, 749, 499, 249]), (3, [999, 666, 332]), (1, [999])])
def test_sigmas_of_trailing_times(bench, steps, times):
    (sigmas,) = bench.nodes["SunlabSigmas"]().sigmas(bench.patcher, steps)
    assert torch.equal(sigmas, torch.cat([bench.model.model_sampling.sigmas[times], torch.zeros(1)]))


def test_sigmas_of_a_shifted_adapter(nodes, models_dir):
    """shift t / (1 + (shift - 1) t) for shift = 1/2: 1, 3/5, 1/3, 1/7."""
    bench = Bench(nodes, models_dir, shift=0.5)
    (sigmas,) = bench.nodes["SunlabSigmas"]().sigmas(bench.apply([[NEGATIVE, {}]]), 4)
    assert torch.equal(sigmas, torch.cat([bench.model.model_sampling.sigmas[[999, 599, 332, 142]], torch.zeros(1)]))
    (sigmas,) = bench.nodes["SunlabSigmas"]().sigmas(bench.patcher, 4)
    assert torch.equal(sigmas, torch.cat([bench.model.model_sampling.sigmas[[999, 749, 499, 249]], torch.zeros(1)]))


def test_sigmas_of_a_part(bench):
    (sigmas,) = bench.nodes["SunlabSigmas"]().sigmas(bench.patcher, 2, 0.5)
    assert torch.equal(sigmas, torch.cat([bench.model.model_sampling.sigmas[[499, 249]], torch.zeros(1)]))


def test_mistakes_are_refused(bench, nodes, models_dir):
    error = sys.modules[f"{nodes.__name__}.errors"].DataError
    with pytest.raises(error, match=r"\(1, 3, 7\).*CLIP"):
        bench.apply([[random(1, 3, 7), {}]])
    with pytest.raises(error, match="empty"):
        bench.apply([])
    bench.patcher, base = bench.apply([[NEGATIVE, {}]]), bench.patcher
    with pytest.raises(error, match="already"):
        bench.apply([[NEGATIVE, {}]])
    bench.patcher = base
    bench.model.model_sampling = V_PREDICTION()
    with pytest.raises(error, match=r"epsilon.*v_prediction"):
        bench.apply([[NEGATIVE, {}]])
    other = Bench(nodes, models_dir)
    other.model.diffusion_model = UNet(WIDTH, TEXT, 4)
    with pytest.raises(error, match=r"family.*differ"):
        other.apply([[NEGATIVE, {}]])
    other.model.diffusion_model = torch.nn.Linear(1, 1)
    with pytest.raises(error, match="Linear"):
        other.apply([[NEGATIVE, {}]])


def test_inputs_and_outputs_are_named(bench, nodes):
    for name, node in nodes.NODE_CLASS_MAPPINGS.items():
        assert nodes.NODE_DISPLAY_NAME_MAPPINGS[name] and callable(getattr(node(), node.FUNCTION))
        assert {"required"} <= node.INPUT_TYPES().keys() and node.RETURN_TYPES
    files = bench.nodes["SunlabLoadAdapter"].INPUT_TYPES()["required"]["adapter_name"][0]
    assert "a.safetensors" in files and bench.steps == 4
