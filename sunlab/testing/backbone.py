"""The contract of a backbone."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from sunlab.backbones.base import Backbone, BaseModel
from sunlab.backbones.files import describe_files
from sunlab.backbones.pretrained import chosen, load_base, outline_base, save_base
from sunlab.errors import ConfigError
from sunlab.testing.component import RegisteredContract
from sunlab.types import Conditioning

PLACES: dict[type, Path] = {}
"""Family -> its tiny base, which no test changes."""


class BackboneContract(RegisteredContract):
    """A base is recognised, saved and loaded; extensions see what the layers see, and their state belongs to the call.

    It runs on the base that `Backbone.write_tiny` writes; a subclass may give another by the fixture `place`.
    """

    kind: ClassVar[str] = "backbones"

    @pytest.fixture
    def place(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """A folder with a small base of the family, made once."""
        factory = self.entry.factory
        if factory not in PLACES:
            folder = tmp_path_factory.mktemp("tiny") / self.entry.name
            factory.write_tiny(folder)
            PLACES[factory] = folder
        return PLACES[factory]

    @pytest.fixture
    def base(self, place: Path) -> BaseModel:
        return load_base(place, backbone=self.component).freeze()

    def inputs(self, base: BaseModel, rows: int = 2) -> tuple[Tensor, Tensor, Conditioning]:
        """x, t and prompts with random tokens."""
        generator = torch.Generator().manual_seed(0)
        blank = base.backbone.blank(rows)
        x = torch.randn(rows, *base.backbone.sample_shape, generator=generator)
        t = torch.linspace(0.9, 0.3, rows, dtype=torch.float64)
        return x, t, replace(blank, tokens=torch.randn(blank.tokens.shape, generator=generator))

    def everywhere(self, base: BaseModel) -> Any:
        return base.backbone.extend(dict.fromkeys(base.backbone.text_attention(), recomputed))

    def test_it_alone_recognises_its_files(self, place: Path) -> None:
        assert chosen(describe_files(place), None) == (self.entry.name, {})

    def test_it_predicts_from_encoded_prompts(self, base: BaseModel) -> None:
        x, t, blank = self.inputs(base)
        prompts = base.encode(["a red apple", ""])
        assert prompts.tokens.shape == blank.tokens.shape
        value = base.backbone.predict(x, t, prompts)
        assert value.shape == x.shape and bool(value.isfinite().all())

    def test_saved_and_loaded_it_is_the_same(self, base: BaseModel, tmp_path: Path) -> None:
        save_base(base, tmp_path / "saved", dtype=torch.float32)
        again = load_base(tmp_path / "saved", backbone=self.component).freeze()
        assert again.backbone.identity() == base.backbone.identity()
        x, t, prompts = self.inputs(base)
        assert torch.equal(again.backbone.predict(x, t, prompts), base.backbone.predict(x, t, prompts))
        words = ["a red apple", ""]
        assert torch.equal(again.encode(words).tokens, base.encode(words).tokens)
        assert torch.equal(again.autoencoder.decode(x), base.autoencoder.decode(x))

    def test_its_identity_is_that_of_its_weights(self, base: BaseModel) -> None:
        before = base.backbone.identity()
        with torch.no_grad():
            next(base.backbone.parameters()).add_(1)
        assert base.backbone.identity() != before

    def test_its_outline_has_its_shapes(self, base: BaseModel, place: Path) -> None:
        outline = outline_base(place, backbone=self.component).backbone
        shapes = {name: (p.shape, p.dtype) for name, p in base.backbone.named_parameters()}
        assert {name: (p.shape, p.dtype) for name, p in outline.named_parameters()} == shapes
        assert all(p.is_meta for p in outline.parameters())

    def test_padding_does_not_change_the_result(self, base: BaseModel) -> None:
        x, t, prompts = self.inputs(base)
        mask = torch.ones(prompts.tokens.shape[:2], dtype=torch.bool)
        mask[:, 3:] = False
        other = prompts.tokens.clone()
        other[:, 3:] = 7
        if not base.backbone.masked:
            with pytest.raises(ConfigError, match="mask"):
                base.backbone.predict(x, t, replace(prompts, mask=mask))
            return
        results = [base.backbone.predict(x, t, replace(prompts, tokens=k, mask=mask)) for k in (prompts.tokens, other)]
        torch.testing.assert_close(*results, atol=1e-6, rtol=1e-5)
        assert not torch.allclose(results[0], base.backbone.predict(x, t, replace(prompts, mask=None)), atol=1e-5)

    def test_extensions_see_what_the_layers_see(self, base: BaseModel) -> None:
        """The layer's own attention, computed from the contract's parts, gives the base's output; the tokens are those of
        `context`."""
        x, t, prompts = self.inputs(base)
        seen = []

        def watched(call: Any, state: Any) -> Tensor:
            seen.append(call.tokens)
            return recomputed(call, state)

        layers = base.backbone.text_attention()
        wanted = base.backbone.predict(x, t, prompts)
        attachment = base.backbone.extend(dict.fromkeys(layers, watched))
        torch.testing.assert_close(base.backbone.predict(x, t, prompts, 1.0), wanted, atol=1e-5, rtol=1e-4)
        assert not torch.allclose(base.backbone.predict(x, t, prompts, 3.0), wanted, atol=1e-3)
        assert len(seen) == 2 * len(layers)
        assert all(torch.equal(tokens, base.backbone.context(prompts).tokens) for tokens in seen)
        assert torch.equal(base.backbone.predict(x, t, prompts), wanted), "without a state extensions are off"
        attachment.remove()

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_its_features_are_hidden_states_with_gradient(self, base: BaseModel, checkpointing: bool) -> None:
        """One row a sample that depends on its own latents alone, and no trace of the hook."""
        if type(base.backbone).middle is Backbone.middle:
            pytest.skip("the family names no middle layer")
        if checkpointing:
            base.backbone.enable_checkpointing()
            base.backbone.train()
        x, t, prompts = self.inputs(base)
        layer, width = base.backbone.middle()
        hooks = dict(layer._forward_hooks)
        x.requires_grad_()
        hidden = base.backbone.features(x, t, prompts)
        assert hidden.dim() == 3 and len(hidden) == len(x) and hidden.shape[2] == width
        hidden[0].square().sum().backward()
        assert x.grad is not None and bool(x.grad[0].any()) and not bool(x.grad[1].any())
        assert dict(layer._forward_hooks) == hooks

    def test_detached_it_is_the_base_to_the_bit(self, base: BaseModel) -> None:
        x, t, prompts = self.inputs(base)
        wanted, names = base.backbone.predict(x, t, prompts), list(base.backbone.state_dict())
        attachment = self.everywhere(base)
        assert all(layer.extended and not layer.plain for layer in base.backbone.text_attention().values())
        base.backbone.predict(x, t, prompts, 2.0)
        attachment.remove()
        assert all(layer.plain and not layer.extended for layer in base.backbone.text_attention().values())
        assert torch.equal(base.backbone.predict(x, t, prompts, 2.0), wanted)
        assert list(base.backbone.state_dict()) == names

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_the_state_belongs_to_the_call(self, base: BaseModel, checkpointing: bool) -> None:
        """Four threads over one network, each with a backward pass, in which activations may be recomputed."""
        x, t, prompts = self.inputs(base)
        base.backbone.train()
        self.everywhere(base)

        def gradient(state: float) -> Tensor:
            tokens = prompts.tokens.clone().requires_grad_()
            base.backbone.predict(x, t, replace(prompts, tokens=tokens), state).square().sum().backward()
            assert tokens.grad is not None
            return tokens.grad

        alone = [gradient(float(state)) for state in range(1, 5)]
        if checkpointing:
            base.backbone.enable_checkpointing()
            assert base.backbone.checkpointing
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(gradient, [1.0, 2.0, 3.0, 4.0] * 2))
        for number, found in enumerate(together):
            torch.testing.assert_close(found, alone[number % 4], atol=1e-4, rtol=1e-3)

    def test_a_compiled_layer_reads_the_state_of_the_call(self, base: BaseModel) -> None:
        """`torch.compile` traces the state as an input: a later pass, or one of another thread, has its own."""
        x, t, prompts = self.inputs(base)
        attachment, states = self.everywhere(base), [torch.tensor(2.0), None, torch.tensor(3.0), torch.tensor(4.0)]
        path = next(iter(base.backbone.text_attention()))
        named = dict(base.backbone.named_modules())
        (layer,) = (module for name, module in named.items() if name == path or name.endswith(f".{path}"))

        @torch.no_grad()
        def predict(state: Tensor | None) -> Tensor:
            return base.backbone.predict(x, t, prompts, state)

        wanted = [predict(state) for state in states]
        torch.compiler.reset()
        layer.compile(backend="eager")
        found = [predict(state) for state in states]
        with ThreadPoolExecutor(4) as threads:
            found += threads.map(predict, states * 2)
        torch.compiler.reset()
        attachment.remove()
        for number, value in enumerate(found):
            torch.testing.assert_close(value, wanted[number % 4], atol=1e-5, rtol=1e-4)


def recomputed(call: Any, state: Any) -> Tensor:
    """A multiple of the layer's own attention, from what the contract offers."""
    layer, z = call.layer, call.attention()
    if z is None:
        key, value = (to(call.tokens).unflatten(-1, (layer.heads, -1)).transpose(1, 2) for to in (layer.to_k, layer.to_v))
        z = scaled_dot_product_attention(call.query(), layer.norm_k(key), value, attn_mask=call.mask())
        z = z.transpose(1, 2).flatten(2)
    return layer.out(state * z)
