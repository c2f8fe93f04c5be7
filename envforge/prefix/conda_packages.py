"""Link conda packages into a prefix, and recognize unpacked files that are unchanged.

Each archive in the cache has a file ``ARCHIVE.seen`` next to it. For a conda package, it contains one checksum over the
listing of the unpacked files; for a wheel, one line per file. The listing doesn't contain the ctime, which each hard
link changes. Docs: decisions/0115.

rattler unpacks each archive once into its own cache. A package that was unpacked earlier is verified against the file
list of its archive, and is unpacked again if it differs. It isn't read if all its files are unchanged since they were
last verified (``seen``).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import rattler
from rattler.exceptions import ExtractError, InstallerError, LinkError
from rattler.package_cache import PackageCache, PackageCacheLayer, ValidationMode

from envforge.base.urls import show_url
from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.plan import record_name
from envforge.prefix.cache import Store
from envforge.prefix.fetch import Fetched
from envforge.prefix.journal import write_atomic_bytes
from envforge.prefix.values import InstallRequest, Progress

_TICK_NS = 20_000_000  # twice the longest clock tick of Linux (HZ=100)
_COARSE_NS = 2_000_000_000  # for file systems that store whole seconds
_SECOND_NS = 1_000_000_000
_SCHEMA = "envforge seen 2"


class Seen(NamedTuple):
    """Identity of a file's content. A tuple, because a wheel has tens of thousands of files."""

    size: int
    mtime_ns: int
    inode: int


def settled_before(mtimes_ns: Iterable[int], now_ns: int) -> int:
    """Return the limit below which an mtime can't come from a change after ``now_ns``, in nanoseconds.

    A later change could fall into the same clock tick as the previous one, and leave the mtime as it was.
    """
    fine = any(mtime_ns % _SECOND_NS for mtime_ns in mtimes_ns)
    return now_ns - (_TICK_NS if fine else _COARSE_NS)


def mark(archive: Path) -> Path:
    """Return the path of the ``.seen`` file of an archive."""
    return archive.with_name(f"{archive.name}.seen")


def folder_stands(folder: Path, archive: Path) -> bool:
    """Return whether all files of an unpacked conda package are unchanged since they were last verified."""
    try:
        noted = mark(archive).read_text(encoding="ascii")
        return noted == _noted(_listing(folder)[0])
    except (OSError, UnicodeDecodeError):
        return False


def note_folder(folder: Path, archive: Path, whole_at_ns: int) -> None:
    """Record an unpacked package that was intact at ``whole_at_ns``, unless a file may have changed since then."""
    rows, times_ns = _listing(folder)
    if max(times_ns, default=0) < settled_before(times_ns, whole_at_ns):
        _write(mark(archive), _noted(rows))


def _listing(folder: Path) -> tuple[list[str], list[int]]:
    """Return a row for each file below a directory (path, target, size, mtime, inode, mode), and all mtimes.

    Uses plain strings instead of ``Path``, because an environment has tens of thousands of files.
    """
    rows, times_ns, waiting = [], [], [("", str(folder))]
    while waiting:
        beginning, place = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append((f"{beginning}{entry.name}/", entry.path))
                    continue
                state = entry.stat(follow_symlinks=False)
                target = os.readlink(entry.path) if entry.is_symlink() else ""  # noqa: PTH115 - Path is slow
                facts = f"{state.st_size} {state.st_mtime_ns} {state.st_ino} {state.st_mode}"
                rows.append(f"{beginning}{entry.name}\0{target}\0{facts}")
                times_ns.append(state.st_mtime_ns)
    return rows, times_ns


def _noted(rows: list[str]) -> str:
    text = "\0\0".join(sorted(rows))
    return f"{_SCHEMA}\n{hashlib.sha256(text.encode('utf-8', 'surrogateescape')).hexdigest()}\n"


def read_files(archive: Path) -> dict[str, Seen]:
    """Return the recorded files of a wheel by their names in it; empty if there is no valid record."""
    try:
        head, *lines = mark(archive).read_text(encoding="utf-8").split("\n")
        if head != _SCHEMA:
            return {}
        rows = (line.split(" ", 3) for line in lines if line)
        return {name: Seen(int(size), int(mtime_ns), int(inode)) for size, mtime_ns, inode, name in rows}
    except (OSError, ValueError):
        return {}


def note_files(archive: Path, files: Mapping[str, Seen], whole_at_ns: int) -> None:
    """Record the files of a wheel that were intact at ``whole_at_ns``.

    A file that may have changed since then is recorded with values that never match.
    """
    latest = settled_before((seen.mtime_ns for seen in files.values()), whole_at_ns)
    rows = (seen if seen.mtime_ns < latest else Seen(seen.size, -1, -1) for seen in files.values())
    lines = (f"{seen.size} {seen.mtime_ns} {seen.inode} {name}\n" for name, seen in zip(files, rows, strict=True))
    _write(mark(archive), f"{_SCHEMA}\n{''.join(lines)}")


def _write(path: Path, text: str) -> None:
    """Write the record if the cache is writable; if a crash loses it, the files are read again."""
    if os.access(path.parent, os.W_OK):
        write_atomic_bytes(path, text.encode("utf-8"), synced=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A verified conda archive with its record.

    rattler unpacks it to ``unpacked``. ``is_claimed`` means that the record was read there, before the unpacked files
    were checked. ``stands`` means that they were checked and are unchanged since they were last verified.
    """

    item: Fetched
    record: rattler.RepoDataRecord
    unpacked: Path
    is_claimed: bool
    stands: bool = False


def read_archives(fetched: Iterable[Fetched], store: Store, *, reread: bool = False) -> tuple[Archive, ...]:
    """Read the record of each archive; raise ``EnvforgeError`` if it is not the locked package."""

    async def read_all() -> tuple[Archive, ...]:
        return tuple(await asyncio.gather(*(_read(item, store, reread=reread) for item in fetched)))

    return asyncio.run(read_all())


async def _read(item: Fetched, store: Store, *, reread: bool) -> Archive:
    unpacked = store.conda / record_name(item.artifact)
    claimed = None if reread else _claimed_record(item, unpacked)
    if claimed is not None and _is_locked(claimed, item):
        return Archive(item=item, record=claimed, unpacked=unpacked, is_claimed=True)
    return Archive(item=item, record=await _own_record(item), unpacked=unpacked, is_claimed=False)


def _claimed_record(item: Fetched, unpacked: Path) -> rattler.RepoDataRecord | None:
    """Return the record of the unpacked package; None if it can't be read or the lockfile has no SHA-256."""
    digest = item.artifact.digest
    if digest.algorithm != "sha256":
        return None
    size = item.path.stat().st_size
    try:
        record = rattler.PackageRecord.from_index_json(unpacked / "info" / "index.json", size=size, sha256=digest.hex)
    except (OSError, ValueError):
        return None
    return rattler.RepoDataRecord(record, item.path.name, item.path.as_uri(), item.path.parent.as_uri())


async def _own_record(item: Fetched) -> rattler.RepoDataRecord:
    """Return the record in the archive; raise ``EnvforgeError`` if it is not the locked package."""
    try:
        record = await rattler.RepoDataRecord.from_package_archive(item.path)
    except (ExtractError, OSError, ValueError) as error:
        raise EnvforgeError(
            f"`{item.artifact.file_name}` has the locked checksum, but its record is not readable: {_causes(error)}",
            hint="once environment.yml excludes this build",
            command="envforge lock",
            code="archive-damaged",
        ) from error
    if not _is_locked(record, item):
        locked = item.artifact.package
        raise EnvforgeError(
            f"`{item.artifact.file_name}` contains another package than the lockfile states: expected "
            f"`{locked.name} {locked.version}`, found `{record.name.normalized} {record.version}`",
            hint="to lock again",
            command="envforge lock",
            code="archive-differs",
        )
    if item.artifact.digest.algorithm == "md5":
        record.md5 = bytes.fromhex(item.artifact.digest.hex)
    return record


def _is_locked(record: rattler.RepoDataRecord, item: Fetched) -> bool:
    locked = item.artifact.package
    return (record.name.normalized, str(record.version)) == (locked.name, locked.version)


async def _looked_at(archive: Archive, request: InstallRequest) -> Archive:
    """Check the unpacked files of an archive; if they can't be trusted, use the record in the archive."""
    stands = not request.reread and folder_stands(archive.unpacked, archive.item.path)
    if stands or not archive.is_claimed:
        return replace(archive, stands=stands)
    return replace(archive, record=await _own_record(archive.item), is_claimed=False)


def link(
    archives: Iterable[Archive], removed: Iterable[str], store: Store, request: InstallRequest, progress: Progress
) -> None:
    """Link ``archives`` into the prefix and unlink ``removed``; other packages are unchanged.

    ``progress`` must be in a step that counts packages.
    """
    began_ns = time.time_ns()
    try:
        chosen = asyncio.run(_link(tuple(archives), frozenset(removed), store, request, progress))
    except (InstallerError, LinkError, OSError) as error:
        raise OutsideError(
            f"failed to link packages into `{request.prefix}`: {_causes(error)}",
            hint="fix the cause; the next attempt reuses the downloaded files",
            code="link-failed",
        ) from error
    _record_origins(chosen, request.prefix)
    for archive in chosen:
        if not archive.stands:
            note_folder(archive.unpacked, archive.item.path, began_ns)


async def _link(
    claimed: tuple[Archive, ...], removed: frozenset[str], store: Store, request: InstallRequest, progress: Progress
) -> tuple[Archive, ...]:
    """Link the archives and return them with the result of the check of their unpacked files."""
    archives = tuple([await _looked_at(archive, request) for archive in claimed])
    names = {archive.record.name.normalized for archive in archives}
    installed = read_records(request.prefix)
    kept = [record for record in installed if record.name.normalized not in names | removed]
    to_read = any(archive.unpacked.exists() and not archive.stands for archive in archives)
    mode = ValidationMode.full() if to_read else ValidationMode.skip()
    cache = PackageCache.from_layers([PackageCacheLayer(store.conda).with_validation_mode(mode)])
    await rattler.install(
        [*(archive.record for archive in archives), *kept],
        request.prefix,
        installed_packages=list(installed),
        reinstall_packages=names & {record.name.normalized for record in installed},
        platform=rattler.Subdir(request.platform),
        execute_link_scripts=request.run_scripts,
        package_cache=cache,
        reporter=_Reporter(progress),  # type: ignore[abstract] # its methods are optional
        show_progress=False,
    )
    return archives


def read_records(prefix: Path, name: str = "") -> tuple[rattler.PrefixRecord, ...]:
    """Return the conda packages of a prefix; with ``name``, only those whose names start with it."""
    paths = sorted((prefix / "conda-meta").glob(f"{name}*.json"))
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(rattler.PrefixRecord.from_path, paths))


def _record_origins(archives: tuple[Archive, ...], prefix: Path) -> None:
    """Write the locked URLs into conda-meta, where rattler has recorded the paths in the cache."""
    for item in (archive.item for archive in archives):
        path = prefix / "conda-meta" / f"{record_name(item.artifact)}.json"
        url = show_url(item.artifact.package.url)
        head, mark, rest = path.read_bytes().partition(b'\n  "files": [')
        text = head.decode("utf-8")
        for key, value in (("fn", item.artifact.file_name), ("url", url), ("channel", url.rsplit("/", 2)[0])):
            text = _with_value(text, key, value)
        path.write_bytes(text.encode("utf-8") + mark + rest)


def _with_value(text: str, key: str, value: str) -> str:
    """Replace one value of the top-level object without parsing the rest; rattler writes one key per line."""
    changed, count = re.subn(
        rf'^  "{key}": .*?(,?)$', lambda match: f'  "{key}": {json.dumps(value)}{match[1]}', text, flags=re.MULTILINE
    )
    if count != 1:
        raise ValueError(f"rattler wrote a record with {count} lines for `{key}`")
    return changed


class _Reporter(rattler.InstallerReporter):
    """Report the number of linked packages."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_link_complete(self, index: int) -> None:
        self._progress.advance(1)


def _causes(error: BaseException) -> str:
    """Return the messages of an error and its causes on one line."""
    texts = []
    step: BaseException | None = error
    while step is not None:
        texts.append(" ".join(str(step).split()))
        step = step.__cause__
    return ": ".join(dict.fromkeys(texts))
