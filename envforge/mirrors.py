"""Download from mirrors but record the public URLs, by rules ``FROM=TO`` on the start of a URL.

A lockfile has the public URL of every file, and the SHA-256 that the bytes of a mirror are checked against.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from envforge.errors import Hint, RequestError

VARIABLE = "ENVFORGE_MIRRORS"
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
        return cls.parse(environment.get(VARIABLE, "").split())

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
        return (Hint(f"check the mirror URL `{source}` in `--mirror` or `{VARIABLE}`"),)
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
