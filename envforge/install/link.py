"""The conda half: py-rattler links checked archives into the prefix (effects).

rattler unpacks each archive once into its own cache. What was unpacked before is read against the archive's list before
it is linked, and unpacked again where it differs; it is not read where all its files are those that were seen whole
(``seen``).
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import rattler
from rattler.exceptions import ExtractError, InstallerError, LinkError
from rattler.package_cache import PackageCache, PackageCacheLayer, ValidationMode

from envforge.errors import EnvforgeError, OutsideError
from envforge.install.credentials import without_credentials
from envforge.install.fetch import Fetched
from envforge.install.plan import record_name
from envforge.install.seen import folder_stands, note_folder
from envforge.install.store import Store
from envforge.install.values import InstallRequest, Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class Archive:
    """A checked conda archive with its record, noarch and all.

    ``unpacked`` is where rattler unpacks it. ``is_claimed`` says that the record was found there, and not yet whether
    what lies there was seen whole and has not changed: ``link`` looks, and then knows whether it ``stands``.
    """

    item: Fetched
    record: rattler.RepoDataRecord
    unpacked: Path
    is_claimed: bool
    stands: bool = False


def read_archives(fetched: Iterable[Fetched], store: Store, *, reread: bool = False) -> tuple[Archive, ...]:
    """Read the record of each archive; raises ``EnvforgeError`` where it is another package than the lock says."""

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
    """The record as it was unpacked; None where the archive's sha256, which belongs into it, was not read."""
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
    """The record that is in the archive; raises ``EnvforgeError`` where that is not the package of the lock."""
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
    """The archive, with what can be said of its unpacked files; what does not stand claims nothing."""
    stands = not request.reread and folder_stands(archive.unpacked, archive.item.path)
    if stands or not archive.is_claimed:
        return replace(archive, stands=stands)
    return replace(archive, record=await _own_record(archive.item), is_claimed=False)


def link(
    archives: Iterable[Archive], removed: Iterable[str], store: Store, request: InstallRequest, progress: Progress
) -> None:
    """Link ``archives`` into the prefix and unlink ``removed``; packages that are named in neither stay untouched.

    ``progress`` has begun a step that counts packages.
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
    """Link, and return what was linked as it was found."""
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
    """The conda packages of a prefix; with a name, those whose names begin with it."""
    paths = sorted((prefix / "conda-meta").glob(f"{name}*.json"))
    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(rattler.PrefixRecord.from_path, paths))


def _record_origins(archives: tuple[Archive, ...], prefix: Path) -> None:
    """Write the lock's address into conda-meta, where rattler has put the cached file's."""
    for item in (archive.item for archive in archives):
        path = prefix / "conda-meta" / f"{record_name(item.artifact)}.json"
        url = without_credentials(item.artifact.package.url)
        head, mark, rest = path.read_bytes().partition(b'\n  "files": [')
        text = head.decode("utf-8")
        for key, value in (("fn", item.artifact.file_name), ("url", url), ("channel", url.rsplit("/", 2)[0])):
            text = _with_value(text, key, value)
        path.write_bytes(text.encode("utf-8") + mark + rest)


def _with_value(text: str, key: str, value: str) -> str:
    """Replace one value of the outermost object, which rattler writes one key a line; the rest is not parsed."""
    changed, count = re.subn(
        rf'^  "{key}": .*?(,?)$', lambda match: f'  "{key}": {json.dumps(value)}{match[1]}', text, flags=re.MULTILINE
    )
    if count != 1:
        raise ValueError(f"rattler wrote a record with {count} lines for `{key}`")
    return changed


class _Reporter(rattler.InstallerReporter):
    """Tells how many packages are linked."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_link_complete(self, index: int) -> None:
        self._progress.advance(1)


def _causes(error: BaseException) -> str:
    """The message of an error with those that led to it, on one line."""
    texts = []
    step: BaseException | None = error
    while step is not None:
        texts.append(" ".join(str(step).split()))
        step = step.__cause__
    return ": ".join(dict.fromkeys(texts))
