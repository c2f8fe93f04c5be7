"""Find the credentials (URL, netrc, keyring), proxies, and certificates for a server.

Never log, display, or store them.
"""

from __future__ import annotations

import base64
import netrc
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, unquote, urlsplit, urlunsplit

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
