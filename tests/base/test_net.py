"""Test the HTTP client: credentials, redirects, retries, certificates, and mirrors."""

from __future__ import annotations

import base64
import gzip
import socket
from pathlib import Path

import keyring
import keyring.backend
import keyring.credentials
import pytest
from urllib3 import HTTPResponse

from envforge.base import net
from envforge.base.net import Client, NetworkError, UntrustedError, credentials_hints, unreachable_hints
from envforge.base.urls import Mirrors, Url
from envforge.errors import OutsideError
from tests.support.loopback import Fault, Loopback, Request, Response


def header(user: str) -> str:
    return f"Basic {base64.b64encode(user.encode()).decode()}"


class Guarded:
    """A server that returns the file only with ``ada:s3cret``, and lists what it received."""

    def __init__(self) -> None:
        self.received: list[str | None] = []

    def __call__(self, request: Request) -> Response:
        self.received.append(request.headers.get("authorization"))
        is_known = self.received[-1] == header("ada:s3cret")
        return Response(body=b"text") if is_known else Response(body=b"", status=401)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    return tmp_path


@pytest.mark.parametrize("user", ["ada:s3cret@", "$ADA:${WORD}@", "ada:s3%63ret@"])
def test_credentials_of_a_url_apply_to_all_urls_of_its_server(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADA", "ada")
    monkeypatch.setenv("WORD", "s3cret")
    guarded, client = Guarded(), Client()
    with Loopback(guarded) as server:
        assert client.send(server.url.replace("://", f"://{user}")).read() == b"text"
        assert client.send(f"{server.url}/other").read() == b"text"
    assert guarded.received == [header("ada:s3cret")] * 2


def test_netrc_is_used_without_a_first_rejection(home: Path) -> None:
    (home / ".netrc").write_text("machine 127.0.0.1 login ada password s3cret\n")
    (home / ".netrc").chmod(0o600)
    guarded = Guarded()
    with Loopback(guarded) as server:
        assert Client().send(server.url).status == 200
    assert guarded.received == [header("ada:s3cret")]


class OneAccount(keyring.backend.KeyringBackend):
    """A keyring with one account, which counts the look-ups."""

    priority = -1.0
    asked = 0
    is_open = False  # keyring queries every class that exists, in the tests of other modules, too

    def get_password(self, service: str, username: str) -> str | None:
        return None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def get_credential(self, service: str, username: str | None) -> keyring.credentials.Credential | None:
        self.asked += 1
        return None if not self.is_open else keyring.credentials.SimpleCredential("ada", "s3cret")


def test_keyring_is_read_once_after_a_rejection() -> None:
    before, account = keyring.get_keyring(), OneAccount()  # type: ignore[no-untyped-call] # keyring's own signature
    account.is_open = True
    keyring.set_keyring(account)
    guarded, client = Guarded(), Client()
    try:
        with Loopback(guarded) as server:
            assert [client.send(server.url).status for _ in range(3)] == [200] * 3
    finally:
        keyring.set_keyring(before)
    assert guarded.received == [None, *[header("ada:s3cret")] * 3]
    assert account.asked == 1


def test_keyring_that_fails_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(service: str, username: str | None) -> None:
        raise RuntimeError("no bus")

    monkeypatch.setattr(keyring, "get_credential", fail)
    with Loopback(Guarded()) as server:
        assert Client().send(server.url).status == 401


def test_password_that_is_not_unicode_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORD", "\udcff")  # the byte FF, as Python reads it from the environment
    guarded = Guarded()
    with Loopback(guarded) as server:
        assert Client().send(server.url.replace("://", "://ada:$WORD@")).status == 401
    assert guarded.received == [f"Basic {base64.b64encode(b'ada:' + bytes([255])).decode()}"]


def test_page_that_would_fill_the_memory_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(net, "_LARGEST_TEXT", 1 << 20)
    bomb = Response(body=gzip.compress(bytes(2 << 20)), headers={"Content-Encoding": "gzip"})
    with Loopback(lambda request: bomb) as server, pytest.raises(NetworkError, match="more than 1 MB"):
        Client().send(server.url).text()


def test_length_of_thousands_of_digits_is_unknown() -> None:
    raw = HTTPResponse(headers={"Content-Length": "9" * 5000})
    assert net.Response(raw, Url.parse("http://host/")).length is None


def test_redirect_to_another_server_has_no_credentials() -> None:
    other = Guarded()
    with Loopback(other) as target:
        moved = Response(body=b"", status=302, headers={"Location": f"{target.url}/x"})
        with Loopback(lambda _: moved) as server:
            response = Client().send(server.url.replace("://", "://ada:s3cret@"))
        assert response.url.reveal() == f"{target.url}/x"
    assert (response.status, other.received) == (401, [None])


def test_variable_in_the_path_is_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "s3cret")
    with Loopback(lambda _: Response(body=b"")) as server:
        Client().send(f"{server.url}/$SECRET/${{SECRET}}/x?$SECRET")
        (request,) = server.requests
    assert "s3cret" not in f"{request.path}{request.query}"


def test_transient_failures_are_repeated(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    with Loopback(tmp_path) as server:
        server.fail("/file", Fault(status=503), times=2)
        assert Client(delays_s=(0.0, 0.0)).send(f"{server.url}/file").read() == b"text"
        server.fail("/file", Fault(status=503))
        assert Client(delays_s=(0.0,)).send(f"{server.url}/file").status == 503
    assert len(server.requests) == 5


@pytest.mark.parametrize("url", ["http://[::1", "file:///x", "ftp://host/", "name", "http://host:port/"])
def test_other_url_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"^it "):
        Client().send(url)


def test_server_that_is_not_there_is_a_network_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(NetworkError, match=r"^could not connect to the host$"):
        Client().send(f"http://ada:s3cret@127.0.0.1:{port}/")


def test_certificates_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    with pytest.raises(OutsideError, match="cannot read the certificates"):
        Client().send("https://127.0.0.1:1/")


def test_mirror_rule_matches_a_url_with_credentials() -> None:
    mirrors = Mirrors.parse(["https://host.example=https://mirror.example/x"])

    assert mirrors.to_mirror("https://$USER:$WORD@host.example/a") == "https://mirror.example/x/a"
    assert mirrors.to_mirror("https://joe:pw@other.example/a") == "https://joe:pw@other.example/a"


def test_hints_contain_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me@corp.example:p@s3cret@proxy.example:3128")
    url = "https://joe:s3cret@host.example/x?token=s3cret"

    assert "s3cret" not in str(unreachable_hints(url, url))
    assert "`proxy.example:3128`" in str(unreachable_hints(url, url))
    assert "s3cret" not in str(unreachable_hints(url, "https://u:s3cret@mirror.example/"))


def test_untrusted_certificate_has_its_own_hint() -> None:
    (hint,) = unreachable_hints("https://host.example/x", "https://host.example/x", UntrustedError("not trusted"))
    assert str(hint) == "to trust the certificate authority of `https://host.example/x`, set `SSL_CERT_FILE=FILE`"


def test_rejected_credentials_have_a_hint_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_USER", "ada")
    url = "https://$LAB_USER:${LAB_PASSWORD}@h.example/x"
    assert [hint.purpose for hint in credentials_hints(url)] == ["set `LAB_PASSWORD`, which the URL refers to"]
    monkeypatch.setenv("LAB_PASSWORD", "wrong")
    checked = "check the value of `LAB_USER` and `LAB_PASSWORD`, which the URL refers to"
    assert [hint.purpose for hint in credentials_hints(url)] == [checked]
    stored = "add credentials for `{}` to `~/.netrc` or the keyring"
    assert credentials_hints(url, "https://mirror.example/x")[0].purpose == stored.format("mirror.example")
    assert credentials_hints("https://ada:s3cret@h.example/x")[0].purpose == stored.format("h.example")
