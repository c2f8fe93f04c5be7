"""Access catalogues in object stores and on web servers.

Only one publisher at a time can create the marker object, which contains its name. It is created with ``mode="create"``
(fsspec 2024.10), which the drivers map to a conditional write of the store.

It uses the same HTTP client as packages: proxies, ``SSL_CERT_FILE``, and credentials from netrc and the keyring.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from msgspec import Struct, field

from envforge.base.net import Client, NetworkError
from envforge.catalogue.address import Address
from envforge.catalogue.directory import Addition, add
from envforge.catalogue.index import INDEX_FILE
from envforge.errors import EnvforgeError, OutsideError, RequestError, printable

_MARKER = ".index.lock"
_DRIVERS = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "sftp": "paramiko"}
_EXTRAS = {"s3fs": "s3", "gcsfs": "gs"}
_LONGEST_BYTES = 1 << 28
_LONGEST_NAME = 200  # bytes of a publisher's name that an error shows
_TOO_LONG = f"the file has more than {_LONGEST_BYTES >> 20} MB"


class ObjectCatalogue(Struct, frozen=True, kw_only=True):
    """A catalogue at ``base`` in the fsspec file system ``store``; ``root`` is the local copy."""

    address: Address
    root: Path
    store: Any
    base: str
    wait_s: float = 60.0

    def bring(self, name: str) -> None:
        """Copy one file to ``root``."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with self._named(f"read `{name}` of"):
            data = self.store.cat_file(f"{self.base}/{name}", start=0, end=_LONGEST_BYTES + 1)
            if len(data) > _LONGEST_BYTES:
                raise OverflowError
            path.write_bytes(data)

    def publish(self, addition: Addition) -> bool:
        """Add an entry while holding the marker; returns False if the same entry already exists."""
        with self._turn(str(addition.row["published"]["by"])), self._named("publish to"):
            if self.store.exists(f"{self.base}/{INDEX_FILE}"):
                self.bring(INDEX_FILE)
            if not add(self.address, self.root, addition):
                return False
            # the index last, so that readers never find an entry without its file
            for name in (*addition.files, INDEX_FILE):
                path = f"{self.base}/{name}"
                self.store.makedirs(path.rpartition("/")[0], exist_ok=True)
                self.store.pipe_file(path, (self.root / name).read_bytes())
            return True

    @contextmanager
    def _turn(self, publisher: str) -> Iterator[None]:
        marker = f"{self.base}/{_MARKER}"
        until = time.monotonic() + self.wait_s
        with self._named("publish to"):
            self.store.makedirs(self.base, exist_ok=True)
            while not self._take(marker, publisher):
                if time.monotonic() > until:
                    holder = printable(
                        self.store.cat_file(marker, start=0, end=_LONGEST_NAME).decode("utf-8", "replace")
                    )
                    raise OutsideError(
                        f"`{holder}` has been publishing to `{self.address.public}` for more than {self.wait_s:.0f} s",
                        hint="run the command again; if that publication was interrupted, remove the object "
                        f"`{_MARKER}` next to `{INDEX_FILE}`",
                        code="catalogue-busy",
                    )
                time.sleep(min(0.5, self.wait_s))
        try:
            yield
        finally:
            with self._named("publish to"):
                self.store.rm_file(marker)

    def _take(self, marker: str, publisher: str) -> bool:
        try:
            # stores that support it create the object only if there is none, which makes it a lock
            self.store.pipe_file(marker, publisher.encode(), mode="create")
        except FileExistsError:
            return False
        return True

    @contextmanager
    def _named(self, what: str) -> Iterator[None]:
        """Replace the errors of a driver, whose messages may contain credentials, by an error with the catalogue."""
        try:
            yield
        except EnvforgeError:
            raise
        except Exception as error:
            raise _failed(what, self.address, error) from error


def open_objects(address: Address, root: Path) -> ObjectCatalogue:
    """Open an object store with fsspec and the driver for its scheme."""
    scheme = address.location.split("://", 1)[0]
    try:
        core = importlib.import_module("fsspec.core")
        # without a cache of listings, which would hide what another publisher has added
        store, base = core.url_to_fs(address.location, use_listings_cache=False)
    except ImportError as error:
        from envforge.base.distribution import extra_command  # noqa: PLC0415 - only for hints

        driver = _DRIVERS.get(scheme, "fsspec")
        extra = _EXTRAS.get(driver)
        raise EnvforgeError(
            f"`{address.public}` requires the Python package `{driver}`, which is not installed",
            hint="to install it" if extra else f"install `{driver}` in the environment of envforge",
            command=extra_command(extra) if extra else "",
            code="no-driver",
        ) from error
    except ValueError as error:
        raise EnvforgeError(
            f"unknown URL scheme `{scheme}://` of a catalogue",
            hint="use a directory, or a URL that starts with git+https://, https://, s3://, or gs://",
            code="bad-catalogue-address",
        ) from error
    except Exception as error:
        raise _failed("open", address, error) from error
    return ObjectCatalogue(address=address, root=root, store=store, base=str(base).rstrip("/"))


def _failed(what: str, address: Address, error: Exception) -> EnvforgeError:
    reasons: dict[type[Exception], str] = {FileNotFoundError: "the object does not exist", OverflowError: _TOO_LONG}
    # only the type: messages of drivers may contain credentials
    why = next((reason for kind, reason in reasons.items() if isinstance(error, kind)), type(error).__name__)
    return OutsideError(
        f"failed to {what} the catalogue `{address.public}`: {why}",
        hint="check the URL, and the credentials that the driver reads",
        code="catalogue-unreachable",
    )


class WebCatalogue(Struct, frozen=True, kw_only=True):
    """A catalogue on a web server; ``root`` is the local copy."""

    address: Address
    root: Path
    client: Client = field(default_factory=lambda: Client(timeout_s=10.0, delays_s=(0.5, 1.0)))

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
        try:
            with self.client.send(url) as response:
                data = response.read(_LONGEST_BYTES + 1)
        except (NetworkError, ValueError) as error:
            raise self._failed(name, str(error)) from error
        if response.status != HTTPStatus.OK:
            raise self._failed(name, f"the server returned {response.summary}")
        if len(data) > _LONGEST_BYTES:
            raise self._failed(name, _TOO_LONG)
        return data

    def _failed(self, name: str, reason: str) -> EnvforgeError:
        return OutsideError(
            f"failed to read `{name}` of the catalogue `{self.address.public}`: {reason}",
            hint="check the URL, which must be the one of the directory that contains `index.json`",
            code="catalogue-unreachable",
        )
