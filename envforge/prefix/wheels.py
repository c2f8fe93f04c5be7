"""Build source distributions, and install wheels with uv.

uv unpacks each wheel once into its own cache and trusts that cache. envforge doesn't: it compares the installed files
with the ``RECORD`` of the locked wheel. If a file differs, it removes the wheel from uv's cache, downloads it, and
installs it again. It doesn't read files that uv has just unpacked from the verified wheel, or that are unchanged since
they were last verified (``seen``).

Build requirements come from the user's package index and are not locked, so the result can differ between machines.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.utils import canonicalize_name, parse_wheel_filename

from envforge.base.files import write_atomic
from envforge.base.urls import hide_secrets
from envforge.errors import Hint, OutsideError
from envforge.lock.plan import Artifact, Digest, wheel_of
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.cache import Store, Unpacked, digest_of, hash_file, identity, note_files, read_files
from envforge.prefix.conda_packages import read_records, site_packages_path
from envforge.prefix.fetch import Fetched
from envforge.prefix.installed import (
    check_removable,
    distribution_name,
    distributions,
    installed,
    read_record,
    sha256_of_row,
)
from envforge.prefix.journal import mark_writing, recreate_command
from envforge.prefix.package_checks import check_wheel, refused
from envforge.prefix.relay import Relay, index_url, loopback_works, wheel_url
from envforge.prefix.values import InstallProgress, progress_step
from envforge.prefix.venv import venv_program, venv_site_packages

_BATCH = 200
_NOT_FOR_UV = re.compile(r"(UV|PIP)_|PYTHON|(VIRTUAL_ENV|CONDA_PREFIX|\w+_PROXY)$", re.IGNORECASE)


class Site(Struct, frozen=True, kw_only=True):
    """Paths of the Python of a prefix."""

    prefix: Path
    packages: Path
    program: Path


def find_site(prefix: Path, platform: str) -> Site:
    """Return the site-packages of the prefix's Python; raise ``OutsideError`` if it has no Python."""
    of_venv = venv_site_packages(prefix)
    if of_venv is not None:
        return Site(prefix=prefix, packages=prefix / of_venv, program=venv_program(prefix))
    program = prefix / ("python.exe" if platform.startswith("win-") else "bin/python")
    python = next((record for record in read_records(prefix, "python-") if record.name.normalized == "python"), None)
    if python is None or not program.exists():
        raise OutsideError(
            f"the lockfile has wheels, but `{prefix}` has no conda package `python` to install them for",
            hint="to add Python to environment.yml and lock again",
            command="envforge add python",
            code="no-python",
        )
    return Site(prefix=prefix, packages=prefix / site_packages_path(python, platform), program=program)


class Batch(Struct, frozen=True, kw_only=True):
    """Wheels that are installed together. Files unpacked since ``began_ns`` came from verified wheels.

    With ``reread``, all files are read, even if they were unpacked just now or verified before. ``renew`` brings wheels
    into the cache again.
    """

    wheels: tuple[Fetched, ...]
    site: Site
    store: Store
    progress: InstallProgress
    renew: Callable[[tuple[Artifact, ...]], object]
    reread: bool = False
    began_ns: int = field(default_factory=time.time_ns)


def install_wheels(batch: Batch) -> None:
    """Install wheels over existing distributions of the same names."""
    if not batch.wheels:
        return
    check_places(batch.wheels, batch.site, batch.store, _on_disk(batch.site))
    with progress_step(batch.progress, "installing wheels", len(batch.wheels), "packages"):
        _install(batch)
        batch.progress.advance(len(batch.wheels))


def check_places(wheels: Iterable[Fetched], site: Site, store: Store, resolve: Callable[[str], str | None]) -> None:
    """Raise ``EnvforgeError`` if links lead files of a wheel to a place outside the prefix.

    ``resolve`` returns where a directory is in the prefix, or None if it is outside or reserved.
    """
    known: set[str] = set()
    for item in wheels:
        _check_folders(item, folders_of(item, site, store), site, resolve, known)


def folders_of(item: Fetched, site: Site, store: Store) -> set[str]:
    """Return the directories to which uv may write files of a wheel."""
    folders = _kept(item, store).folders
    places = (_place(folder, site) for folder in folders)
    headers = (place.rpartition("/")[0] for folder in folders for place in _header_places(f"{folder}/", item, site))
    return {str(site.program.parent), *filter(None, places), *headers}


def _check_written(batch: Batch) -> None:
    """Raise ``EnvforgeError`` if uv recorded that it wrote a file of a wheel to a place outside the prefix."""
    items = {wheel_of(item.artifact).name: item for item in batch.wheels}
    resolve, known = _on_disk(batch.site), set[str]()
    for record in batch.site.packages.glob("*.dist-info/RECORD"):
        item = items.get(distribution_name(record.parent))
        if item is not None:
            names = {name.rpartition("/")[0] for name, _, _ in read_record(record.read_bytes())}
            _check_folders(item, {f"{batch.site.packages}/{name}" for name in names}, batch.site, resolve, known)


def _check_folders(
    item: Fetched, folders: set[str], site: Site, resolve: Callable[[str], str | None], known: set[str]
) -> None:
    """Check the directories of files unless they are in ``known``, to which they are added."""
    for folder in folders - known:
        known.add(folder)
        if resolve(folder) is None:
            name = os.path.relpath(folder, site.prefix)
            raise refused(item.artifact, name, "is a directory that leads outside the environment")


def _on_disk(site: Site) -> Callable[[str], str | None]:
    """Return a function for ``check_places`` that follows the links in the prefix."""
    root = os.path.realpath(site.prefix)
    reserved = (f"{root}/conda-meta/", f"{root}/{ENVFORGE_DIRECTORY}/")
    plain = {root}  # directories whose paths contain no links; `realpath` looks at each part of each path again

    def arrive(folder: str) -> str:
        above, found = folder.rstrip("/"), set[str]()
        while above not in plain:
            found.add(above)
            above, name = os.path.split(above)
            if name in {"", ".", ".."} or os.path.islink(f"{above}/{name}"):  # noqa: PTH114 - a Path for each is slow
                return os.path.realpath(folder)
        plain.update(found)
        return folder.rstrip("/")

    def resolve(folder: str) -> str | None:
        arrived = f"{arrive(folder)}/"
        return arrived if arrived.startswith(f"{root}/") and not arrived.startswith(reserved) else None

    return resolve


def stand_alone(batch: Batch) -> bool:
    """Return whether each wheel of a batch is installed once, by uv, and not by a conda package too."""
    names = sorted(wheel_of(item.artifact).name for item in batch.wheels)
    found = sorted(entry for entry in distributions(batch.site.packages) if entry[0] in names)
    return found == [(name, "uv") for name in names]


def uninstall(names: Iterable[str], site: Site, store: Store) -> None:
    """Remove distributions that pip or uv installed."""
    chosen = sorted(names)
    if chosen:
        check_removable(site.prefix, chosen)
        words = ["pip", "uninstall", "--break-system-packages", "--python", str(site.program), *chosen]
        with mark_writing(site.prefix) as inherited:
            _uv(words, store, inherited)


def verify_wheels(batch: Batch) -> None:
    """Compare installed files with their wheels, and reinstall wheels that differ once.

    Raises ``OutsideError`` if a file still differs, and ``EnvforgeError`` if uv wrote a file outside the prefix.
    """
    # uv has no hook between reading and writing, and could read a wheel in another way than `check_wheel`
    _check_written(batch)
    bad = damaged(batch)
    if not bad:
        return
    names = [wheel_of(item.artifact).name for item in bad]
    batch.progress.note(f"uv's cache of {', '.join(names)} is corrupt; removing it and installing them again")
    _uv(["cache", "clean", *names], batch.store)
    # the modification times of these files are not to be trusted any more
    again = replace(batch, wheels=tuple(bad), reread=True)
    _renew(again)
    _install(again)
    still = damaged(again)
    if still:
        raise OutsideError(
            "\n".join(
                f"`{path}` differs from the locked wheel of `{item.artifact.label}`" for item, path in still.items()
            ),
            hint="check the disk for errors; to create the environment again",
            command=recreate_command(batch.site.prefix),
            code="installed-file-differs",
        )


def damaged(batch: Batch) -> dict[Fetched, str]:
    """Return the wheels that have an installed file that differs, each with the first such file."""
    found = {}
    with progress_step(batch.progress, "checking wheels", len(batch.wheels), "packages"), ThreadPoolExecutor() as pool:
        for item in batch.wheels:
            wrong = _first_damaged(item, batch, pool)
            if wrong is not None:
                found[item] = wrong
            batch.progress.advance(1)
    return found


def _first_damaged(item: Fetched, batch: Batch, pool: ThreadPoolExecutor) -> str | None:
    """Return the first installed file of a wheel that differs; if all files match, record them as verified."""
    known = {} if batch.reread else read_files(item.path)
    if known and _are_unchanged(known, batch.site):
        return None
    now_ns = time.time_ns()
    rows = tuple(_expected(item, batch))
    states = {row.name: state for row in rows if (state := _state(row.place)) is not None}
    unread = [row for row in rows if batch.reread or not _is_trusted(row, states.get(row.name), known, batch.began_ns)]
    parts = [unread[start : start + _BATCH] for start in range(0, len(unread), _BATCH)]
    wrong = next((path for path in pool.map(_first_difference, parts) if path is not None), None)
    # a file with one link is a copy, which no other prefix shares
    if (
        wrong is None
        and states.keys() == {row.name for row in rows}
        and all(state.st_nlink > 1 for state in states.values())
    ):
        note_files(item.path, states, now_ns)
    return wrong


class WheelFile(NamedTuple):
    """A file that a wheel installs unchanged. A tuple, because a wheel has tens of thousands of files."""

    name: str
    place: str
    sha256: str
    size: int


def _state(place: str | None) -> os.stat_result | None:
    try:
        return os.stat(place or "")  # noqa: PTH116 - a Path for each file is slow
    except OSError:
        return None


def _are_unchanged(known: Mapping[str, str], site: Site) -> bool:
    try:
        return all(identity(os.stat(_place(name, site) or "")) == seen for name, seen in known.items())  # noqa: PTH116 - as above
    except OSError:
        return False


def _is_trusted(row: WheelFile, state: os.stat_result | None, known: dict[str, str], began_ns: int) -> bool:
    """Return whether a file needn't be read.

    It was verified and is unchanged, or uv has just unpacked it into its cache and checked its CRC-32. A copy, which
    has one link, is never trusted for its mtime: it is as new as this install, whatever it was copied from.
    """
    if state is None:
        return False
    is_new = state.st_nlink > 1 and state.st_mtime_ns >= began_ns and state.st_size == row.size
    return is_new or known.get(row.name) == identity(state)


def _expected(item: Fetched, batch: Batch) -> Iterator[WheelFile]:
    """Yield each file that the wheel installs unchanged."""
    for name, digest, size in read_record(_kept(item, batch.store).record):
        place, sha256 = _place(name, batch.site), sha256_of_row(digest)
        if place is not None and sha256 is not None:
            yield WheelFile(name, place, sha256, int(size) if size.isdecimal() and len(size) < 20 else -1)


def _kept(item: Fetched, store: Store) -> Unpacked:
    """Return what is known of a checked wheel; one that uv has not unpacked before is checked again."""
    return store.unpacked(item.artifact) or check_wheel(item.path, item.artifact)


def _place(name: str, site: Site) -> str | None:
    """Return where a member of a wheel is installed; None for scripts, whose first line is rewritten, and headers."""
    top, _, rest = name.partition("/")
    if not top.endswith(".data"):
        return f"{site.packages}/{name}"
    kind, _, path = rest.partition("/")
    places = {"purelib": site.packages, "platlib": site.packages, "data": site.prefix}
    return f"{places[kind]}/{path}" if kind in places else None


def _header_places(name: str, item: Fetched, site: Site) -> Iterator[str]:
    """Yield where installers place a member if it is a header, which depends on how their Python was built."""
    _, is_header, path = name.partition(".data/headers/")
    if is_header:
        python, wheel = site.packages.parent.name, wheel_of(item.artifact).name
        for include in ("include", "Include", f"include/{python}", f"include/site/{python}"):
            for folder in (wheel, wheel.replace("-", "_")):
                yield f"{site.prefix}/{include}/{folder}/{path}"


def _first_difference(rows: list[WheelFile]) -> str | None:
    """Return the first path whose file is missing or has another SHA-256."""
    for _, path, wanted, _ in rows:
        if not Path(path).is_file() or hash_file(path, hashlib.sha256()) != wanted:
            return path
    return None


def unpack_wheels(wheels: Iterable[Artifact], store: Store, python: tuple[str, ...], relay: Relay | None) -> Path:
    """Let uv unpack wheels into its cache, for the Python that the options ``python`` state.

    uv has no command for that, so they are installed into a directory, which costs only hard links. The caller removes
    it. Raises ``OutsideError`` if uv fails. Without a relay, it succeeds only if uv has unpacked them before.
    """
    store.uv.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".envforge-", dir=store.uv))
    try:
        _uv_pip_install(wheels, ["--target", str(folder), *python], store, relay)
    except BaseException:
        shutil.rmtree(folder)
        raise
    return folder


def _install(batch: Batch) -> None:
    """Install wheels with uv, from its cache if possible."""
    artifacts = tuple(item.artifact for item in batch.wheels)
    # a Python that is marked as externally managed (PEP 668) would reject any change
    words = ["--break-system-packages", "--python", str(batch.site.program)]
    replaced = installed(batch.site.prefix) & {wheel_of(artifact).name for artifact in artifacts}
    if replaced:
        check_removable(batch.site.prefix, replaced)
        words.append("--reinstall")
    with mark_writing(batch.site.prefix) as inherited:
        if all(batch.store.unpacked(artifact) for artifact in artifacts):
            try:
                _uv_pip_install(artifacts, words, batch.store, None, inherited)
            except OutsideError:
                if _is_unpacked(batch):
                    raise
                _renew(batch)
            else:
                return
        with Relay(artifacts, batch.store) as relay:
            for item in batch.wheels:
                relay.complete(item.path)
            _uv_pip_install(artifacts, words, batch.store, relay, inherited)
    for item in batch.wheels:
        _forget_origin(batch.site, item)


def _forget_origin(site: Site, item: Fetched) -> None:
    """Remove uv's note of the times of a local wheel, so that the same lockfile produces the same bytes everywhere."""
    info = site.packages / f"{'-'.join(item.path.name.split('-')[:2])}.dist-info"
    note, record = info / "uv_cache.json", info / "RECORD"
    if not note.exists():
        return
    row = re.compile(rf"^{re.escape(info.name)}/uv_cache\.json,.*\r?\n".encode(), re.MULTILINE)
    text = row.sub(b"", record.read_bytes(), count=1)
    write_atomic(record, text, synced=False, through_links=False)  # as uv writes its files
    note.unlink()


def _is_unpacked(batch: Batch) -> bool:
    """Return whether uv's cache has all wheels; it may have been removed."""
    try:
        python = ("--python", str(batch.site.program))
        shutil.rmtree(unpack_wheels((item.artifact for item in batch.wheels), batch.store, python, None))
    except OutsideError:
        return False
    return True


def _renew(batch: Batch) -> None:
    """Bring those wheels into the cache again whose files were, or are being, removed after they were unpacked."""
    gone = tuple(
        item.artifact for item in batch.wheels if batch.store.unpacked(item.artifact) or not item.path.is_file()
    )
    for artifact in gone:
        batch.store.evict(artifact)
    batch.renew(gone)


def _uv_pip_install(
    wheels: Iterable[Artifact], words: list[str], store: Store, relay: Relay | None, inherited: tuple[int, ...] = ()
) -> None:
    """Install wheels by their checksums, from the relay or from uv's cache."""
    # a sandbox may lack the loopback interface
    is_file = relay is not None and not loopback_works()
    lines = ['lock-version = "1.0"', 'created-by = "envforge"']
    for artifact in wheels:
        wheel, digest = wheel_of(artifact), artifact.digest
        url = store.path(artifact).as_uri() if is_file else wheel_url(artifact)
        fields = {"name": wheel.name, "version": wheel.version, "index": index_url(artifact)}
        lines += ["[[packages]]", *(f"{name} = {json.dumps(value)}" for name, value in fields.items())]
        lines.append(f'wheels = [{{ url = {json.dumps(url)}, hashes = {{ {digest.algorithm} = "{digest.hex}" }} }}]')
    with tempfile.TemporaryDirectory(prefix="envforge-") as folder:
        lockfile = Path(folder) / "pylock.toml"
        lockfile.write_text("\n".join(lines), encoding="utf-8")
        # what the relay sends is verified; uv would hash it again, and unpack local wheels again in each install
        words = ["pip", "install", "--no-deps", "--no-verify-hashes", "--preview-features", "pylock", *words]
        words += ["--requirements", str(lockfile), *(["--offline"] if relay is None or is_file else [])]
        _uv(words, store, inherited, relay.variables if relay else {})


def _uv(
    words: list[str], store: Store, inherited: tuple[int, ...] = (), variables: Mapping[str, str] | None = None
) -> None:
    """Run uv without the user's settings and without a package index; it inherits the open files ``inherited``."""
    from uv import find_uv_bin  # noqa: PLC0415 - only if there are wheels

    environment = {name: value for name, value in os.environ.items() if not _NOT_FOR_UV.match(name)}
    command = [find_uv_bin(), *words, "--no-config", "--no-progress", "--color", "never", "--cache-dir", str(store.uv)]
    done = subprocess.run(
        command,
        env=environment | dict(variables or {}),
        # uv survives a killed envforge; the next install waits until uv has closed these files
        pass_fds=inherited,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise OutsideError(
            f"`uv {' '.join(words[:2])}` failed with exit code {done.returncode}:\n{hide_secrets(done.stderr.strip())}",
            code="wheels-failed",
        )


def build_wheels(
    fetched: Iterable[Fetched], site: Site, store: Store, *, offline: bool, progress: InstallProgress
) -> list[Fetched]:
    """Build a wheel from each source distribution in ``fetched``, and return wheels unchanged."""
    chosen = tuple(fetched)
    sources = [item for item in chosen if not item.path.name.endswith(".whl")]
    if not sources:
        return list(chosen)
    built: dict[str, Fetched] = {}
    with progress_step(progress, "building wheels", len(sources), "packages"):
        for item in sources:
            built[item.artifact.package.name] = _build(item, site, store, offline=offline)
            progress.advance(1)
    return [built.get(item.artifact.package.name, item) for item in chosen]


def _build(item: Fetched, site: Site, store: Store, *, offline: bool) -> Fetched:
    from uv import find_uv_bin  # noqa: PLC0415 - only if something is built

    (store.root / "built").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.root / "built") as folder:
        command = [find_uv_bin(), "build", "--wheel", "--out-dir", folder, "--python", str(site.program)]
        command += ["--cache-dir", str(store.uv), "--no-progress", "--color", "never", "--no-create-gitignore"]
        command += [*(["--offline"] if offline else []), str(item.path)]
        environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "CONDA_PREFIX"}}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise OutsideError(
                f"failed to build `{item.artifact.label}` from source:\n{hide_secrets(done.stderr.strip()[-4000:])}",
                hint=(
                    Hint("install what the build requires, such as a compiler"),
                    Hint("once environment.yml requires a version that is published as a wheel", "envforge lock"),
                ),
                code="build-failed",
            )
        return _keep(item.artifact, wheels[0], store)


def _keep(artifact: Artifact, wheel: Path, store: Store) -> Fetched:
    """Store a built wheel in the cache under its own checksum."""
    name, _, _, _ = parse_wheel_filename(wheel.name)
    if name != canonicalize_name(artifact.package.name):
        raise OutsideError(
            f"the source distribution of `{artifact.label}` built a wheel of another package, `{wheel.name}`",
            hint="once environment.yml requires a version that is published as a wheel",
            command="envforge lock",
            code="build-differs",
        )
    digest = digest_of(wheel, Digest(algorithm="sha256", hex=""))
    package = replace(artifact.package, url=wheel.as_uri(), sha256=digest.hex)
    made = Artifact(package=package, digest=digest)
    check_wheel(wheel, made)
    return Fetched(artifact=made, path=store.keep(wheel, made), downloaded_bytes=0)
