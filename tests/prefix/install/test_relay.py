"""Packages are unpacked while they are downloaded, and the cache keeps each of them once."""

from __future__ import annotations

import http.client
import shutil
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from envforge.lock.plan import Artifact, make_plan, read_any_lock
from envforge.prefix.cache import Store
from envforge.prefix.relay import Relay, wheel_url
from tests.prefix.install.support import LockWriter, Noted, Place, tree
from tests.support.channel import SUBDIR, Channel
from tests.support.loopback import Fault, Loopback

CONTENT = bytes(range(256)) * 1000
WHEEL = "tool-1.0-py3-none-any.whl"


@pytest.fixture
def tool(lock: LockWriter, channel: Channel, tmp_path: Path) -> Path:
    lock.conda(channel.packages["python"], channel.packages["greeting"]).wheel(channel.folder / "wheels" / WHEEL)
    return lock.write(tmp_path / "conda-lock.yml")


@pytest.fixture
def artifact(tool: Path) -> Artifact:
    return make_plan(read_any_lock(tool, SUBDIR), SUBDIR, tool).wheels[0]


Ask = Callable[..., http.client.HTTPResponse]


@pytest.fixture
def ask() -> Iterator[Ask]:
    with ExitStack() as stack:

        def send(relay: Relay, artifact: Artifact, *, with_password: bool = True) -> http.client.HTTPResponse:
            proxy = urlsplit(relay.variables["HTTP_PROXY"])
            connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=30)))
            account = f"{proxy.username}:{proxy.password if with_password else 'guessed'}"
            headers = {"Proxy-Authorization": f"Basic {b64encode(account.encode()).decode()}"}
            connection.request("GET", wheel_url(artifact), headers=headers)
            return stack.enter_context(connection.getresponse())

        yield send


def partial_file(store: Store, artifact: Artifact) -> Path:
    path = store.path(artifact)
    path.parent.mkdir(parents=True)
    partial = path.with_name(f"{path.name}.part")
    partial.write_bytes(CONTENT[:200_000])
    return partial


def test_relay_sends_a_growing_file_and_its_end_once_verified(artifact: Artifact, tmp_path: Path, ask: Ask) -> None:
    store = Store(tmp_path / "cache")
    partial = partial_file(store, artifact)
    with Relay([artifact], store) as relay:
        response = ask(relay, artifact)
        received = response.read(100_000)
        with partial.open("ab") as stream:
            stream.write(CONTENT[200_000:])
        partial.replace(store.path(artifact))
        relay.complete(store.path(artifact))
        assert received + response.read() == CONTENT


def test_relay_breaks_off_if_the_download_starts_anew(artifact: Artifact, tmp_path: Path, ask: Ask) -> None:
    store = Store(tmp_path / "cache")
    partial = partial_file(store, artifact)
    with Relay([artifact], store) as relay:
        response = ask(relay, artifact)
        response.read(100_000)
        partial.unlink()
        store.path(artifact).write_bytes(CONTENT)
        relay.complete(store.path(artifact))
        with pytest.raises(http.client.IncompleteRead):
            response.read()
        assert ask(relay, artifact).read() == CONTENT


def test_relay_answers_nobody_without_its_password(artifact: Artifact, tmp_path: Path, ask: Ask) -> None:
    with Relay([artifact], Store(tmp_path / "cache")) as relay:
        assert ask(relay, artifact, with_password=False).status == 410


def test_stopped_relay_ends_a_request_that_waits(artifact: Artifact, tmp_path: Path, ask: Ask) -> None:
    with Relay([artifact], Store(tmp_path / "cache")) as relay:
        threading.Timer(0.1, relay.stop).start()
        with pytest.raises(http.client.RemoteDisconnected):
            ask(relay, artifact)
        assert ask(relay, artifact).status == 410


def test_cache_keeps_each_package_once(tool: Path, place: Place, server: Loopback, tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path / "own")
    place.install(tool)
    kept = [path.name for path in (place.cache / "files").rglob("*") if path.is_file()]
    assert {name.rpartition(".")[2] for name in kept} <= {"unpacked", "seen", "lock"}
    asked = len(server.requests)
    place.install(tool, prefix=tmp_path / "second", offline=True)
    assert len(server.requests) == asked
    assert tree(tmp_path / "second").keys() == tree(place.prefix).keys()


def test_wheel_is_downloaded_again_if_the_cache_of_uv_is_removed(tool: Path, server: Loopback, tmp_path: Path) -> None:
    place = Place(tmp_path, tmp_path / "own")
    place.install(tool)
    shutil.rmtree(place.cache / "uv")
    asked = len(server.requests)
    place.install(tool, prefix=tmp_path / "second")
    assert [request.path for request in server.requests[asked:]] == [f"/wheels/{WHEEL}"]
    assert tree(tmp_path / "second").keys() == tree(place.prefix).keys()


def test_wheel_that_was_damaged_on_the_way_is_unpacked_whole(tool: Path, server: Loopback, tmp_path: Path) -> None:
    place, progress = Place(tmp_path, tmp_path / "own"), Noted()
    server.fail(f"/wheels/{WHEEL}", Fault(corrupt=True), times=1)
    place.install(tool, progress)
    assert any("checksum mismatch for `tool 1.0`" in note for note in progress.notes)
    assert (place.prefix / "lib").is_dir()
    place.install(tool, prefix=tmp_path / "second", offline=True)
