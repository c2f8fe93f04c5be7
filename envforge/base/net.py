"""Send HTTP requests with the credentials, proxies, certificates, and mirrors that are configured.

A lockfile has the public URL of every file, and the SHA-256 that the bytes of a mirror are checked against.
"""

from __future__ import annotations

import base64
import copy
import netrc
import os
import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin

from msgspec import Struct

from envforge.base.files import regular
from envforge.base.urls import MIRRORS_VARIABLE, VARIABLE, Url, show_url, without_user
from envforge.errors import Hint, OutsideError

if TYPE_CHECKING:
    import ssl

    import urllib3
    from typing_extensions import Self
    from urllib3.response import BaseHTTPResponse

# 304 can't answer a request without conditions, but proxies with a broken cache send it
TRANSIENT = {304, 408, 425, 429, 500, 502, 503, 504}
REJECTED = {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
_REDIRECTS = 5
_LONGEST_WAIT_S = 60.0
_CERTIFICATES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT")
_REASONS = (  # the first that matches is used, so a subclass comes before its base
    ("ProxyError", "could not connect to the proxy"),
    ("NameResolutionError", "could not find the host (no DNS response for its name)"),
    ("NewConnectionError", "could not connect to the host"),
    ("TimeoutError", "the server did not respond in time"),
    ("SSLError", "the certificate of the server is not trusted"),
    ("ProtocolError", "the connection was closed before the server responded"),
)


_LARGEST_TEXT = 32 << 20  # bytes of a page, which a server may have compressed a thousandfold
_LONGEST_NUMBER = 19  # digits


class NetworkError(Exception):
    """A request failed without a response, or the connection was lost; the text is the reason."""


class UntrustedError(NetworkError):
    """The certificate of the server is not trusted."""


class ConnectionLostError(NetworkError):
    """The connection was closed before the end of the response."""


class Response(Struct, frozen=True):
    """The response to a request, whose body is still to be read; ``url`` is the last one after redirects."""

    _raw: BaseHTTPResponse
    url: Url

    @property
    def status(self) -> int:
        """The status code of HTTP."""
        return self._raw.status

    @property
    def summary(self) -> str:
        """The status code with its reason, such as ``404 Not Found``."""
        return f"{self._raw.status} {self._raw.reason or ''}".rstrip()

    @property
    def length(self) -> int | None:
        """The length of the body in bytes, if the server states it."""
        text = self.header("Content-Length")
        return int(text) if text.isdecimal() and len(text) < _LONGEST_NUMBER else None

    @property
    def retry_after_s(self) -> float:
        """The seconds that the server asks to wait before another request."""
        text = self.header("Retry-After")
        return min(float(text), _LONGEST_WAIT_S) if text.isdecimal() else 0.0

    def header(self, name: str) -> str:
        """Return a header; empty if there is none."""
        return self._raw.headers.get(name, "")

    def read(self, amount: int | None = None, *, decode: bool = False) -> bytes:
        """Return the next ``amount`` bytes of the body, or all; raise ``NetworkError`` if the connection is lost."""
        with _network_errors():
            return self._raw.read(amount, decode_content=decode)

    def chunks(self, amount: int) -> Iterator[bytes]:
        """Yield the body in parts."""
        while part := self.read(amount):
            yield part

    def text(self) -> str:
        """Return the complete body, decompressed, as text; raise ``NetworkError`` if it would fill the memory."""
        body = self.read(_LARGEST_TEXT + 1, decode=True)
        if len(body) > _LARGEST_TEXT:
            raise NetworkError(f"the response has more than {_LARGEST_TEXT >> 20} MB")
        return body.decode("utf-8", errors="replace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Return the connection if the body was read, else close it."""
        if self._raw.length_remaining == 0:
            self._raw.drain_conn()  # even an empty body must be read before the next request
        else:
            self._raw.close()
        self._raw.release_conn()


class Client:
    """Send requests; threads share it, and it keeps one pool of connections for each server.

    Credentials come from the URL, from netrc, or, if the server rejects the request, from the keyring. Those in a URL
    apply to all URLs of the same server. ``variables`` limits which environment variables a URL may refer to.
    """

    def __init__(
        self,
        *,
        timeout_s: float | tuple[float, float] = 30.0,
        delays_s: tuple[float, ...] = (),
        connections: int = 8,
        variables: Collection[str] | None = None,
    ) -> None:
        self.timeout_s = timeout_s
        self.delays_s = delays_s
        self._connections = connections
        self._variables = variables
        self._pools: dict[str, urllib3.PoolManager] = {}
        self._accounts: dict[str, tuple[str, str] | None] = {}
        self._guard = threading.Lock()

    def without_retries(self, timeout_s: float | tuple[float, float]) -> Client:
        """Return a client with the same connections and credentials that sends each request once."""
        other = copy.copy(self)
        other.timeout_s, other.delays_s = timeout_s, ()
        return other

    def close(self) -> None:
        """Close the connections that are not in use."""
        for pool in self._pools.values():
            pool.clear()

    def send(
        self, url: str, headers: Mapping[str, str] | None = None, method: str = "GET", *, redirect: bool = True
    ) -> Response:
        """Return the response; after the delays of this client, a request that failed transiently is repeated.

        Raises ``NetworkError`` if there is no response, and ``ValueError`` if ``url`` is not a URL of HTTP.
        """
        parsed = Url.parse(url)
        if parsed.scheme not in {"http", "https"}:
            raise ValueError("it is not an http or https URL")
        for delay_s in self.delays_s:
            try:
                response = self._send(parsed, dict(headers or {}), method, redirect=redirect)
            except NetworkError:
                time.sleep(delay_s)
                continue
            if response.status not in TRANSIENT:
                return response
            response.close()
            time.sleep(max(delay_s, response.retry_after_s))
        return self._send(parsed, dict(headers or {}), method, redirect=redirect)

    def _send(self, url: Url, headers: dict[str, str], method: str, *, redirect: bool) -> Response:
        import urllib3  # noqa: PLC0415 - slow to import, and few commands need the network

        with self._guard:
            pool = self._pools.get(url.origin) or self._pools.setdefault(url.origin, self._open_pool(url))
        known = self._account(url)
        plain = url.without_user().reveal()
        connect_s, read_s = self.timeout_s if isinstance(self.timeout_s, tuple) else (self.timeout_s, self.timeout_s)

        def ask(account: tuple[str, str] | None) -> Response:
            with _network_errors():
                raw = pool.request(
                    method,
                    plain,
                    # not compressed on the way: ranges and checksums count the bytes of the file
                    headers={"Accept-Encoding": "identity", "User-Agent": "envforge", **headers, **_basic(account)},
                    preload_content=False,
                    redirect=redirect,
                    retries=urllib3.Retry(total=None, connect=0, read=0, redirect=_REDIRECTS, status=0, other=0),
                    timeout=urllib3.Timeout(connect=connect_s, read=read_s),
                )
                return Response(raw, Url.parse(urljoin(plain, raw.geturl() or "")))

        response = ask(known)
        if response.status in REJECTED and known is None and (found := self._from_keyring(url)) is not None:
            response.close()
            response = ask(found)
        return response

    def _account(self, url: Url) -> tuple[str, str] | None:
        """Return the user and the password for a URL that need no keyring."""
        given = url.credentials(os.environ, self._variables)
        if given is not None:
            self._accounts[url.origin] = given
        return self._accounts.get(url.origin) or from_netrc(url.host, os.environ)

    def _from_keyring(self, url: Url) -> tuple[str, str] | None:
        with self._guard:  # one dialog, and one look-up, for a server that rejects many requests
            if url.origin not in self._accounts:
                self._accounts[url.origin] = _from_keyring(url)
        return self._accounts[url.origin]

    def _open_pool(self, url: Url) -> urllib3.PoolManager:
        """Return a pool of connections that uses the proxy configured in the environment."""
        import urllib.request  # noqa: PLC0415 - as above

        import urllib3  # noqa: PLC0415 - as above

        context = _certificates(os.environ) if url.scheme == "https" else None
        proxies = urllib.request.getproxies()
        proxy = proxies.get(url.scheme) or proxies.get("all")
        if proxy is None or urllib.request.proxy_bypass(url.host):
            return urllib3.PoolManager(maxsize=self._connections, ssl_context=context, retries=False)
        with _network_errors():
            address = Url.parse(proxy if "://" in proxy else f"http://{proxy}")
            account = address.credentials({})
            headers = urllib3.make_headers(proxy_basic_auth=":".join(account)) if account else None
            return urllib3.ProxyManager(
                address.origin, maxsize=self._connections, proxy_headers=headers, ssl_context=context, retries=False
            )


@contextmanager
def _network_errors() -> Iterator[None]:
    """Convert the errors of urllib3, whose messages may contain a URL."""
    from urllib3 import exceptions  # noqa: PLC0415 - as above

    try:
        yield
    except (exceptions.HTTPError, OSError, ValueError) as error:
        cause: BaseException = error
        if isinstance(error, exceptions.MaxRetryError) and error.reason is not None:
            cause = error.reason
        kinds = [name for name, _ in _REASONS if isinstance(cause, getattr(exceptions, name))]
        reason = dict(_REASONS)[kinds[0]] if kinds else f"could not connect ({type(cause).__name__})"
        named = {exceptions.ProtocolError: ConnectionLostError, exceptions.SSLError: UntrustedError}
        raise next((own for kind, own in named.items() if isinstance(cause, kind)), NetworkError)(reason) from error


def with_credentials(url: str) -> str:
    """Return a URL for another tool, with the user and the password that it or netrc has; others are unchanged."""
    try:
        parsed = Url.parse(url)
    except ValueError:
        return url
    found = parsed.credentials(os.environ) or from_netrc(parsed.host, os.environ)
    if found is None or parsed.scheme not in {"http", "https"}:
        return url
    user = ":".join(quote(word, safe="") for word in found)
    return parsed.without_user().reveal().replace("://", f"://{user}@", 1)


def from_netrc(host: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the user and password of a host in the netrc file; None if the file is missing or invalid."""
    try:
        path = Path(environment.get("NETRC") or Path.home() / ".netrc")
        found = netrc.netrc(regular(path)).authenticators(host)
    except (OSError, ValueError, RuntimeError, netrc.NetrcParseError):  # RuntimeError: there is no home directory
        return None
    return (found[0], found[2]) if found else None


def _from_keyring(url: Url) -> tuple[str, str] | None:
    """Return the user and password of a server in the system keyring, used only after it rejects a request."""
    try:
        import keyring  # noqa: PLC0415 - slow to import, and few servers require credentials

        for service in (url.origin, url.host):
            found = keyring.get_credential(service, None)
            if found is not None:
                return str(found.username), str(found.password)
    except Exception:  # noqa: BLE001 - a backend is a plug-in, and may raise anything
        return None
    return None


def _basic(credentials: tuple[str, str] | None) -> dict[str, str]:
    """Return the header for HTTP basic authentication."""
    if credentials is None:
        return {}
    word = base64.b64encode(":".join(credentials).encode("utf-8", "surrogateescape")).decode()
    return {"Authorization": f"Basic {word}"}


def _certificates(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that trusts the configured certificates, or else those of the system and certifi."""
    import ssl  # noqa: PLC0415 - only for https

    variable = next((name for name in _CERTIFICATES if environment.get(name)), None)
    if variable is not None:
        place = Path(environment[variable])
        try:
            is_folder = regular(place).is_dir()
            return ssl.create_default_context(cafile=None if is_folder else place, capath=place if is_folder else None)
        except OSError as error:
            raise OutsideError(
                f"cannot read the certificates `{place}`, which `{variable}` selects: {error.strerror or error}",
                hint=f"to use the certificates of the system, unset `{variable}`",
                code="bad-certificates",
            ) from error
    import certifi  # noqa: PLC0415 - only for https

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def credentials_hints(url: str, source: str = "") -> tuple[Hint, ...]:
    """Return what helps if the server of ``source``, from which ``url`` is read, rejects the credentials.

    The user and the password of ``url`` may be environment variables, which a mirror doesn't receive.
    """
    source = source or url
    try:
        host, user_info = Url.parse(source).host, Url.parse(url).user_info or ""
    except ValueError:
        return (Hint(f"check the URL `{show_url(source)}`"),)
    names = [match[1] or match[2] for match in VARIABLE.finditer(user_info)]
    unset = [f"`{name}`" for name in names if not os.environ.get(name)]
    if names and without_user(url) == without_user(source):
        found = " and ".join(unset or (f"`{name}`" for name in names))
        return (Hint(f"{'set' if unset else 'check the value of'} {found}, which the URL refers to"),)
    return (Hint(f"add credentials for `{host}` to `~/.netrc` or the keyring"),)


def unreachable_hints(url: str, source: str, error: Exception | None = None) -> tuple[Hint, ...]:
    """Return what helps if the server of ``source``, from which ``url`` is read, doesn't respond."""
    if isinstance(error, UntrustedError):
        return (Hint(f"to trust the certificate authority of `{show_url(source)}`, set `SSL_CERT_FILE=FILE`"),)
    if source != url:
        return (Hint(f"check the mirror URL `{show_url(source)}` in `--mirror` or `{MIRRORS_VARIABLE}`"),)
    try:
        parsed = Url.parse(url)
    except ValueError:
        return (Hint(f"check the URL `{show_url(url)}`"),)
    proxy = _proxy_of(parsed)
    if proxy is None:
        check = Hint(f"check the network connection to `{parsed.host}`; if it requires a proxy, set `HTTPS_PROXY=URL`")
    else:
        check = Hint(
            f"check the proxy `{proxy[1]}`, which `{proxy[0]}` selects; to connect without it, unset `{proxy[0]}`"
        )
    return (check, Hint(f"to download from a mirror, pass `--mirror {parsed.origin}=https://MIRROR`"))


def _proxy_of(url: Url) -> tuple[str, str] | None:
    """Return the variable that selects a proxy for a URL, and its host and port; None if there is none."""
    import urllib.request  # noqa: PLC0415 - slow to import, and only errors need it

    if urllib.request.proxy_bypass(url.host):
        return None
    for wanted in (f"{url.scheme}_proxy", "all_proxy"):
        for name in (wanted, wanted.upper()):
            if os.environ.get(name):
                return name, show_url(os.environ[name]).rpartition("://")[2]
    return None
