"""The contracts of a data source, of a filter, and of a stage of the data pipeline."""

from itertools import islice
from typing import Any, ClassVar

import pytest

from sunlab.data.base import Source
from sunlab.data.filters.base import Facts
from sunlab.data.negatives import Empty, Pool, PromptDraws
from sunlab.testing.component import ComponentContract

FEW = 64  # samples that are read of an endless stream


class SourceContract(ComponentContract):
    """Equal steps on any number of ranks, and exact resuming, rest on these."""

    kind: ClassVar[str] = "sources"

    def counted(self) -> Source:
        source = self.build()
        if source.order != "exact":
            pytest.skip("a stream")
        return source

    def items(self, **given: Any) -> list[dict[str, Any]]:
        source = self.build()
        if source.order != "stream":
            pytest.skip("counted")
        draws = PromptDraws(Empty(), Pool())
        return list(islice(source.pipeline(**{"streams": 2, "stream": 0, "draws": draws, **given}), FEW))

    def test_ranges_of_an_epoch_hold_every_sample_once(self) -> None:
        source = self.counted()
        middle = len(source) // 2
        keys = [
            sample.key
            for start, stop in ((0, middle), (middle, len(source)))
            for sample in source.read(seed=0, epoch=0, start=start, stop=stop)
        ]
        assert len(keys) == len(set(keys)) == len(source) > 1

    def test_the_order_is_a_function_of_seed_and_epoch(self) -> None:
        def keys(**given: int) -> list[str]:
            source, stop = self.counted(), min(FEW, len(self.counted()))
            return [sample.key for sample in source.read(**{"seed": 0, "epoch": 0, "start": 0, "stop": stop, **given})]

        assert keys() == keys()
        assert keys() != keys(epoch=1) and keys() != keys(seed=1)

    def test_skipping_goes_on_where_reading_would_be(self) -> None:
        source = self.counted()
        stop = min(FEW, len(source))
        whole = [sample.key for sample in source.read(seed=0, epoch=0, start=0, stop=stop)]
        rest = [sample.key for sample in source.read(seed=0, epoch=0, start=0, stop=stop, skip=stop // 3)]
        assert rest == whole[stop // 3 :]

    def test_a_stream_is_a_function_of_the_seed(self) -> None:
        keys = [item["sample"].key for item in self.items()]
        assert keys == [item["sample"].key for item in self.items()] and len(set(keys)) == len(keys) == FEW
        assert keys != [item["sample"].key for item in self.items(seed=1)]

    def test_a_stream_goes_on_at_a_cursor(self) -> None:
        items = self.items()
        for gone in (1, FEW // 3, FEW // 2):
            rest = self.items(start=items[gone - 1]["__cursor__"])
            found = [(item["sample"].key, item["drawn"]) for item in rest[: FEW - gone]]
            assert found == [(item["sample"].key, item["drawn"]) for item in items[gone:]]

    def test_streams_share_no_sample_of_a_pass(self) -> None:
        first, second = ({i["sample"].key for i in self.items(stream=v, passes=1)} for v in (0, 1))
        assert first and second and not first & second

    def test_its_identity_is_stable(self) -> None:
        assert self.build().identity() == self.build().identity()


class FilterContract(ComponentContract):
    """A filter decides by one value, and reports a missing value."""

    kind: ClassVar[str] = "filters"

    def test_a_sample_that_says_nothing_has_no_value(self) -> None:
        """Except of what every sample has: its caption may be empty, not absent."""
        assert self.build().value(Facts("a")) is None

    def test_it_is_a_function_of_the_facts(self) -> None:
        facts = Facts("a", "a caption", {"width": 512, "height": 512, "aesthetic": 6.0, "language": "en"}, (512, 512))
        one, other = self.build(), self.build()
        value = one.value(facts)
        assert value == other.value(facts)
        if value is not None:
            assert one.keeps(value) is other.keeps(value)

    def test_what_becomes_of_a_missing_value_has_no_default(self) -> None:
        assert self.build().missing in ("keep", "drop", "error")
        assert self.entry.parameters["missing"].required


class StageContract(ComponentContract):
    """A stage is a function of its items, keeps their order and buffers none, since resuming would lose buffered items."""

    kind: ClassVar[str] = "stages"

    def given(self, count: int = FEW) -> list[dict[str, Any]]:
        """Undecoded samples; override it for a stage that expects decoded ones."""
        return [
            {
                "__key__": f"{n:05d}",
                "__url__": "a.tar",
                "__epoch__": 0,
                "__position__": 0,
                "__number__": n,
                "txt": b"a caption",
                "json": b"{}",
                "jpg": b"bytes",
            }
            for n in range(count)
        ]

    def numbers(self, given: list[dict[str, Any]]) -> list[int]:
        return [item["__number__"] for item in self.build()(iter(given))]

    def test_it_keeps_the_order_and_what_belongs_to_the_pipeline(self) -> None:
        numbers = self.numbers(self.given())
        assert numbers and numbers == sorted(numbers)
        for item in self.build()(iter(self.given())):
            assert {"__key__", "__url__", "__epoch__", "__position__", "__number__"} <= item.keys()

    def test_it_is_a_function_of_its_items(self) -> None:
        """Begun later in the stream, it gives the same rest."""
        whole, start = self.numbers(self.given()), FEW // 2
        assert self.numbers(self.given()) == whole
        assert self.numbers(self.given()[start:]) == [number for number in whole if number >= start]

    def test_it_holds_no_item_back(self) -> None:
        """An item comes out before the next one is taken."""
        taken: list[int] = []

        def items():  # noqa: ANN202
            for item in self.given():
                taken.append(item["__number__"])
                yield item

        for item in self.build()(items()):
            assert taken[-1] == item["__number__"]
