"""Unpack conda packages, check what was unpacked, and link it into a prefix.

rattler unpacks an archive into a directory of the cache. The files are checked there, before the prefix changes, and
checked again only if they changed.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import rattler
from msgspec import Struct
from msgspec.structs import replace
from rattler import exceptions
from rattler.package_cache import PackageCache, PackageCacheLayer, ValidationMode
from rattler.package_streaming import extract

from envforge.base.files import current_umask, file_lock
from envforge.base.urls import show_url
from envforge.errors import EnvforgeError, OutsideError, printable
from envforge.lock.plan import Artifact, Digest, record_name
from envforge.prefix.cache import (
    CACHE_HINTS,
    Store,
    Tree,
    Unpacked,
    digest_of,
    hash_file,
    note_tree,
    read_tree,
    standing_tree,
)
from envforge.prefix.conda_history import with_request
from envforge.prefix.fetch import Fetched
from envforge.prefix.installed import (
    check_inside,
    check_site_packages,
    conda_records,
    load_record,
    noarch_place,
    save_record,
)
from envforge.prefix.journal import record_fault
from envforge.prefix.package_checks import (
    INFO,
    SHORTEST_PLACEHOLDER,
    archive_damaged,
    check_path,
    check_unpacked,
    placeholders,
    read_programs,
)
from envforge.prefix.values import InstallProgress, InstallRequest

# of rattler, which have no common base: which of them an invalid file raises isn't documented
_ERRORS: tuple[type[Exception], ...] = (
    *(each for each in vars(exceptions).values() if isinstance(each, type) and issubclass(each, Exception)),
    OSError,
    ValueError,
)
_PROBE_BYTES = 1 << 20


class Archive(Struct, frozen=True, kw_only=True):
    """A verified conda archive with its record, and what was unpacked from it into ``folder`` and checked.

    The modules of an archive with ``is_noarch`` are linked into the site-packages of any Python, and ``programs`` are
    written for its entry points.
    """

    item: Fetched
    record: rattler.RepoDataRecord
    is_noarch: bool
    tree: Tree
    folder: Path
    programs: tuple[str, ...]


def standing_archive(artifact: Artifact, store: Store, *, reread: bool = False) -> Archive | None:
    """Return a package that was unpacked and checked before, unless a file of it changed.

    With ``reread``, its files are compared with the checksums in its ``info/paths.json``, too.
    """
    path, kept = store.path(artifact), store.unpacked(artifact)
    folder = store.conda_folder(artifact)
    tree = standing_tree(folder, path) if kept is not None else None
    if kept is None or tree is None or (reread and not _is_intact(folder, tree, kept)):
        return None
    item = Fetched(artifact=artifact, path=path, downloaded_bytes=0)
    return _archive(item, _read_record(item, folder, kept), tree, folder)


def _is_intact(folder: Path, tree: Tree, kept: Unpacked) -> bool:
    """Return whether the files of a package have the checksums of its archive; not if it states none."""
    if not kept.record or _paths_sha256(folder) != kept.record:
        return False
    rows = {row.relative_path.as_posix(): row for row in rattler.PathsJson.from_package_directory(folder).paths}
    stated = {name: row.sha256.hex() for name, row in rows.items() if row.sha256 and name not in tree.links}
    return all(hash_file(str(folder / name), hashlib.sha256()) == digest for name, digest in stated.items())


def _paths_sha256(folder: Path) -> bytes:
    path = folder / INFO / "paths.json"
    return hash_file(str(path), hashlib.sha256()).encode() if path.is_file() else b""


def _archive(item: Fetched, record: rattler.RepoDataRecord, tree: Tree, folder: Path) -> Archive:
    is_noarch = record.noarch.python
    programs = read_programs(item.artifact, folder) if is_noarch else ()
    return Archive(item=item, record=record, is_noarch=is_noarch, tree=tree, folder=folder, programs=programs)


def unpack(item: Fetched, store: Store, platform: str) -> Archive:
    """Unpack an archive next to its directory in the cache, check, rename, and remove the archive.

    So the directory contains nothing unchecked. Raises ``EnvforgeError`` if the archive is not the locked package, or
    not safe to link.
    """
    folder = store.conda_folder(item.artifact)
    fresh = folder.with_name(".fresh")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(store.conda, error) from error
    with file_lock(folder.with_name(".unpacking")):
        shutil.rmtree(fresh, ignore_errors=True)
        try:
            extract(item.path, fresh)
            now_ns = time.time_ns()
            tree = read_tree(fresh, umask=current_umask())
            kept = Unpacked(
                size=item.path.stat().st_size,
                sha256=_sha256(item),
                unpacked_bytes=tree.size,
                record=_paths_sha256(fresh),
            )
            check_unpacked(item.artifact, fresh, tree, platform)
            record = _read_record(item, fresh, kept)
            archive = replace(_archive(item, record, tree, fresh), folder=folder)
            _replace(folder, fresh)
        except _ERRORS as error:
            _check_writable(store.conda)
            store.evict(item.artifact)
            raise archive_damaged(item.artifact, _causes(error)) from error
        except EnvforgeError:
            store.evict(item.artifact)
            raise
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    store.note_unpacked(item.artifact, kept)
    store.remove_archive(item.artifact)
    note_tree(tree, item.path, now_ns)
    return archive


def _sha256(item: Fetched) -> str:
    locked = item.artifact.package.sha256
    return locked or digest_of(item.path, Digest(algorithm="sha256", hex="")).hex


def _replace(folder: Path, fresh: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink()
    elif folder.exists():
        shutil.rmtree(folder)
    # a directory can't be renamed over one that isn't empty, so the old one had to go first
    fresh.rename(folder)


def _check_writable(folder: Path) -> None:
    """Raise ``OutsideError`` if a directory can't be written; rattler's errors have no code that tells it."""
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(bytes(_PROBE_BYTES))
    except OSError as error:
        raise _unwritable(folder, error) from error


def _unwritable(folder: Path, error: OSError) -> OutsideError:
    return OutsideError(
        f"cannot unpack packages into `{folder}`: {error.strerror or error}", hint=CACHE_HINTS, code="unpack-failed"
    )


def _read_record(item: Fetched, folder: Path, kept: Unpacked) -> rattler.RepoDataRecord:
    """Return the record of an unpacked package; raise ``EnvforgeError`` if it is not the locked package."""
    locked = item.artifact.package
    digests = {"sha256": kept.sha256, **({"md5": locked.md5} if locked.md5 else {})}
    try:
        record = rattler.PackageRecord.from_index_json(folder / INFO / "index.json", size=kept.size, **digests)
    except _ERRORS as error:
        raise archive_damaged(item.artifact, f"its record is not readable: {_causes(error)}") from error
    # as written, because rattler panics if the name in a lockfile differs from it only in case
    found = (record.name.source, str(record.version))
    # rattler derives paths in its cache and in conda-meta from name, version, and build
    if found != (locked.name, locked.version) or f"{'-'.join(found)}-{record.build}" != record_name(item.artifact):
        raise EnvforgeError(
            f"`{item.artifact.file_name}` contains another package than the lockfile states: expected "
            f"`{locked.name} {locked.version}`, found `{' '.join(found)}`, build `{printable(str(record.build))}`",
            hint="to lock again",
            command="envforge lock",
            code="archive-differs",
        )
    if "-" in f"{record.version}{record.build}":  # another package could have the same record in conda-meta
        raise archive_damaged(item.artifact, f"its version `{record.version}` or build `{record.build}` contains `-`")
    if record.python_site_packages_path is not None:
        check_path(item.artifact, record.python_site_packages_path)
    return rattler.RepoDataRecord(record, item.path.name, item.path.as_uri(), item.path.parent.as_uri())


def check_linkable(
    archives: Iterable[Archive], prefix: Path, platform: str, python: rattler.PackageRecord | None
) -> None:
    """Raise ``EnvforgeError`` if rattler can't link packages into ``prefix``, which would then be incomplete."""
    try:
        length = len(str(prefix).encode())
    except UnicodeEncodeError as error:
        raise EnvforgeError(
            f"conda packages can't be linked into `{printable(str(prefix))}`: the path is not valid UTF-8",
            hint="to use another directory, pass `--prefix DIR`",
            code="prefix-unsuitable",
        ) from error
    chosen = tuple(archives)
    label = next((archive.item.artifact.label for archive in chosen if archive.is_noarch), "")
    if (label and python is None) or (python is not None and python.version.as_major_minor() is None):
        found = f"found `python {python.version}`" if python else "found none"
        raise EnvforgeError(
            f"`{label or 'python'}` requires a conda package `python` with a version such as `3.12`, {found}",
            hint="to add Python to environment.yml and lock again",
            command="envforge add python",
            code="no-python",
        )
    if length <= SHORTEST_PLACEHOLDER or platform.startswith("win-"):
        return
    for archive in chosen:
        most = min(map(len, placeholders(archive.folder)), default=length)
        if most < length:
            raise EnvforgeError(
                f"`{prefix}` is too long for `{archive.item.artifact.label}`: expected at most {most} bytes, "
                f"found {length}",
                hint="to use a directory with a shorter path, pass `--prefix DIR`",
                code="prefix-unsuitable",
            )


def link(
    archives: Iterable[Archive],
    removed: Iterable[str],
    specs: Mapping[str, str],
    store: Store,
    request: InstallRequest,
    progress: InstallProgress,
) -> None:
    """Link ``archives`` into the prefix and unlink ``removed``; other packages are unchanged.

    ``specs`` are the requested packages with their constraints. ``progress`` must be in a step that counts packages.
    """
    chosen = tuple(archives)
    try:
        with _view(chosen, store) as view:
            asyncio.run(_link(chosen, frozenset(removed), view, request, progress))
    except BaseException as error:
        # a panic of rattler is no `Exception`, and its type can't be imported
        if not isinstance(error, _ERRORS) and type(error).__name__ != "PanicException":
            raise
        raise OutsideError(
            f"failed to link packages into `{request.prefix}`: {_causes(error)}",
            code="link-failed",
        ) from error
    for archive in chosen:
        artifact = archive.item.artifact
        _complete_record(artifact, request.prefix, specs.get(artifact.package.name), store.conda_folder(artifact))


@contextmanager
def _view(archives: Iterable[Archive], store: Store) -> Iterator[Path]:
    """Yield a directory in which rattler finds the packages, and only those, by the names of their records.

    So another install of a package with the same name and other bytes can't exchange them before they are linked.
    """
    is_writable = os.access(store.conda, os.W_OK)
    # after a failure, threads of rattler may still write there
    folder = store.conda if is_writable else None
    with tempfile.TemporaryDirectory(dir=folder, prefix=".link-", ignore_cleanup_errors=True) as name:
        for archive in archives:
            artifact = archive.item.artifact
            folder, place = store.conda_folder(artifact), Path(name, record_name(artifact))
            if sys.platform == "win32":  # where links need a privilege, and junctions don't
                import _winapi  # noqa: PLC0415 - only Windows has it

                _winapi.CreateJunction(str(folder), str(place))
            else:
                place.symlink_to(folder)
        yield Path(name)


async def _link(
    archives: tuple[Archive, ...],
    removed: frozenset[str],
    view: Path,
    request: InstallRequest,
    progress: InstallProgress,
) -> None:
    names = {archive.record.name.normalized for archive in archives}
    installed = read_records(request.prefix)
    noarch = [one for one in installed if one.noarch.python and one.name.normalized in names | removed]
    if noarch and _place_files(noarch, request.prefix, _site_packages_in(installed, request.platform)):
        installed = read_records(request.prefix)
    kept = [record for record in installed if record.name.normalized not in names | removed]
    for record in installed:
        if record not in kept:  # rattler deletes its files
            listed = f"the record of `{record.name.normalized}` in `conda-meta`"
            check_inside(request.prefix, map(Path.as_posix, record.files), listed)
    # everything was unpacked and checked before, so rattler needn't read it again
    cache = PackageCache.from_layers([PackageCacheLayer(view).with_validation_mode(ValidationMode.skip())])
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


def _place_files(records: Iterable[rattler.PrefixRecord], prefix: Path, site_packages: str) -> bool:
    """Write the paths in the prefix into records that conda wrote with those in the archive; return whether any did.

    rattler deletes the files by these paths.
    """
    is_changed = False
    for record in records:
        path = prefix / "conda-meta" / f"{record.name.normalized}-{record.version}-{record.build}.json"
        document = load_record(path)
        rows = document["paths_data"]["paths"]
        placed = [{**row, "_path": noarch_place(row["_path"], site_packages)} for row in rows]
        if placed != rows:
            document["paths_data"]["paths"] = placed
            save_record(path, document)
            is_changed = True
    return is_changed


def _site_packages_in(installed: Iterable[rattler.PrefixRecord], platform: str) -> str:
    python = next((record for record in installed if record.name.normalized == "python"), None)
    return site_packages_path(python, platform) if python is not None else "site-packages"


def site_packages_path(python: rattler.PackageRecord, platform: str) -> str:
    """Return the path of site-packages in a prefix with this Python."""
    minor = ".".join(str(python.version).split(".")[:2])
    default = "Lib/site-packages" if platform.startswith("win-") else f"lib/python{minor}/site-packages"
    stated = python.python_site_packages_path
    return default if stated is None else stated  # empty means the prefix itself, as for rattler


def read_records(prefix: Path, name: str = "") -> tuple[rattler.PrefixRecord, ...]:
    """Return the conda packages of a prefix; with ``name``, only those whose names start with it.

    Raises ``EnvforgeError`` that names the first invalid record.
    """

    def read(path: Path) -> rattler.PrefixRecord:
        try:
            record = rattler.PrefixRecord.from_path(path)
        except _ERRORS as error:
            raise record_fault(path, prefix, _causes(error)) from error
        check_site_packages(path, record.python_site_packages_path)
        return record

    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(read, conda_records(prefix, name)))


def _complete_record(artifact: Artifact, prefix: Path, spec: str | None, folder: Path) -> None:
    """Complete the record that rattler wrote as conda does: the request, the locked URL, and no hashes of links."""
    path = prefix / "conda-meta" / f"{record_name(artifact)}.json"
    url = show_url(artifact.package.url)
    record = with_request(load_record(path), spec)
    record |= {"fn": artifact.file_name, "url": url, "channel": url.rsplit("/", 2)[0]}
    # rattler recorded a directory that is gone
    record |= {"extracted_package_dir": str(folder), "link": record["link"] | {"source": str(folder)}}
    rows = {row["_path"]: row for row in record["paths_data"]["paths"]}
    for name, row in rows.items():
        if row["path_type"] == "softlink":
            # rattler records the hash of the link's text, which conda takes for a change of the file
            row.pop("sha256_in_prefix", None)
            arrived = os.path.relpath(os.path.realpath(prefix / name), os.path.realpath(prefix))
            target = rows.get(Path(arrived).as_posix(), {})
            if digest := target.get("sha256_in_prefix") or target.get("sha256"):
                row["sha256_in_prefix"] = digest  # of a link to a directory, conda accepts no hash, and no null either
    path.unlink()  # for its mode is 0600, and other users of the prefix must read it
    save_record(path, record)


class _Reporter(rattler.InstallerReporter):
    """Report the number of linked packages."""

    def __init__(self, progress: InstallProgress) -> None:
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
