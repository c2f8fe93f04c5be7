"""Link verified conda archives into the prefix with py-rattler.

rattler unpacks each archive once into its own cache. A package that was unpacked earlier is verified against the file
list of its archive, and is unpacked again if it differs. It isn't read if all its files are unchanged since they were
last verified (``seen``).
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
        url = without_credentials(item.artifact.package.url)
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
