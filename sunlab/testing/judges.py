"""The contracts of what looks at pictures: extractors of features, text alignments, negative controls."""

from typing import ClassVar

import torch
from torch import Tensor

from sunlab.evaluation.control import NegativeControl
from sunlab.testing.component import ComponentContract

PICTURES = 3
PROMPTS = ("a large koala on a red background", "a pizza", "")


def noise(count: int = PICTURES) -> Tensor:
    """Pictures (count, 3, 32, 32) in [0, 1]."""
    return torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class ExtractorContract(ComponentContract):
    """An extractor maps each picture by itself to a row of finite features."""

    kind: ClassVar[str] = "extractors"

    def test_a_row_of_features_for_each_picture(self) -> None:
        extractor = self.build()
        features = extractor(noise())
        assert features.shape == (PICTURES, extractor.width) and bool(features.isfinite().all())

    def test_features_depend_on_the_picture_alone(self) -> None:
        extractor = self.build()
        together, alone = extractor(noise()), extractor(noise()[1:2])
        torch.testing.assert_close(together[1:2], alone, rtol=1e-3, atol=1e-4)

    def test_identity_is_stable(self) -> None:
        assert self.build().identity() == self.build().identity()


class AlignmentContract(ComponentContract):
    """An alignment gives named values (B,) of each picture and its prompt, NaN where the prompt does not ask."""

    kind: ClassVar[str] = "alignments"

    def test_a_value_for_each_picture(self) -> None:
        values = self.build()(noise(), PROMPTS)
        assert values
        for name, value in values.items():
            assert value.shape == (PICTURES,) and not bool(value.isinf().any()), name

    def test_values_depend_on_the_pair_alone(self) -> None:
        alignment = self.build()
        together, alone = alignment(noise(), PROMPTS), alignment(noise()[:1], PROMPTS[:1])
        assert together.keys() == alone.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name][:1], value, rtol=1e-3, atol=1e-4, equal_nan=True)


class NegativeControlContract(ComponentContract):
    """A control names what pictures show; a way to draw that ignores negative prompts suppresses nothing."""

    kind: ClassVar[str] = "controls"

    def test_each_attribute_has_a_value_for_each_picture(self) -> None:
        control: NegativeControl = self.build()
        shown = control.shown(noise())
        assert set(shown) == set(control.attributes)
        assert all(len(values) == PICTURES for values in shown.values())

    def test_negative_prompts_name_what_is_shown(self) -> None:
        control: NegativeControl = self.build()
        asked = control.questions(lambda request: noise(len(request)))
        for attribute, request in asked.naming.items():
            assert (request.prompts, request.seeds) == (asked.empty.prompts, asked.empty.seeds)
            named = zip(request.negatives, asked.shown[attribute], strict=True)
            assert all(value in negative for negative, value in named)

    def test_who_ignores_negative_prompts_suppresses_nothing(self) -> None:
        control: NegativeControl = self.build()
        for found in control.measure("blind", blind := lambda r: noise(len(r)), control.questions(blind)):
            assert (found.named, found.empty, found.suppressed) == (1.0, 1.0, 0.0)
