"""As much of the Hugging Face Hub's API as `HfFileSystem` asks of it to list and read one data set: `lab/emoji`."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

API, FILES = "/api/datasets/lab/emoji", "/datasets/lab/emoji/resolve/main/"


@contextmanager
def hub(folder: Path) -> Iterator[str]:
    """The files of a folder as the data set's `set/`; its address on loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if path.startswith(FILES):
                self._file(folder / path.removeprefix(f"{FILES}set/"))
            elif path.startswith(f"{API}/tree/"):
                self._json(_tree(folder))
            elif path.startswith(API):
                self._json({"id": "lab/emoji", "sha": "0" * 40, "private": False, "tags": [], "downloads": 0, "likes": 0})
            else:
                self.send_error(404)

        def _file(self, path: Path) -> None:
            if not path.is_file():
                self.send_error(404)
                return
            data, (first, last) = path.read_bytes(), self.headers["Range"].removeprefix("bytes=").split("-")
            self._answer(206, data[int(first) : int(last) + 1])

        def _json(self, value: Any) -> None:
            self._answer(200, json.dumps(value).encode())

        def _answer(self, code: int, data: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _tree(folder: Path) -> list[dict[str, Any]]:
    files = [{"type": "file", "path": f"set/{p.name}", "size": p.stat().st_size, "oid": "1" * 40} for p in folder.iterdir()]
    return [{"type": "directory", "path": "set", "oid": "2" * 40}, *files]
