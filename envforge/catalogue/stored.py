"""Find and verify the lockfiles of a catalogue.

The key of an entry is the hash of the input that its lockfile was solved from (``spec.input_sha256``). A lockfile is
verified against the index, and the URLs of the configured package index are inserted.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from envforge.base.files import regular
from envforge.catalogue.index import (
    INDEX_FILE,
    PLACEHOLDER,
    Entry,
    fault,
    unreadable,
)

if TYPE_CHECKING:
    from envforge.lock.lockfile import LockedPackage
    from envforge.lock.python_index import Located, PythonIndex, SimplePages


def read_stored(entry: Entry, python_index: PythonIndex, say: Callable[[str], None] | None = None) -> str:
    """Return the text of a stored lockfile with complete URLs; ``say`` receives where the wheels will come from.

    Raises ``CatalogueError`` if the file differs from the one in the index, and ``EnvforgeError`` if the package index
    has a file of the same name with another hash.
    """
    text = verified_text(entry)
    return fill(text, str(entry.path), python_index, say)


def filled(text: str, where: str, say: Callable[[str], None]) -> str:
    """Return ``text`` with the URLs of the configured package index; without placeholders, return it unchanged."""
    if PLACEHOLDER not in text:
        return text
    from envforge.lock.python_index import configured_index  # noqa: PLC0415 - many lockfiles have no wheel from it

    return fill(text, where, configured_index(os.environ, Path.home(), Path(sys.prefix)), say)


def fill(text: str, where: str, python_index: PythonIndex, say: Callable[[str], None] | None = None) -> str:
    """Replace each placeholder URL in a lockfile with the URL of that file on ``python_index``."""
    from envforge.lock.python_index import SimplePages  # noqa: PLC0415 - as above

    packages = _registry_packages(text, where)
    pages = SimplePages()
    hows: dict[str, int] = {}
    for package in packages:
        located = _locate(package, where, python_index, pages)
        # replaced in the text, not in parsed YAML, so that all other bytes of the lockfile are preserved
        text = text.replace(package.url, located.url)
        hows[located.how] = hows.get(located.how, 0) + 1
    if say is not None:
        for how, count in hows.items():
            files = "1 file" if count == 1 else f"{count} files"
            index = f"{python_index.public_url} ({python_index.source})"
            say(f"{files} from the package index {index}; URLs from {how}")
    return text


def verified_text(entry: Entry) -> str:
    """Return the text of a stored lockfile; raise ``CatalogueError`` if its SHA-256 differs from the index."""
    where = entry.root / INDEX_FILE
    # the index is checked for `..`, but a symlink can still lead outside
    if not entry.path.resolve().is_relative_to(entry.root.resolve()):
        raise fault(entry.path, "", "a file inside the catalogue", f"a symlink to {entry.path.resolve()}")
    try:
        raw = regular(entry.path).read_bytes()
    except OSError as error:
        raise unreadable(entry.path, error) from error
    found = hashlib.sha256(raw).hexdigest()
    if found != entry.sha256:
        raise fault(entry.path, "", f"SHA-256 {entry.sha256} from {where}", f"SHA-256 {found}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise fault(entry.path, "", "UTF-8", str(error)) from error


def _registry_packages(text: str, where: str) -> tuple[LockedPackage, ...]:
    from envforge.lock.lockfile import parse_lockfile  # noqa: PLC0415 - as above

    lock = parse_lockfile(text, where)
    return tuple({p.url: p for p in lock.packages if p.url.startswith(PLACEHOLDER)}.values())


def _locate(package: LockedPackage, where: str, python_index: PythonIndex, pages: SimplePages) -> Located:
    from envforge.lock.python_index import locate  # noqa: PLC0415 - as above

    if package.sha256 is None:
        raise fault(Path(where), f"package `{package.name}`", "a sha256", "none")
    return locate(package.url.removeprefix(PLACEHOLDER), package.sha256, python_index, pages)
