"""Transient server errors are retried; others stop the install with the URL in the message."""

from __future__ import annotations

import base64
import socket
from pathlib import Path

import pytest

from envforge.base.urls import Mirrors
from envforge.errors import EnvforgeError
from envforge.lock.plan import make_plan, read_any_lock
from envforge.prefix.fetch import open_wire, size_of
from envforge.prefix.values import InstallRequest, Retry, Silent
from tests.prefix.install.support import NO_WAIT, LockWriter, Noted, Place
from tests.support.channel import SUBDIR, Channel
from tests.support.loopback import Fault, Loopback, Request, Response


@pytest.fixture
def path(channel: Channel) -> str:
    return f"/{channel.packages['greeting'].location}"


PASSING = {
    "not modified": Fault(status=304),
    "request timeout": Fault(status=408),
    "too many requests": Fault(status=429, headers={"Retry-After": "0"}),
    "internal error": Fault(status=500),
    "bad gateway": Fault(status=502),
    "unavailable": Fault(status=503),
    "cut off": Fault(truncate_at=100),
    "cut off at once": Fault(truncate_at=0),
    "longer than it is": Fault(content_length=10_000_000),
    "shorter than it is": Fault(content_length=200),
    "damaged": Fault(corrupt=True),
    "slow": Fault(delay_s=0.05, pause_s=0.01),
}


@pytest.mark.parametrize("kind", PASSING)
def test_a_fault_that_passes_does_not_stop_the_install(
    greeting: Path, place: Place, server: Loopback, path: str, kind: str
) -> None:
    server.fail(path, PASSING[kind], times=1)
    place.install(greeting)
    assert (place.prefix / "share" / "greeting.txt").exists()
    assert len(server.requests) == (1 if kind in {"slow", "longer than it is"} else 2)


LASTING = {
    "not modified": (Fault(status=304), "304"),
    "forbidden": (Fault(status=403), "403"),
    "not found": (Fault(status=404), "404"),
    "gone": (Fault(status=410), "410"),
    "too many requests": (Fault(status=429), "429"),
    "unavailable": (Fault(status=503), "503"),
    "cut off at once": (Fault(truncate_at=0), "the connection was closed"),
    "a web page": (Fault(html=True), "web page"),
}


@pytest.mark.parametrize("kind", LASTING)
def test_a_fault_that_lasts_stops_with_package_and_address(
    greeting: Path, place: Place, server: Loopback, path: str, kind: str
) -> None:
    fault, words = LASTING[kind]
    server.fail(path, fault)
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting)
    assert caught.value.code == "download-failed"
    assert caught.value.exit_code == 3
    assert words in caught.value.message
    assert f"`greeting 1.0` from `{server.url}{path}`" in caught.value.message
    assert not place.prefix.exists()
    final = kind in {"forbidden", "not found", "gone", "a web page"}
    assert len(server.requests) == (1 if final else 1 + len(NO_WAIT.delays_s))


def test_a_download_that_was_cut_goes_on_where_it_ended(
    greeting: Path, place: Place, server: Loopback, path: str
) -> None:
    server.fail(path, Fault(truncate_at=100), times=1)
    place.install(greeting)
    assert [request.headers.get("range") for request in server.requests] == [None, "bytes=100-"]


def test_a_download_that_was_cut_starts_again_where_the_server_knows_no_ranges(
    greeting: Path, place: Place, server: Loopback, path: str
) -> None:
    server.fail(path, Fault(truncate_at=100), times=1)
    server.fail(path, Fault(no_ranges=True), times=1)
    place.install(greeting)
    assert (place.prefix / "share" / "greeting.txt").exists()


def test_what_a_failed_install_has_fetched_is_kept_for_the_next(
    greeting: Path, place: Place, server: Loopback, path: str
) -> None:
    server.fail(path, Fault(truncate_at=100), times=3)
    with pytest.raises(EnvforgeError):
        place.install(greeting)
    asked = len(server.requests)
    server.heal()
    place.install(greeting)
    assert [request.headers.get("range") for request in server.requests[asked:]] == ["bytes=300-"]


def test_a_server_that_is_silent_is_given_up(greeting: Path, place: Place, server: Loopback, path: str) -> None:
    server.fail(path, Fault(delay_s=0.5))
    with pytest.raises(EnvforgeError, match="did not respond in time"):
        place.install(greeting, retry=Retry(delays_s=(), timeout_s=0.1))


def test_a_host_that_nobody_listens_on_is_named(channel: Channel, place: Place, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{taken.getsockname()[1]}"
        lock = LockWriter(base).conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
        with pytest.raises(EnvforgeError) as caught:
            place.install(lock)
    assert "could not connect" in caught.value.message
    assert base in caught.value.message


def test_a_redirect_is_followed(channel: Channel, place: Place, server: Loopback, tmp_path: Path) -> None:
    def elsewhere(request: Request) -> Response:
        return Response(body=b"", status=302, headers={"Location": server.url + request.path})

    with Loopback(elsewhere) as first:
        lock = LockWriter(first.url).conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
        place.install(lock)
    assert (place.prefix / "share" / "greeting.txt").exists()


def test_a_mirror_is_asked_and_the_lock_s_address_recorded(
    channel: Channel, place: Place, server: Loopback, tmp_path: Path
) -> None:
    public = "https://conda.example/forge"
    lock = LockWriter(public).conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
    place.install(lock, mirrors=Mirrors(((public, server.url),)))
    assert len(server.requests) == 1
    assert f'"{public}/' in next((place.prefix / "conda-meta").glob("greeting-*.json")).read_text()


def test_a_folder_serves_as_a_mirror_without_network(channel: Channel, place: Place, tmp_path: Path) -> None:
    public = "https://conda.example/forge"
    lock = LockWriter(public).conda(channel.packages["binary"]).write(tmp_path / "conda-lock.yml")
    place.install(lock, mirrors=Mirrors(((public, channel.folder.as_uri()),)), offline=True)
    assert (place.prefix / "lib" / "blob").exists()


def test_a_mirror_with_other_bytes_is_not_believed(
    channel: Channel, place: Place, server: Loopback, path: str, tmp_path: Path
) -> None:
    public = "https://conda.example/forge"
    lock = LockWriter(public).conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
    server.fail(path, Fault(corrupt=True))
    with pytest.raises(EnvforgeError) as caught:
        place.install(lock, mirrors=Mirrors(((public, server.url),)))
    assert caught.value.code == "checksum-mismatch"


def test_credentials_of_netrc_are_sent_and_never_shown(
    channel: Channel, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    written = channel.packages["greeting"]

    def guarded(request: Request) -> Response | None:
        if request.headers.get("authorization") != "Basic YWRhOnMzY3JldA==":
            return Response(body=b"", status=401)
        return Response(body=written.path)

    with Loopback(guarded) as server:
        lock = LockWriter(server.url).conda(written).write(tmp_path / "conda-lock.yml")
        progress = Noted()
        report = place.install(lock, progress)
    assert (place.prefix / "share" / "greeting.txt").exists()
    assert "s3cret" not in repr((report, progress))


def test_credentials_in_the_address_come_from_the_environment_and_stay_out_of_messages(
    channel: Channel, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_USER", "ada")
    monkeypatch.setenv("FORGE_PASSWORD", "s3cret")
    with Loopback(lambda _: Response(body=b"", status=404)) as server:
        base = server.url.replace("://", "://$FORGE_USER:${FORGE_PASSWORD}@")
        lock = LockWriter(base).conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
        with pytest.raises(EnvforgeError) as caught:
            place.install(lock)
        assert server.requests[0].headers["authorization"] == "Basic YWRhOnMzY3JldA=="
    assert "s3cret" not in caught.value.message
    assert "FORGE_PASSWORD" not in caught.value.message


def test_variable_that_the_lockfile_does_not_list_is_not_sent(
    channel: Channel, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORGE_TOKEN", "s3cret")
    with Loopback(lambda _: Response(body=b"", status=404)) as server:
        url = server.url.replace("://", "://$FORGE_TOKEN@")
        lock = LockWriter(server.url).conda(channel.packages["greeting"], url=f"{url}/noarch/greeting-1.0-0.conda")
        with pytest.raises(EnvforgeError):
            place.install(lock.write(tmp_path / "conda-lock.yml"))
        sent = base64.b64decode(server.requests[0].headers["authorization"].removeprefix("Basic "))
    assert sent == b"$FORGE_TOKEN:"


def test_a_proxy_of_the_environment_is_used(
    channel: Channel, place: Place, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", server.url)
    monkeypatch.setenv("no_proxy", "")
    lock = LockWriter("http://conda.example").conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
    place.install(lock)
    assert (place.prefix / "share" / "greeting.txt").exists()
    assert [request.headers["host"] for request in server.requests] == ["conda.example"]


def test_interrupted_download_is_continued_only_after_bytes(
    greeting: Path, place: Place, server: Loopback, path: str
) -> None:
    server.fail(path, Fault(status=503))
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting)
    assert "continue" not in caught.value.hint
    server.heal()
    server.fail(path, Fault(truncate_at=100))
    with pytest.raises(EnvforgeError) as caught:
        place.install(greeting)
    assert caught.value.hint == "to continue the interrupted download, run this command again"


def test_dead_proxy_is_named(channel: Channel, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    lock = LockWriter("http://conda.example").conda(channel.packages["greeting"]).write(tmp_path / "conda-lock.yml")
    with pytest.raises(EnvforgeError, match="could not connect to the proxy") as caught:
        place.install(lock, retry=Retry(delays_s=()))
    assert "`127.0.0.1:9`, which `http_proxy` selects" in caught.value.hint


def test_silent_host_gets_no_second_request(greeting: Path, place: Place, server: Loopback) -> None:
    request = InstallRequest(lockfile=greeting, prefix=place.prefix, platform=SUBDIR)
    (artifact,) = make_plan(read_any_lock(greeting, SUBDIR), SUBDIR, greeting).conda
    wire = open_wire(request, Silent())
    assert size_of(artifact, wire)
    asked = len(server.requests)
    wire.silent[server.url.partition("://")[2]] = "the server did not respond in time"
    assert size_of(artifact, wire) is None
    assert len(server.requests) == asked
