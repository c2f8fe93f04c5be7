"""Test errors of the server: other ways of reading repodata are tried, and the error names unreadable channels."""

from __future__ import annotations

import base64
import shutil
import socket
from pathlib import Path

import pytest

from tests.lock.solver.conftest import Ask
from tests.support.loopback import Fault, Loopback, Request, Response

SHARDS = "/linux-64/repodata_shards.msgpack.zst"
COMPRESSED = "/linux-64/repodata.json.zst"
PLAIN = "/linux-64/repodata.json"
WANTED = {"liba": "1.5", "libb": "1.1"}
FAULTS = {
    "missing": Fault(status=404),
    "not modified": Fault(status=304),
    "failing": Fault(status=500),
    "forbidden": Fault(status=403),
    "a page": Fault(html=True),
    "corrupt": Fault(corrupt=True),
    "truncated": Fault(truncate_at=10),
}


def test_shards_are_read_where_they_are_offered(create: Ask, channel: Path) -> None:
    with Loopback(channel) as server:
        assert create(server.url, "libb").packages == WANTED

    assert not any("repodata.json" in path for path in server.paths())


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_shards_falls_back_to_compressed_repodata(create: Ask, channel: Path, fault: str) -> None:
    with Loopback(channel) as server:
        server.fail(SHARDS, FAULTS[fault])

        assert create(server.url, "libb").packages == WANTED

    assert COMPRESSED in server.paths()


@pytest.mark.parametrize("fault", ["missing", "forbidden", "a page", "corrupt"])
def test_a_fault_of_compressed_repodata_falls_back_to_plain(create: Ask, channel: Path, fault: str) -> None:
    with Loopback(channel) as server:
        server.fail(SHARDS, FAULTS["missing"])
        server.fail(COMPRESSED, FAULTS[fault])

        assert create(server.url, "libb").packages == WANTED

    assert PLAIN in server.paths()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("failing", "500 Internal Server Error"),
        ("forbidden", "403 Forbidden"),
        ("a page", "expected value at line 1 column 1"),
        ("truncated", "end of file before message length reached"),
    ],
)
def test_repodata_that_cannot_be_read_is_named_with_the_reason(
    create: Ask, channel: Path, fault: str, reason: str
) -> None:
    with Loopback(channel) as server:
        for path in (SHARDS, COMPRESSED, PLAIN):
            server.fail(path, FAULTS[fault])

        answer = create(server.url, "libb")

    assert answer.message.startswith(f"cannot read the packages of channel `{server.url}`:\n  - ")
    assert reason in answer.message
    assert answer.json["exception_name"] == "CondaHTTPError"


def test_a_channel_without_noarch_is_named(create: Ask, channel: Path) -> None:
    with Loopback(channel) as server:
        for name in ("repodata_shards.msgpack.zst", "repodata.json.zst", "repodata.json"):
            server.fail(f"/noarch/{name}", FAULTS["missing"])

        message = create(server.url, "libb").message

    assert f"could not find subdir 'noarch' in channel '{server.url}/'" in message


def test_a_server_that_is_not_there_is_named(create: Ask) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]

    answer = create(f"http://127.0.0.1:{port}/channel", "libb")
    message = answer.message

    assert answer.json["code"] == "channel-unreachable"
    assert f"cannot reach channel `http://127.0.0.1:{port}/channel`" in message
    assert f"`--mirror http://127.0.0.1:{port}=https://MIRROR`" in message
    assert "Connection refused" in message


def test_only_the_channel_at_fault_is_named(create: Ask, channel: Path) -> None:
    with Loopback(channel) as server, Loopback(channel) as broken:
        for path in (SHARDS, COMPRESSED, PLAIN):
            broken.fail(path, FAULTS["failing"])

        message = create(server.url, "libb", "--channel", broken.url).message

    assert message.startswith(f"cannot read the packages of channel `{broken.url}`:\n")


def test_a_fault_of_a_mirror_names_the_channel_and_the_mirror(create: Ask, channel: Path) -> None:
    with Loopback(channel) as server:
        for path in (SHARDS, COMPRESSED, PLAIN):
            server.fail(path, FAULTS["failing"])

        message = create("tiny", "libb", ENVFORGE_MIRRORS=f"https://conda.anaconda.org/tiny={server.url}").message

    assert message.startswith("cannot read the packages of channel `https://conda.anaconda.org/tiny`:\n")
    assert f"check the mirror URL `{server.url}`" in message


def test_neither_password_nor_token_of_a_channel_is_told(create: Ask, channel: Path) -> None:
    with Loopback(channel) as server:
        for path in (SHARDS, COMPRESSED, PLAIN):
            server.fail(path, FAULTS["failing"])
            server.fail(f"/t/t0ken/channel{path}", FAULTS["failing"])

        messages = [
            create(server.url.replace("://", "://joe:s3cret@"), "libb").message,
            create(f"{server.url}/t/t0ken/channel", "libb").message,
        ]

    assert "500 Internal Server Error" in messages[0]
    assert "500 Internal Server Error" in messages[1]
    assert not any(word in message for message in messages for word in ("s3cret", "joe", "t0ken"))


def test_a_mirror_may_be_a_folder(create: Ask, channel: Path) -> None:
    answer = create("tiny", "libb", ENVFORGE_MIRRORS=f"https://conda.anaconda.org/tiny={channel.as_uri()}")

    assert answer.packages == WANTED
    urls = [entry["url"] for entry in answer.json["actions"]["FETCH"]]
    assert all(url.startswith("https://conda.anaconda.org/tiny/linux-64/") for url in urls)


def test_a_damaged_local_channel_is_named(create: Ask, channel: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(channel, tmp_path / "copy")
    (copy / "linux-64/repodata.json").write_text('{"packages": {"li')

    message = create(copy.as_uri(), "libb").message

    assert copy.as_uri() in message
    assert "failed to parse" in message


def test_a_proxy_is_used_and_what_it_gave_is_kept_for_the_next_solve(
    create: Ask, channel: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Loopback(channel) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("http_proxy", proxy.url)
        first = create("http://tiny.example", "libb").packages
        second = create("http://tiny.example", "libb").packages

    assert first == second == WANTED
    assert proxy.paths().count(SHARDS) == 2
    assert len([path for path in proxy.paths() if path.startswith("/linux-64/shards/")]) == 2


def test_misspelled_channel_gets_the_nearest_known_one(create: Ask, channel: Path) -> None:
    with Loopback(channel) as server:
        mirrors = f"https://conda.anaconda.org={server.url}"
        hints = create("conda-forg", "libb", ENVFORGE_MIRRORS=mirrors).json["hints"]

    assert hints == [{"purpose": "did you mean channel `conda-forge`?", "command": ""}]


@pytest.mark.parametrize("source", ["netrc", "url", "variables", "wrong", "unset"])
def test_channel_is_read_with_credentials(
    create: Ask, channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    expected = f"Basic {base64.b64encode(b'ada:s3cret').decode()}"

    def guarded(request: Request) -> Response:
        place = channel / request.path.lstrip("/")
        if request.headers.get("authorization") != expected:
            return Response(body=b"", status=401)
        return Response(body=place) if place.is_file() else Response(body=b"", status=404)

    with Loopback(guarded) as server:
        host = server.url.partition("://")[2]
        word = "s3cret" if source == "netrc" else "x"
        (tmp_path / "netrc").write_text(f"machine 127.0.0.1 login ada password {word}\n")
        (tmp_path / "netrc").chmod(0o600)
        for name, value in (("NETRC", str(tmp_path / "netrc")), ("ADA", "ada"), ("WORD", "s3cret")):
            monkeypatch.setenv(name, value)
        user = {"url": "ada:s3cret@", "variables": "$ADA:${WORD}@", "unset": "$ADA:${NO_WORD}@"}.get(source, "")
        answer = create(f"http://{user}{host}", "libb")

    if source in {"wrong", "unset"}:
        assert "401" in answer.message
        way_out = {"wrong": "add credentials for `127.0.0.1` to", "unset": "set `NO_WORD`, which the URL refers to"}
        assert answer.json["hints"][0]["purpose"].startswith(way_out[source])
    else:
        assert answer.packages == WANTED
    if source == "netrc":
        assert "s3cret" not in str(answer.json)
