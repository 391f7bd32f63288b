"""The bytes of an adapter file: safetensors, and a checksum that covers every one of them.

safetensors itself has no checksum. The header holds two: `sha256`, of the payload alone (what follows the table of
tensors), and `file_sha256`, of the whole file with its own 64 digits read as zeros, so that no byte of the file, the
checksum's own among them, can change unseen.
"""

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from sunlab.errors import DataError

KEY = "sunlab"  # of our header in safetensors' metadata
BLANK = "0" * 64
PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04")  # as torch writes them: in a zip archive, or bare
PAYLOAD = re.compile(rb'\\"sha256\\": \\"(0{64})\\"')
SEAL = re.compile(rb'\\"file_sha256\\": \\"([0-9a-f]{64})\\"')  # as JSON inside a JSON string is written


def pack(tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> bytearray:
    """A whole file. Both checksums are put into the header here, in place. Equal tensors and headers give equal bytes."""
    data = bytearray(save(dict(tensors), {KEY: _text({**header, "sha256": BLANK, "file_sha256": BLANK})}))
    for key, covered in ((PAYLOAD, memoryview(data)[_start(data) :]), (SEAL, memoryview(data))):
        found = key.search(data)
        assert found is not None
        start, end = found.span(1)
        data[start:end] = sha256(covered).hexdigest().encode()
    return data


def unpack(data: bytes, where: str) -> tuple[dict[str, Tensor], Mapping[str, Any] | None]:
    """Tensors and our header, None where it is not there: a safetensors file of another program's.

    Nothing is verified yet but safetensors' own structure; see `verify`. Raises `DataError`.
    """
    try:
        tensors = load(data)
        table = json.loads(data[8 : _start(data)])
        header = json.loads(table.get("__metadata__", {}).get(KEY, "null"))
    except (SafetensorError, ValueError, RecursionError, KeyError) as error:
        if data.startswith(PICKLES):
            raise DataError(
                f"{where}: a pickle, whatever its name is, which can run any code and is not opened; ask for a .safetensors "
                "of it, or try `sunlab convert`"
            ) from None
        raise DataError(f"{where}: not a readable safetensors file ({error}); fetch it again") from None
    return tensors, header if isinstance(header, dict) else None


def verify(data: bytes, header: Mapping[str, Any], where: str) -> None:
    """Raise `DataError` unless both checksums are right."""
    found = list(SEAL.finditer(data, 0, _start(data)))
    if len(found) != 1:
        raise DataError(f"{where}: damaged: its header states no checksum of the file")
    start, end = found[0].span(1)
    digest = sha256(data[:start])
    digest.update(BLANK.encode())
    digest.update(memoryview(data)[end:])
    if digest.hexdigest().encode() != found[0][1]:
        raise DataError(f"{where}: damaged: the file does not have the SHA-256 that its header states; fetch it again")
    if header.get("sha256") != sha256(memoryview(data)[_start(data) :]).hexdigest():
        raise DataError(f"{where}: damaged: the tensors do not have the SHA-256 that the header states")


def _start(data: bytes | bytearray) -> int:
    """Where the payload begins: after the length and the table of tensors."""
    return 8 + int.from_bytes(data[:8], "little")


def _text(header: Mapping[str, Any]) -> str:
    return json.dumps(header, sort_keys=True, allow_nan=False)
