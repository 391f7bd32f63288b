"""Remote shards read as they arrive, from a server that stalls, cuts, answers with errors and resets."""

import io
import random
import socket
import struct
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice

import pytest
from tars import members, write_tar

from sunlab.data import remote
from sunlab.data.datamodule import DataModule
from sunlab.data.negatives import Empty
from sunlab.data.remote import Arriving
from sunlab.data.shards import Shards
from sunlab.errors import DataError, StorageError

DATA = random.Random(0).randbytes(1_000_000)


class Faulty(BaseHTTPRequestHandler):
    """Serves `files`; the first requests of each file meet the faults in `faults`, one each."""

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, self.headers.get("Range")))
        data = server.files.get(self.path)
        if data is None:
            self.send_error(404)
            return
        fault = server.faults.pop(0) if server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        start, ranged = 0, self.headers.get("Range")
        if ranged and server.ranges:
            start = int(ranged.removeprefix("bytes=").rstrip("-"))
        self.send_response(206 if start else 200)
        if not (fault == "unsized" or server.unsized):
            self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        body = data[start:]
        if fault in ("cut", "stall", "reset"):
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if fault == "stall":
                time.sleep(server.stall)
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@contextmanager
def serving(files, *, faults=(), ranges=True, stall=5.0):
    with ThreadingHTTPServer(("127.0.0.1", 0), Faulty) as server:
        server.files, server.faults, server.ranges, server.requests = files, list(faults), ranges, []
        server.stall, server.unsized, server.daemon_threads = stall, False, True
        server.handle_error = lambda *args: None
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(remote, "WAIT", 0.01)
    monkeypatch.setattr(remote, "STALL", 0.5)


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("faults", [[], ["cut"], ["reset"], [503], [500, "cut", 429], ["stall"], ["cut", "cut", "cut"]])
def test_a_file_comes_whole(faults, ranges):
    with (
        serving({"/a.tar": DATA}, faults=faults, ranges=ranges) as (server, url),
        io.BufferedReader(Arriving(f"{url}/a.tar")) as file,
    ):
        assert file.read() == DATA
    assert len(server.requests) == len(faults) + 1
    if faults == ["cut"]:
        asked = server.requests[1][1]  # the rest alone, unless the connection broke before a byte was handed on
        assert asked is None or 0 < int(asked.removeprefix("bytes=").removesuffix("-")) < len(DATA)


@pytest.mark.parametrize(("faults", "requests"), [([404], 1), ([403], 1), ([503] * 9, remote.TRIES)])
def test_what_stays_wrong_is_an_error(faults, requests):
    with serving({"/a.tar": DATA}, faults=faults) as (server, url):
        with pytest.raises(StorageError, match=r"a\.tar: cannot be read from byte 0"):
            Arriving(f"{url}/a.tar")
        assert len(server.requests) == requests


def test_a_password_is_sent_to_its_own_host_alone():
    seen = []

    class Redirecting(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers.get("Authorization")))
            self.send_response(302)
            self.send_header("Location", server.target)
            self.end_headers()

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Redirecting) as server, serving({"/a.tar": DATA}) as (other, url):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        place = f"http://me:a%20word@127.0.0.1:{server.server_port}/\u00e9 b.tar"
        server.target = f"{url}/a.tar"
        with io.BufferedReader(Arriving(place)) as file:
            assert file.read() == DATA
        assert seen == [("/%C3%A9%20b.tar", "Basic bWU6YSB3b3Jk")] and other.requests == [("/a.tar", None)]
        server.target = "file:///etc/hostname"
        with pytest.raises(StorageError, match="cannot be read"):
            Arriving(place)
        server.shutdown()


@pytest.fixture
def files(tmp_path):
    found = {}
    for shard in range(10):
        path = write_tar(tmp_path / "x.tar", [members(n) for n in range(60 * shard, 60 * shard + 60)])
        found[f"/{shard:05d}.tar"] = path.read_bytes()
    return found


def test_training_starts_after_one_shard_a_stream(files):
    with serving(files) as (server, url):
        source = Shards(urls=[f"{url}/{{00000..00009}}.tar"], shuffle=100)
        module = DataModule(source, Empty(), batch_size=8, streams=4)
        batches = module.loader()
        iterator = iter(batches)
        next(iterator)
        opened = [path for path, _ in server.requests if path.endswith(".tar")]
        assert source.order == "stream" and len(opened) == len(set(opened)) <= 4
        keys = [key for batch in islice(iterator, 59) for key in batch.keys]
        assert len(set(keys)) == len(keys) == 59 * 8
        iterator.close()


def test_faults_change_nothing_of_the_stream(files):
    def keys(faults):
        with serving(files, faults=faults) as (_, url):
            source = Shards(urls=[f"{url}/{{00000..00005}}.tar"], shuffle=20)
            return [item["sample"].key.partition("/")[2] for item in source.pipeline(stream=0, passes=1)]

    assert keys(["cut", 503, "reset"]) == keys([]) and len(keys([])) == 360


def test_a_shard_that_cannot_be_read(files, tmp_path):
    del files["/00003.tar"]
    files["/00004.tar"] = files["/00004.tar"][:9000]
    with serving(files) as (_, url):
        given = {"urls": [f"{url}/{{00000..00005}}.tar"], "shuffle": 0}
        with pytest.raises((StorageError, DataError), match=r"0000[34]\.tar"):
            list(Shards(**given).pipeline(stream=0, passes=1))
        source = Shards(**given, on_error="quarantine")
        source.quarantine_in(tmp_path)
        found = [item["sample"].key for item in source.pipeline(stream=0, passes=1)]
    assert len(found) == len(set(found)) >= 240
    noted = (tmp_path / "quarantine.jsonl").read_text()
    assert "unreadable shard" in noted and "damaged shard" in noted
