"""A Hugging Face Hub on loopback: what huggingface_hub calls to list, read and commit model repositories."""

import json
import re
import threading
from base64 import b64decode
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "hf_" + "a" * 34
REPO = r"(?P<repo>[^/]+/[^/]+?)"
GONE = {"RepoNotFound": 401, "RevisionNotFound": 404, "EntryNotFound": 404, "GatedRepo": 403}


@dataclass
class Hub:
    """Its repositories: name -> revision -> files. `requests` lists what was called, as `GET /path`."""

    address: str = ""
    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)  # large files by their SHA-256

    def add(self, repo: str, folder: Path, revision: str = "main") -> None:
        files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.repos.setdefault(repo, {})[revision] = files

    def fetched(self, repo: str) -> set[str]:
        """The files of a repository whose contents were sent."""
        heads = f"GET /{repo}/resolve/"
        return {line.removeprefix(heads).partition("/")[2] for line in self.requests if line.startswith(heads)}


def commit_of(files: dict[str, bytes]) -> str:
    return sha1(b"".join(name.encode() + data for name, data in sorted(files.items()))).hexdigest()


class Missing(Exception):
    pass


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._route()

        do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        def _route(self) -> None:
            path = self.path.partition("?")[0]
            hub.requests.append(f"{self.command} {path}")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            free = self.command in ("GET", "HEAD") or path.startswith(("/lfs/", "/api/validate-yaml"))
            if not free and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self._json({"error": "Invalid credentials"}, 401)
            for pattern, answer in ROUTES.items():
                if found := re.fullmatch(pattern, path):
                    try:
                        return answer(self, body, **found.groupdict())
                    except Missing as error:
                        return self._json({"error": str(error)}, GONE[str(error)], {"X-Error-Code": str(error)})
            return self._json({"error": "no such endpoint"}, 404)

        def _files(self, repo: str, rev: str | None) -> dict[str, bytes]:
            if repo not in hub.repos:
                raise Missing("RepoNotFound")
            if repo in hub.gated:
                raise Missing("GatedRepo")
            for name, files in hub.repos[repo].items():
                if rev in (name, commit_of(files), None):
                    return files
            raise Missing("RevisionNotFound")

        def info(self, body: bytes, repo: str, rev: str | None = None) -> None:
            files = self._files(repo, rev)
            known = {"id": repo, "sha": commit_of(files), "private": False, "tags": [], "downloads": 0, "likes": 0}
            self._json({**known, "siblings": [{"rfilename": name} for name in files]})

        def tree(self, body: bytes, repo: str, rev: str) -> None:
            files = self._files(repo, rev)
            listed = [{"type": "file", "path": n, "size": len(d), "oid": sha1(d).hexdigest()} for n, d in files.items()]
            self._json(listed)

        def resolve(self, body: bytes, repo: str, rev: str, file: str) -> None:
            files = self._files(repo, rev)
            if file not in files:
                raise Missing("EntryNotFound")
            data = files[file]
            tags = {"ETag": f'"{sha256(data).hexdigest()}"', "X-Repo-Commit": commit_of(files)}
            self._answer(200, data, tags)

        def create(self, body: bytes) -> None:
            given = json.loads(body)
            repo = f"{given['organization']}/{given['name']}"
            if repo in hub.repos:
                return self._json({"error": "You already created it", "url": f"{hub.address}/{repo}"}, 409)
            hub.repos[repo] = {"main": {}}
            return self._json({"url": f"{hub.address}/{repo}", "name": repo, "id": repo})

        def validate(self, body: bytes) -> None:
            self._json({"errors": [], "warnings": []})

        def preupload(self, body: bytes, repo: str, rev: str) -> None:
            self._files(repo, rev)
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".png")) else "regular",
                 "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            self._json({"files": modes})

        def batch(self, body: bytes, repo: str) -> None:
            objects = json.loads(body)["objects"]
            actions = [{**o, "actions": {"upload": {"href": f"{hub.address}/lfs/{o['oid']}"}}} for o in objects]
            self._json({"transfer": "basic", "objects": actions})

        def store(self, body: bytes, oid: str) -> None:
            assert sha256(body).hexdigest() == oid
            hub.stored[oid] = body
            self._json({})

        def commit(self, body: bytes, repo: str, rev: str) -> None:
            files = dict(self._files(repo, rev))
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    assert value["encoding"] == "base64"
                    files[value["path"]] = b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = hub.stored[value["oid"]]
            hub.repos[repo][rev] = files
            oid = commit_of(files)
            self._json({"success": True, "commitOid": oid, "commitUrl": f"{hub.address}/{repo}/commit/{oid}"})

        def _json(self, value: Any, code: int = 200, headers: dict[str, str] | None = None) -> None:
            self._answer(code, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

        def _answer(self, code: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(code)
            for name, value in {**headers, "Content-Length": str(len(data))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None: ...

    ROUTES = {  # noqa: N806
        "/api/repos/create": Handler.create,
        "/api/validate-yaml": Handler.validate,
        rf"/api/models/{REPO}/revision/(?P<rev>[^/]+)": Handler.info,
        rf"/api/models/{REPO}/tree/(?P<rev>[^/]+)": Handler.tree,
        rf"/api/models/{REPO}/preupload/(?P<rev>[^/]+)": Handler.preupload,
        rf"/api/models/{REPO}/commit/(?P<rev>[^/]+)": Handler.commit,
        rf"/api/models/{REPO}": Handler.info,
        rf"/{REPO}\.git/info/lfs/objects/batch": Handler.batch,
        r"/lfs/(?P<oid>\w+)": Handler.store,
        rf"/{REPO}/resolve/(?P<rev>[^/]+)/(?P<file>.+)": Handler.resolve,
    }
    return Handler


@contextmanager
def hub_server() -> Iterator[Hub]:
    """A Hub without repositories, until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(hub))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
