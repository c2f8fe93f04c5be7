"""Find the credentials, proxies, and certificates for a server, and apply mirror rules to URLs.

Never log, display, or store them.

A lockfile has the public URL of every file, and the SHA-256 that the bytes of a mirror are checked against.
"""

from __future__ import annotations

import base64
import netrc
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

from envforge.errors import Hint, RequestError

if TYPE_CHECKING:
    import ssl

    import urllib3


def split_credentials(url: str) -> tuple[str, tuple[str, str] | None]:
    """Return a URL without its user and password, and both of them if it has a user."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    host = parts.netloc.rsplit("@", 1)[1]
    clean = urlunsplit(parts._replace(netloc=host))
    return clean, (unquote(parts.username), unquote(parts.password or ""))


def expand(url: str, environment: Mapping[str, str]) -> str:
    """Replace ``$NAME`` and ``${NAME}``, which conda-lock writes into URLs that need credentials."""

    def value(match: re.Match[str]) -> str:
        return environment.get(match[1] or match[2], match[0])

    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", value, url)


def without_credentials(url: str) -> str:
    """Return a URL that may be shown, without user, password, and conda token."""
    shown = re.sub(r"(?<=://)[^/@]*@", "", url)
    return re.sub(r"/t/[^/]+/", "/t/<token>/", shown)


def from_netrc(host: str, environment: Mapping[str, str]) -> tuple[str, str] | None:
    """Return the user and password of a host in the netrc file; None if the file is missing or invalid."""
    path = Path(environment.get("NETRC") or Path.home() / ".netrc")
    try:
        found = netrc.netrc(path).authenticators(host)
    except (OSError, netrc.NetrcParseError):
        return None
    return (found[0], found[2]) if found else None


def from_keyring(url: SplitResult) -> tuple[str, str] | None:
    """Return the user and password of a host in the system keyring, used only after a server rejects a request."""
    import keyring  # noqa: PLC0415 - slow to import, and few servers require credentials
    from keyring.errors import KeyringError  # noqa: PLC0415

    try:
        for service in (f"{url.scheme}://{url.netloc}", url.hostname or ""):
            found = keyring.get_credential(service, None)
            if found is not None:
                return found.username, found.password
    except KeyringError:
        return None
    return None


def basic(credentials: tuple[str, str] | None) -> dict[str, str]:
    """Return the header for HTTP basic authentication."""
    if credentials is None:
        return {}
    word = base64.b64encode(":".join(credentials).encode()).decode()
    return {"Authorization": f"Basic {word}"}


def open_pool(url: str, connections: int) -> urllib3.PoolManager:
    """Return a connection pool for the host of ``url`` that uses the proxy configured in the environment."""
    import urllib.request  # noqa: PLC0415 - only if something is downloaded

    import urllib3  # noqa: PLC0415 - as above

    parts = urlsplit(url)
    context = _certificates(os.environ) if parts.scheme == "https" else None
    proxies = urllib.request.getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if proxy is None or urllib.request.proxy_bypass(parts.hostname or ""):
        return urllib3.PoolManager(maxsize=connections, ssl_context=context, retries=False)
    address, credentials = split_credentials(proxy if "://" in proxy else f"http://{proxy}")
    headers = urllib3.make_headers(proxy_basic_auth=":".join(credentials)) if credentials else None
    return urllib3.ProxyManager(address, maxsize=connections, proxy_headers=headers, ssl_context=context, retries=False)


def _certificates(environment: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that trusts ``SSL_CERT_FILE``, or else the certificates of the system and certifi."""
    import ssl  # noqa: PLC0415 - only for https

    if environment.get("SSL_CERT_FILE"):
        return ssl.create_default_context(cafile=environment["SSL_CERT_FILE"])
    import certifi  # noqa: PLC0415 - only for https

    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


MIRRORS_VARIABLE = "ENVFORGE_MIRRORS"
_RULE = re.compile(r"(?P<original>[a-z][a-z0-9+]*://[^=\s]+)=(?P<replacement>[a-z][a-z0-9+]*:/[^\s]+)")


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Pairs of URL prefixes (original, replacement); the first match applies."""

    rules: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, texts: Iterable[str]) -> Mirrors:
        """Parse ``FROM=TO`` rules; raise ``RequestError`` for anything else."""
        rules = []
        for text in texts:
            match = _RULE.fullmatch(text)
            if match is None:
                raise RequestError(
                    f"`{text}` is not a mirror rule; expected `FROM=TO` with two URLs",
                    hint="write a rule such as `https://conda.anaconda.org=https://MIRROR/conda`",
                    code="bad-mirror",
                )
            rules.append((match["original"].rstrip("/"), match["replacement"].rstrip("/")))
        return cls(tuple(rules))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Mirrors:
        """Parse the rules in ``ENVFORGE_MIRRORS``, separated by whitespace."""
        return cls.parse(environment.get(MIRRORS_VARIABLE, "").split())

    def to_environment(self) -> str:
        """Return the value of ``ENVFORGE_MIRRORS`` that passes these rules to a child process."""
        return " ".join(f"{original}={replacement}" for original, replacement in self.rules)

    def to_mirror(self, url: str) -> str:
        """Return the URL to download ``url`` from."""
        return _replace(url, self.rules)

    def to_original(self, url: str) -> str:
        """Return the URL to record for a file that was downloaded from ``url``."""
        return _replace(url, tuple((replacement, original) for original, replacement in self.rules))


def unreachable_hints(url: str, source: str) -> tuple[Hint, ...]:
    """Return what helps if the server of ``source``, from which ``url`` is read, doesn't respond.

    Both URLs are shown, so neither may contain credentials.
    """
    if source != url:
        return (Hint(f"check the mirror URL `{source}` in `--mirror` or `{MIRRORS_VARIABLE}`"),)
    parts = urlsplit(url)
    proxy = _proxy_of(parts)
    if proxy is None:
        check = Hint(
            f"check the network connection to `{parts.hostname}`; if it requires a proxy, set `HTTPS_PROXY=URL`"
        )
    else:
        check = Hint(
            f"check the proxy `{proxy[1]}`, which `{proxy[0]}` selects; to connect without it, unset `{proxy[0]}`"
        )
    return (check, Hint(f"to download from a mirror, pass `--mirror {parts.scheme}://{parts.netloc}=https://MIRROR`"))


def _proxy_of(parts: SplitResult) -> tuple[str, str] | None:
    """Return the variable that selects a proxy for a URL, and its host and port; None if there is none."""
    import urllib.request  # noqa: PLC0415 - slow to import, and only errors need it

    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    for wanted in (f"{parts.scheme}_proxy", "all_proxy"):
        for name in (wanted, wanted.upper()):
            if os.environ.get(name):
                return name, os.environ[name].rpartition("@")[2].rpartition("://")[2]
    return None


def _replace(url: str, rules: tuple[tuple[str, str], ...]) -> str:
    for beginning, other in rules:
        # not a bare prefix: `https://host/pkgs` must not match `https://host/pkgs-old`
        if url == beginning or url.startswith(f"{beginning}/"):
            return other + url[len(beginning) :]
    return url


CREDENTIALS = re.compile(
    r"://[^/@\s:$]+:[^/@\s$]+@"  # user and password; `$VARIABLE` is allowed
    r"|://[^/\s]+/t/[^/\s$]+/"  # a conda token directly after the host
    r"|/t/[a-z]{2}-[0-9a-f]{8}-[0-9a-f-]+/"  # a token of anaconda.org, anywhere in the path
    r"|[?&](?:token|sig|signature|X-Amz-[A-Za-z]+)=",
    re.IGNORECASE,
)


CREDENTIALS = re.compile(
    r"://[^/@\s:$]+:[^/@\s$]+@"  # user and password; `$VARIABLE` is allowed
    r"|://[^/\s]+/t/[^/\s$]+/"  # a conda token directly after the host
    r"|/t/[a-z]{2}-[0-9a-f]{8}-[0-9a-f-]+/"  # a token of anaconda.org, anywhere in the path
    r"|[?&](?:token|sig|signature|X-Amz-[A-Za-z]+)=",
    re.IGNORECASE,
)
