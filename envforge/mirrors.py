"""Download from mirrors but record the public URLs, by rules ``FROM=TO`` on the start of a URL.

A lockfile has the public URL of every file, and the SHA-256 that the bytes of a mirror are checked against.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from envforge.errors import RequestError

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


def _replace(url: str, rules: tuple[tuple[str, str], ...]) -> str:
    for beginning, other in rules:
        # not a bare prefix: `https://host/pkgs` must not match `https://host/pkgs-old`
        if url == beginning or url.startswith(f"{beginning}/"):
            return other + url[len(beginning) :]
    return url
