"""Object stores on loopback: as much of S3's, Google Cloud Storage's and the Hugging Face Hub's API as fsspec's file systems
call to list and read the files of one folder. Bodies may meet faults."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
STAMP = "2026-01-01T00:00:00.000Z"
TAG = "0" * 32


class Store(BaseHTTPRequestHandler):
    """Serves `server.folder` as `set/` of the bucket or data set. Each fault in `server.faults` meets one body: a status, or
    "cut": half of it, and then the end of the connection."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.route(unquote(parts.path), {name: values[0] for name, values in parse_qs(parts.query).items()})

    do_HEAD = do_GET  # noqa: N815

    def route(self, path: str, query: dict[str, str]) -> None:
        raise NotImplementedError

    def files(self, prefix: str = "") -> list[Path]:
        return [path for path in sorted(self.server.folder.iterdir()) if f"set/{path.name}".startswith(prefix)]

    def body(self, name: str) -> None:
        """The content of `set/NAME`, or the range of it that the client wants."""
        path = self.server.folder / name.removeprefix("set/")
        if not path.is_file():
            self.answer(404, b"")
            return
        data, wanted, status = path.read_bytes(), self.headers["Range"], 200
        if wanted:
            first, last = wanted.removeprefix("bytes=").split("-")
            data, status = data[int(first) : int(last or len(data)) + 1], 206
        fault = self.server.faults.pop(0) if self.server.faults and self.command == "GET" else None
        if isinstance(fault, int):
            self.answer(fault, b"{}")
        else:
            self.answer(status, data, cut=fault == "cut")

    def answer(self, status: int, data: bytes, *, kind: str = "application/octet-stream", cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "ETag": f'"{TAG}"',
            "Last-Modified": DATE,
            "x-goog-generation": "1",
        }.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data[: len(data) // 2] if cut else data)

    def json(self, value: Any) -> None:
        self.answer(200, json.dumps(value).encode(), kind="application/json")

    def log_message(self, *_: Any) -> None: ...


class S3(Store):
    """Paths are /bucket/key."""

    def route(self, path: str, query: dict[str, str]) -> None:
        _, bucket, *key = path.split("/", 2)
        if key and key[0]:
            self.body(key[0])
            return
        found = "".join(
            f"<Contents><Key>{escape(f'set/{file.name}')}</Key><Size>{file.stat().st_size}</Size>"
            f"<LastModified>{STAMP}</LastModified><ETag>{TAG}</ETag><StorageClass>STANDARD</StorageClass></Contents>"
            for file in self.files(query.get("prefix", ""))
        )
        space = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
        listing = (
            f"<ListBucketResult {space}><Name>{bucket}</Name><IsTruncated>false</IsTruncated>{found}</ListBucketResult>"
        )
        self.answer(200, listing.encode(), kind="application/xml")


class Google(Store):
    """The JSON API."""

    def route(self, path: str, query: dict[str, str]) -> None:
        key = path.partition("/b/bucket/o")[2].strip("/")
        known = {f"set/{file.name}": file for file in self.files(query.get("prefix", ""))}
        if path.startswith("/download/") or query.get("alt") == "media":
            self.body(key)
        elif not key:
            self.json({"kind": "storage#objects", "items": [self._object(*item) for item in known.items()], "prefixes": []})
        elif key in known:
            self.json(self._object(key, known[key]))
        else:
            self.answer(404, b"{}")

    def _object(self, name: str, file: Path) -> dict[str, Any]:
        about = {"kind": "storage#object", "bucket": "bucket", "generation": "1", "etag": TAG, "updated": STAMP}
        return {**about, "id": f"bucket/{name}/1", "name": name, "size": str(file.stat().st_size), "timeCreated": STAMP}


class Hub(Store):
    """The data set lab/emoji."""

    def route(self, path: str, query: dict[str, str]) -> None:
        api, contents = "/api/datasets/lab/emoji", "/datasets/lab/emoji/resolve/main/"
        if path.startswith(contents):
            self.body(path.removeprefix(contents))
        elif path.startswith(f"{api}/tree/"):
            files = [
                {"type": "file", "path": f"set/{p.name}", "size": p.stat().st_size, "oid": "1" * 40} for p in self.files()
            ]
            self.json([{"type": "directory", "path": "set", "oid": "2" * 40}, *files])
        elif path.startswith(api):
            self.json({"id": "lab/emoji", "sha": "0" * 40, "private": False, "tags": [], "downloads": 0, "likes": 0})
        else:
            self.answer(404, b"")


@contextmanager
def serving(kind: type[Store], folder: Path) -> Iterator[Any]:
    """A server over a folder; its `address`, and its list of `faults`."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.folder, server.faults, server.daemon_threads = folder, [], True
    server.handle_error = lambda *args: None
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
