"""Check the disk space before anything is unpacked, using the sizes that the packages state."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from envforge.errors import Hint, OutsideError
from envforge.install.archive import unpacked_bytes
from envforge.install.fetch import Fetched
from envforge.install.store import Store

_PLENTY = 20  # packages unpack to 2 to 6 times their size, so with this much free space no sizes have to be read


def check_room(fetched: Iterable[Fetched], prefix: Path, store: Store) -> None:
    """Raise ``OutsideError`` if unpacking, or copying into the prefix, would fill the disk.

    Packages that are already unpacked in the cache need no more space there. Files are linked, not copied, if the cache
    and the prefix are on the same disk. A ``.tar.bz2`` doesn't state its unpacked size, so the size of the archive is
    used.
    """
    chosen = tuple(fetched)
    plenty = _PLENTY * sum(item.path.stat().st_size for item in chosen)
    if min(shutil.disk_usage(_existing(place)).free for place in (store.root, prefix)) > plenty:
        return
    fresh = (item for item in chosen if not (store.conda / _stem(item)).is_dir())
    _need(store.root, sum(unpacked_bytes(item.path) for item in fresh), "to unpack the packages")
    if _device(store.root) != _device(prefix):
        total = sum(unpacked_bytes(item.path) for item in chosen)
        _need(prefix, total, "to copy the packages into the environment, which is on another disk than the cache")


def _stem(item: Fetched) -> str:
    return item.path.name.removesuffix(".conda").removesuffix(".tar.bz2")


def _device(path: Path) -> int:
    return _existing(path).stat().st_dev


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _need(path: Path, wanted: int, purpose: str) -> None:
    folder = _existing(path)
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise OutsideError(
            f"not enough disk space in `{folder}` {purpose}: expected {wanted / 1e6:.0f} MB, found {free / 1e6:.0f} MB",
            hint=(
                Hint("to remove cached packages", "envforge clean"),
                Hint("to put the cache on another disk, pass `--cache DIR`"),
            ),
            code="disk-full",
        )
