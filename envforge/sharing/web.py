"""Read a catalogue from a web server: copy its index and the requested files to a directory. Publishing fails.

It uses the same HTTP client as packages: proxies, ``SSL_CERT_FILE``, and credentials from netrc and the keyring.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from urllib3.exceptions import HTTPError

from envforge.errors import EnvforgeError, OutsideError, RequestError
from envforge.install.transfer import Wire
from envforge.install.values import Retry, Silent
from envforge.sharing.address import Address
from envforge.sharing.folder import Addition

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True, slots=True)
class WebCatalogue:
    """A catalogue on a web server; ``root`` is the local copy."""

    address: Address
    root: Path
    retry: Retry = Retry(delays_s=(0.5, 1.0), timeout_s=10.0)  # noqa: RUF009 - frozen

    def bring(self, name: str) -> None:
        """Copy one file to ``root``."""
        url = f"{self.address.location}/{quote(name)}"
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self._get(url, name))

    def publish(self, addition: Addition) -> bool:
        """Raise ``RequestError``, because a web server is read-only."""
        raise RequestError(
            f"can't publish to `{self.address.public}`: a web server only serves files",
            hint="to publish to the directory, repository, or bucket behind the server, pass `--catalogue URL`",
            code="read-only-catalogue",
        )

    def _get(self, url: str, name: str) -> bytes:
        wire = Wire(
            address=str, retry=self.retry, progress=Silent(), stop=threading.Event(), pools={}, guard=threading.Lock()
        )
        reason = ""
        for delay in (0.0, *self.retry.delays_s):
            wire.stop.wait(delay)
            try:
                response = wire.get(url, {})
                data = response.read(_LONGEST_BYTES + 1, decode_content=False)
                response.release_conn()
            except HTTPError as error:
                reason = f"could not connect ({type(error).__name__})"
                continue
            if response.status == 200 and len(data) <= _LONGEST_BYTES:
                return data
            reason = f"the server returned {response.status} {response.reason or ''}".rstrip()
            if response.status not in _PASSING:
                break
        raise self._failed(name, reason)

    def _failed(self, name: str, reason: str) -> EnvforgeError:
        return OutsideError(
            f"failed to read `{name}` of the catalogue `{self.address.public}`: {reason}",
            hint="check the URL, which must be the one of the directory that contains `index.json`",
            code="catalogue-unreachable",
        )
