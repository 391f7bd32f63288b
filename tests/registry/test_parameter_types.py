"""Only lossless conversions."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Optional, Union

import pytest

from registry import RegistryError, check_value


@pytest.mark.parametrize(
    ("value", "annotation", "result"),
    [
        (3, int, 3),
        (3, float, 3.0),
        ("1e-4", float, 1e-4),
        (True, bool, True),
        ("a", str, "a"),
        (None, int | None, None),
        (3, int | float, 3),
        (3, float | int, 3),
        (3, Optional[float], 3.0),  # noqa: UP045
        ("x", Union[int, str], "x"),  # noqa: UP007
        ("data", Literal["data", "teacher"], "data"),
        ([1, 2], list[int], [1, 2]),
        ([1, 2], tuple[float, float], (1.0, 2.0)),
        ([1, 2, 3], tuple[int, ...], (1, 2, 3)),
        (["a"], Sequence[str], ["a"]),
        ({"a": 1}, dict[str, float], {"a": 1.0}),
        ({"a": [1]}, Mapping[str, list[int]], {"a": [1]}),
        ({"a": 1}, dict, {"a": 1}),
        ([1], list, [1]),
        ({"a": object}, Any, {"a": object}),
    ],
)
def test_accepts(value, annotation, result):
    checked = check_value(value, annotation, key="k")
    assert checked == result and type(checked) is type(result)


@pytest.mark.parametrize(
    ("value", "annotation"),
    [
        (True, int),
        (1.0, int),
        ("3", int),
        (1, bool),
        (True, float),
        ("many", float),
        (3, str),
        (None, int),
        ("datum", Literal["data", "teacher"]),
        (True, Literal[1]),
        ("ab", list[str]),
        ([1, "a"], list[int]),
        ([1, 2, 3], tuple[int, int]),
        ({"a": "b"}, dict[str, int]),
        ([1], dict[str, int]),
        ("x", int | None),
    ],
)
def test_refuses_and_names_the_key(value, annotation):
    with pytest.raises(RegistryError, match=r"^loss\.k: expected ") as caught:
        check_value(value, annotation, key="loss.k")
    assert caught.value.key == "loss.k" and repr(value) in str(caught.value)
