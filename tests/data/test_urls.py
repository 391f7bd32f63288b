"""Where shards may be: patterns, lists, object stores by fsspec, and a cache keyed by the whole URL."""

import fcntl
import importlib.util
import os
import resource
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import fsspec
import pytest
from braceexpand import braceexpand
from tars import members, write_tar

from fault_injection.apart import apart
from sunlab.cli.main import main
from sunlab.data import remote as remote_module
from sunlab.data import urls
from sunlab.data.remote import SCHEMES, Remote, file_system
from sunlab.data.shards import Shards
from sunlab.data.urls import braces, shard_urls
from sunlab.errors import ConfigError, DataError, StorageError


@pytest.fixture
def store(monkeypatch, folder, tmp_path):
    """Two sets in a store, whose shards have the same names."""
    monkeypatch.setitem(SCHEMES, "memory", "fsspec")
    main(["data", "index", f"{folder}/train-*.tar"])
    memory = fsspec.filesystem("memory")
    for path in folder.iterdir():
        if path.is_file():
            memory.pipe(f"/one/{path.name}", path.read_bytes())
    other = write_tar(tmp_path / "other.tar", [members(n) for n in range(100, 104)])
    memory.pipe("/two/train-00000.tar", other.read_bytes())
    yield memory
    memory.rm("/one", recursive=True)
    memory.rm("/two", recursive=True)


def keys(shards):
    return sorted(s.key for s in shards.read(seed=0, epoch=0, start=0, stop=len(shards)))


def test_a_store_reads_as_the_folder_does(store, source, tmp_path):
    cache = {"cache": str(tmp_path / "c")}
    remote = Shards(order="exact", urls=["memory://one/train-*.tar"], shuffle=5, **cache)
    order = [s.key for s in remote.read(seed=1, epoch=2, start=3, stop=44)]
    assert order == [s.key for s in source().read(seed=1, epoch=2, start=3, stop=44)]
    assert remote.notice() is None and remote.identity() == source().identity()
    assert keys(Shards(order="exact", urls=["memory://one/train-{00000..00001}.tar"], **cache)) == [
        f"{n:05d}" for n in range(19)
    ]


def test_the_cache_is_keyed_by_the_whole_url(store, tmp_path):
    urls = ["memory://one/train-00000.tar", "memory://two/train-00000.tar"]
    both = Shards(order="exact", urls=urls, cache=str(tmp_path / "c"))
    assert keys(both) == [f"{n:05d}" for n in (*range(7), *range(100, 104))]
    assert len(list((tmp_path / "c").glob("*-train-00000.tar"))) == 2


def test_the_cache_keeps_to_its_limit(store, tmp_path):
    size = store.size("/one/train-00003.tar")
    remote = Remote(tmp_path / "c", limit=size + store.size("/one/train-00000.tar"))
    paths = [remote.local(f"memory://one/train-0000{n}.tar") for n in range(5)]
    held = [path for path in paths if path.is_file()]
    assert paths[-1] in held and sum(path.stat().st_size for path in held) <= remote.limit
    fetched = paths[0]
    assert remote.local("memory://one/train-00000.tar") == fetched and fetched.is_file()
    with pytest.raises(StorageError, match="cache_gb"):
        Remote(tmp_path / "d", limit=100).local("memory://one/train-00000.tar")
    assert not list((tmp_path / "d").glob("*.tar"))


def test_a_shard_that_is_being_opened_stays(store, tmp_path):
    """Whoever makes room passes it over, and removes it when it is not being opened any more."""
    first, other = "memory://one/train-00000.tar", "memory://one/train-00003.tar"
    remote = Remote(tmp_path / "c", limit=store.size("/one/train-00003.tar"))
    with remote.held(first) as path:
        remote.local(other)
        assert path.is_file()
    remote.local("memory://one/train-00002.tar")
    assert not path.is_file()


def test_one_that_was_removed_before_it_was_opened_is_fetched_again(store, tmp_path, monkeypatch):
    """The kernel gives an exclusive lock up before it gives a shared one, and another process may make room in between."""
    flock, removed = fcntl.flock, []

    def too_late(file, how):
        flock(file, how)
        if how == fcntl.LOCK_SH and not removed:
            removed.extend((tmp_path / "c").glob("*.tar"))
            removed[0].unlink()

    monkeypatch.setattr(fcntl, "flock", too_late)
    with Remote(tmp_path / "c").held("memory://one/train-00000.tar") as path:
        assert path.is_file() and removed == [path]


def test_many_readers_of_a_small_cache(folder, store, tmp_path):
    """Each gets what it opens, and the cache has its size when they are done."""
    limit = store.size("/one/train-00003.tar")
    found = []

    def read(first):
        remote = Remote(tmp_path / "c", limit=limit)
        for number in range(first, first + 10):
            name = f"train-0000{number % 5}.tar"
            with remote.held(f"memory://one/{name}") as path:
                found.append(path.read_bytes() == (folder / name).read_bytes())

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40 and all(found)
    assert sum(path.stat().st_size for path in (tmp_path / "c").glob("*.tar")) <= limit


def test_what_a_killed_process_left_goes(store, tmp_path):
    remote = Remote(tmp_path / "c")
    path = remote.local("memory://one/train-00000.tar")
    stale = path.with_name(f".{path.name}.12345")
    stale.write_bytes(path.read_bytes())
    path.unlink()
    remote.local("memory://one/train-00000.tar")
    assert path.is_file() and not stale.exists()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("how", ["full", "read-only", "no folder"])
def test_a_cache_that_cannot_be_written(store, tmp_path, how):
    """In a process of its own, which has a limit on the size of files, or no right to write."""
    place = tmp_path / "c"
    place.mkdir()
    if how == "no folder":
        place = place / "file"
        place.write_text("")

    def fetch():
        if how == "full":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        if how == "read-only":
            place.chmod(0o555)
            if os.geteuid() == 0:
                for above in (place, *place.parents):
                    above.chmod(above.stat().st_mode | 0o011)
                os.setuid(65534)
        try:
            Remote(place).local("memory://one/train-00003.tar")
        except StorageError as error:
            return str(error)

    told = apart(fetch).get("value") or ""
    assert "cannot be kept in" in told or "cannot be written" in told
    assert str(place) in told and "train-00003.tar" in told, told
    assert how == "no folder" or not list(place.glob("*.tar"))


def test_a_stream_without_end(store, tmp_path, monkeypatch):
    """An object that sends more than was said, or says nothing: no more than the cache may hold is taken."""
    taken = []
    monkeypatch.setattr(remote_module.Arriving, "read", lambda self, size: taken.append(1) or bytes(2**16))
    for limit, size in ((2**20, None), (2**30, 2**18)):
        taken.clear()
        with pytest.raises((StorageError, DataError), match="bytes"):
            Remote(tmp_path / "c", limit=limit).local("memory://one/train-00003.tar", size)
        assert len(taken) <= 18
    assert not list((tmp_path / "c").glob("*.tar")) and not list((tmp_path / "c").glob(".*.[0-9]*"))


def test_another_size_than_the_manifests_is_refused(store, tmp_path):
    shards = Shards(order="exact", urls=["memory://one/train-*.tar"], cache=str(tmp_path / "c"))
    store.pipe("/one/train-00003.tar", b"short")
    with pytest.raises(DataError, match=r"not the [0-9,]+ bytes that its manifest says"):
        keys(shards)


def test_http(folder, tmp_path, monkeypatch):
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *a: None)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        shards = Shards(order="exact", urls=[f"{url}/train-{{00000..00001}}.tar"], cache=str(tmp_path / "c"))
        assert keys(shards) == [f"{n:05d}" for n in range(19)]
        with pytest.raises(StorageError, match="cannot be read"):
            Shards(order="exact", urls=[f"{url}/none.tar"], cache=str(tmp_path / "c"))
        server.shutdown()


@pytest.mark.parametrize("scheme", ["s3", "gs", "hf"])
def test_schemes_are_fsspecs(scheme, monkeypatch):
    """Each is either there, or names the package that it needs."""
    monkeypatch.setitem(fsspec.config.conf, "gs", {"token": "anon"})  # else credentials are looked for on the network
    if importlib.util.find_spec(SCHEMES[scheme]):
        assert scheme in file_system(f"{scheme}://bucket/x.tar").protocol
    else:
        with pytest.raises(ConfigError, match=f"pip install {SCHEMES[scheme]}"):
            file_system(f"{scheme}://bucket/x.tar")


def test_a_list(folder, tmp_path, monkeypatch):
    listed = folder / "shards.txt"
    listed.write_text("# two of them\ntrain-00000.tar\n\ntrain-{00001..00002}.tar # and more\n")
    monkeypatch.chdir(tmp_path.parent)
    assert len(Shards(order="exact", urls=[str(listed)])) == 22


def test_a_folder_is_listed_once_and_a_missing_shard_is_named(folder, monkeypatch):
    """However many of its shards are named, links among them; a folder is no shard."""
    listed, scandir = [], urls.scandir
    monkeypatch.setattr(urls, "MANY", 2)
    monkeypatch.setattr(urls, "scandir", lambda place: listed.append(place) or scandir(place))
    (folder / "train-00005.tar").symlink_to(folder / "train-00000.tar")
    (folder / "train-00006.tar").mkdir()
    found = shard_urls([f"{folder}/train-{{00000..00005}}.tar"], Remote()).urls
    assert found == [f"{folder}/train-0000{n}.tar" for n in range(6)] and listed == [str(folder)]
    with pytest.raises(DataError, match=r"train-00006\.tar.*: a folder"):
        shard_urls([f"{folder}/train-{{00000..00007}}.tar"], Remote())
    with pytest.raises(DataError, match=r"train-00007\.tar.*no such file"):
        shard_urls([f"{folder}/train-{{00007..00009}}.tar"], Remote())


LINES = (
    "pipe:touch PWNED",
    "file:/etc/passwd",
    "../x.tar",
    "/etc/passwd",
    "a/../../x.tar",
    "~/x.tar",
    "more.txt",
    "none.tar",
)


@pytest.mark.parametrize("line", [*LINES, "{0..99999999}.tar", "{a", "exec://x", "s3:x"])
def test_a_hostile_list(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shards.txt").write_text(f"\n{line}\n")
    with pytest.raises(DataError, match=r"shards\.txt, line 2: "):
        Shards(order="exact", urls=["shards.txt"])
    assert [path.name for path in tmp_path.iterdir()] == ["shards.txt"]


@pytest.mark.parametrize("line", ["a.tar", "*.tar", "in/a.tar"])
def test_a_list_beside_links_that_leave_its_folder(line, tmp_path):
    outside = write_tar(tmp_path / "a.tar", [members(n) for n in range(3)])
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "in").symlink_to(tmp_path, target_is_directory=True)
    (folder / "a.tar").symlink_to(outside)
    (folder / "shards.txt").write_text(line)
    with pytest.raises(DataError, match=r"shards\.txt, line 1: .*is a link that leaves the folder"):
        Shards(order="exact", urls=[str(folder / "shards.txt")])
    assert len(Shards(order="exact", urls=[f"{folder}/*.tar"])) == 3  # the user's own pattern


@pytest.mark.parametrize("pattern", ["{0..9999999}.tar", "{0..1000}{0..1001}.tar", "s3://b/{0..9999999}.tar"])
def test_braces_without_end(pattern):
    with pytest.raises(DataError, match="more than 1,000,000"):
        shard_urls([pattern], Remote())


@pytest.mark.parametrize(
    "pattern",
    [
        "a{00..12}.tar",
        "{3..1}{-1..1}",
        "{-02..10}x",
        "{0..0}",
        "{a..c}{1..2}",
        "{1..9..4}",
        "a{1,2}{01..3}",
        "plain",
        "${1..2}",
    ],
)
def test_braces_are_those_of_bash(pattern):
    assert braces(pattern) == list(braceexpand(pattern))


def test_the_doctor_fetches_a_few_of_many_shards(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for shard in range(30):
        write_tar(tmp_path / f"{shard:05d}.tar", [members(n) for n in range(10)])
    fetched = set()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            if self.command == "GET" and self.path.endswith(".tar"):
                fetched.add(self.path)

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        shards = f"http://127.0.0.1:{server.server_port}/{{00000..00029}}.tar"
        assert main(["doctor", "data", shards, "--samples", "20", "--filter", "{name: caption_length, missing: drop}"]) == 0
        server.shutdown()
    shown = capsys.readouterr().out
    assert len(fetched) == 8 and "8 of 30" in shown and "20 samples" in shown and "80 of 80 samples kept" in shown
