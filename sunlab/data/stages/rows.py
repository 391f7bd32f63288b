"""Rows of tables -> undecoded samples."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from sunlab.data.cursor import Cursor
from sunlab.data.sample import Bad, Item, bad_sample


class Rows:
    """Files -> a sample a row: the column of the prompt as `txt`, the others as `json`.

    Args:
        read: the rows of a file, by its URL.
        caption: column of the prompt.
        bad: called with each row without one.
        start: the first row that is wanted.
        found: called for each row.
        picture: the bytes of a row's picture; None: there are no pictures.
        image: column of the picture, which is left out of the json.
    """

    def __init__(
        self,
        read: Callable[[str], Iterator[Any]],
        caption: str,
        bad: Bad,
        start: Cursor,
        found: Callable[[], None],
        picture: Callable[[Any], bytes] | None = None,
        image: str | None = None,
    ):
        self.read, self.caption, self.bad, self.start, self.found = read, caption, bad, start, found
        self.picture, self.image = picture, image

    def __call__(self, items: Iterator[Item]) -> Iterator[Item]:
        for item in items:
            part, parts = item.get("__part__", (0, 1))
            about = {key: value for key, value in item.items() if key.startswith("__")}
            for number, row in enumerate(self.read(item["url"])):
                if number % parts != part or (item["__epoch__"], item["__position__"], number) < self.start[:3]:
                    continue
                self.found()
                key, text = f"{number:09d}", row.get(self.caption) if isinstance(row, dict) else None
                if not isinstance(text, str):
                    detail = f"no text in the column {self.caption!r}"
                    self.bad(bad_sample(item["url"], key, "missing caption", detail))
                    continue
                record = {k: v for k, v in row.items() if isinstance(v, str | int | float | list) and k != self.image}
                members = {"txt": text.encode(), "json": json.dumps(record, default=str).encode()}
                if self.picture is not None:
                    members["png"] = self.picture(row.get(self.image))  # its bytes tell the format
                yield {"__key__": key, "__url__": item["url"], **about, "__number__": number, **members}
