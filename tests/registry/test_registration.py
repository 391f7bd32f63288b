"""Names: registering, finding, and what a wrong one is answered with."""

import re
from typing import Any

import pytest

from registry import Registry, RegistryError, suggestion


class Animal:
    pass


@pytest.fixture
def animals() -> Registry:
    registry: Registry[Any] = Registry("animal", base=Animal, entry_points="sunlab.test.none")

    @registry.register("cat")
    class Cat(Animal):
        """Sleeps.

        A lot.
        """

        def __init__(self, home: str, *, lives: int = 9):
            self.home, self.lives = home, lives

    @registry.register("dog")
    class Dog(Animal):
        def __init__(self, *, weight: float):
            self.weight = weight

    return registry


def test_builds_with_positional_runtime_objects_and_keyword_configuration(animals):
    cat = animals.build({"name": "cat", "lives": 7}, "sofa")
    assert (cat.home, cat.lives) == ("sofa", 7)
    assert animals.build("cat", "sofa").lives == 9
    assert animals.names() == ["cat", "dog"] and "cat" in animals and "cow" not in animals


def test_a_parameter_out_of_range_is_told_with_its_plug(animals):
    @animals.register("cow")
    class Cow(animals.base):
        def __init__(self, *, legs: int = 4):
            if legs < 0:
                raise ValueError(f"a cow has legs, got {legs}")
            {}["a bug is no wrong parameter"]

    with pytest.raises(RegistryError, match=r"^zoo: animal 'cow': a cow has legs, got -1$"):
        animals.build({"name": "cow", "legs": -1}, key="zoo")
    with pytest.raises(KeyError):
        animals.build("cow")


def test_an_entry_tells_its_summary_parameters_and_place(animals):
    entry = animals.get("cat")
    assert entry.summary == "Sleeps."
    assert [str(p) for p in entry.parameters.values()] == ["lives: int = 9"]
    assert re.search(r"test_registration\.py:\d+$", entry.where)


@pytest.mark.parametrize(
    ("request_", "key", "says"),
    [
        ("cta", "pet.name", "did you mean 'cat'? known: cat, dog"),
        ({"name": "cat", "livse": 3}, "pet.livse", "did you mean 'lives'? cat takes: lives"),
        ({"name": "cat", "lives": "many"}, "pet.lives", "expected int, got 'many'"),
        ({"name": "cat", "home": "x"}, "pet.home", "no such parameter of animal 'cat'"),
        ({"name": "dog"}, "pet.weight", "needs it: weight: float"),
        ({"lives": 3}, "pet", "expected a animal's name, or a mapping with 'name'"),
        (3, "pet", "expected a animal's name"),
    ],
)
def test_errors_name_the_key_the_nearest_and_all_that_is_known(animals, request_, key, says):
    with pytest.raises(RegistryError, match=re.escape(says)) as caught:
        animals.check(request_, key="pet")
    assert caught.value.key == key
    assert str(caught.value).startswith(f"{key}: ")


def test_a_name_registered_twice_names_both_places(animals):
    with pytest.raises(RegistryError, match="registered twice") as caught:

        @animals.register("cat")
        class Other(Animal):
            pass

    assert len(re.findall(r"test_registration\.py:\d+", str(caught.value))) == 2


def test_registering_the_same_class_again_is_no_error(animals):
    factory = animals.get("cat").factory
    assert animals.register("cat")(factory) is factory


def test_a_plug_must_derive_from_the_contract(animals):
    with pytest.raises(RegistryError, match="does not derive from Animal"):
        animals.register("stone")(int)


def test_a_parameter_without_a_type_is_refused(animals):
    with pytest.raises(RegistryError, match=r"'legs' .* needs a type annotation"):

        @animals.register("bug")
        class Bug(Animal):
            def __init__(self, *, legs=6):
                pass


def test_a_parameter_called_name_is_refused(animals):
    class Named(Animal):
        def __init__(self, *, name: str = "cat"):
            pass

    with pytest.raises(RegistryError, match=r"Named.*'name'"):
        animals.register("named")(Named)


def test_suggestion_asks_only_where_something_is_near():
    assert suggestion("zzz", ["cfg", "msc"]) == "known: cfg, msc"
    assert suggestion("mcs", ["cfg", "msc"]) == "did you mean 'msc'? known: cfg, msc"
    assert suggestion("x", []) == "known: none"
