"""The contract of a negative-prompt sampler."""

from random import Random
from typing import ClassVar

from sunlab.data.negatives import Pool
from sunlab.errors import SunlabError
from sunlab.testing.component import ComponentContract


class NegativeSamplerContract(ComponentContract):
    """A sampler returns text, and uses only the random numbers that it is given."""

    kind: ClassVar[str] = "negatives"
    pool: ClassVar[Pool] = Pool(
        prompts=tuple(f"caption {i}" for i in range(50)), keywords=tuple(f"keyword{i}" for i in range(50))
    )

    def draw(self, seed: int, count: int = 200) -> list[str]:
        sampler, random = self.build(), Random(seed)
        return [sampler(random, "a red apple", self.pool) for _ in range(count)]

    def test_it_returns_text(self) -> None:
        assert all(isinstance(text, str) for text in self.draw(0))

    def test_without_a_pool_it_works_or_explains_itself(self) -> None:
        """Sources may offer neither captions nor keywords. A sampler that needs them raises an error."""
        sampler, random = self.build(), Random(0)
        try:
            drawn = [sampler(random, "a red apple", Pool()) for _ in range(200)]
        except SunlabError:
            return
        assert all(isinstance(text, str) for text in drawn)

    def test_it_works_with_an_empty_prompt(self) -> None:
        assert isinstance(self.build()(Random(0), "", self.pool), str)

    def test_the_same_random_numbers_give_the_same_prompts(self) -> None:
        assert self.draw(7) == self.draw(7)

    def test_the_global_generator_plays_no_part(self) -> None:
        import random

        random.seed(1)
        first = self.draw(3)
        random.seed(2)
        assert first == self.draw(3)
