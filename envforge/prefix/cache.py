"""Store downloaded packages by checksum, recognize unchanged files, and coordinate the processes that use the store.

CACHE/files/ab/abcdef…/jinja2-3.1.6-pyhd8ed1ab_0.conda           an archive, until it is unpacked
CACHE/files/ab/abcdef…/jinja2-3.1.6-pyhd8ed1ab_0.conda.part      an incomplete download
CACHE/files/ab/abcdef…/jinja2-3.1.6-pyhd8ed1ab_0.conda.verified  its size, times, and inode when it was verified
CACHE/files/ab/abcdef…/jinja2-3.1.6-pyhd8ed1ab_0.conda.unpacked  what is needed of it once it is unpacked and removed
CACHE/files/ab/abcdef…/jinja2-3.1.6-pyhd8ed1ab_0.conda.seen      what was unpacked from it when it was verified
CACHE/pkgs/abcdef…/jinja2-3.1.6-pyhd8ed1ab_0                      a conda package, unpacked by rattler
CACHE/uv/                                                        wheels, unpacked by uv
CACHE/bundles/abcdef…/conda-lock.yml                             the lockfile of an installed bundle

Each process that uses the cache holds ``CACHE/in-use/PID-….lock``. A cleaning holds ``CACHE/cleaning.lock``. An install
acquires that lock for a moment when it starts, so none starts during a cleaning.

``ARCHIVE.seen`` contains one checksum over the listing of an unpacked conda package, or one line for each file of a
wheel. It doesn't contain the ctime, which each hard link changes. Docs: decisions/0116.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import stat
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from msgspec import Struct, field

from envforge.base.files import file_lock, is_writable, regular, write_atomic
from envforge.base.urls import show_url
from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.plan import Artifact, Digest, record_name

VARIABLE = "ENVFORGE_CACHE"
_BLOCK = 1 << 20


class Unpacked(Struct, frozen=True, kw_only=True):
    """What is kept of an archive that was unpacked: its size, its SHA-256, and the size of its files.

    ``folders`` are the directories of the members of a wheel. ``record`` is the ``RECORD`` of a wheel, or the SHA-256
    of the ``info/paths.json`` of a conda package.
    """

    size: int
    sha256: str
    unpacked_bytes: int
    folders: tuple[str, ...] = ()
    record: bytes = b""


class Store(Struct, frozen=True):
    """The cache in one directory."""

    root: Path

    @property
    def conda(self) -> Path:
        """Directory to which rattler unpacks."""
        return self.root / "pkgs"

    def conda_folder(self, artifact: Artifact) -> Path:
        """Return the directory to which a conda package is unpacked; packages with other checksums have others."""
        return self.conda / artifact.digest.key / record_name(artifact)

    @property
    def uv(self) -> Path:
        """Directory to which uv unpacks."""
        return self.root / "uv"

    def create(self) -> None:
        """Create the directory; raise ``OutsideError`` that names the variable to set if it can't be written."""
        reason = ""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
        if not reason and os.access(self.root, os.W_OK):
            return
        stated = os.environ.get(VARIABLE)
        source = f" (from `{VARIABLE}`)" if stated and self.root == Path(stated).absolute() else ""
        raise OutsideError(
            f"cannot write to the package cache `{self.root}`{source}: {reason or 'Permission denied'}",
            hint=f"to use another directory, set `{VARIABLE}=DIR`",
            code="cache-not-writable",
        )

    def path(self, artifact: Artifact) -> Path:
        """Return the path of the file of a package, whether or not it exists."""
        name = artifact.file_name
        if name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
            raise EnvforgeError(
                f"the URL of `{artifact.label}` does not end in a file name: `{show_url(artifact.package.url)}`",
                hint="to create the lockfile again",
                command="envforge lock",
                code="bad-address",
            )
        return self.root / "files" / artifact.digest.hex[:2] / artifact.digest.key / name

    def bundled_lock(self, lock: bytes, name: str) -> Path:
        """Return the path of the lockfile of a bundle; its name decides how it is read."""
        return self.root / "bundles" / hashlib.sha256(lock).hexdigest() / name

    def keep(self, partial: Path, artifact: Artifact) -> Path:
        """Move a verified file to its place in the cache, and return that place."""
        path = self.path(artifact)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(path)
        _write_note(_verified(path), _identity(path, artifact.digest))
        return path

    def holds(self, artifact: Artifact, *, reread: bool = False) -> bool:
        """Return whether the verified file of a package is in the cache.

        A file that is unchanged since it was verified isn't read again, unless ``reread`` is given.
        """
        path = self.path(artifact)
        if not path.is_file():
            return False
        noted = _verified(path)
        if not reread and noted.is_file() and noted.read_bytes() == _identity(path, artifact.digest):
            return True
        before = _identity(path, artifact.digest)
        if digest_of(path, artifact.digest) != artifact.digest:
            return False
        if os.access(path.parent, os.W_OK):
            _write_note(noted, before)
        return True

    def unpacked(self, artifact: Artifact) -> Unpacked | None:
        """Return what is kept of the archive of a package that was unpacked, or None if it wasn't."""
        try:
            head, folders, record = regular(_unpacked(self.path(artifact))).read_bytes().split(b"\n", 2)
            match = _UNPACKED_HEAD.fullmatch(head)
            if match is None:
                return None
            size, sha256, unpacked_bytes = (part.decode("ascii") for part in match.groups())
            if sha256 != (artifact.package.sha256 or sha256):
                return None
            return Unpacked(
                size=int(size),
                sha256=sha256,
                unpacked_bytes=int(unpacked_bytes),
                folders=tuple(folders.decode("utf-8").split("\0")),
                record=record,
            )
        except (OSError, ValueError):
            return None

    def note_unpacked(self, artifact: Artifact, unpacked: Unpacked) -> None:
        """Record that a package was unpacked, so that its archive isn't needed."""
        path = self.path(artifact)
        head = f"{_UNPACKED_SCHEMA} {unpacked.size} {unpacked.sha256} {unpacked.unpacked_bytes}"
        text = "\n".join((head, "\0".join(unpacked.folders), "")).encode()
        _write_note(_unpacked(path), text + unpacked.record)

    def remove_archive(self, artifact: Artifact) -> None:
        """Remove the archive of a package that was unpacked, so that the disk has it once."""
        path = self.path(artifact)
        for name in (path, _verified(path)):
            name.unlink(missing_ok=True)

    def cached_bytes(self, artifact: Artifact) -> int | None:
        """Return the size of the archive of a package, if the cache has it or what was unpacked from it."""
        kept = self.unpacked(artifact)
        if kept is not None:
            return kept.size
        return self.path(artifact).stat().st_size if self.holds(artifact) else None

    def evict(self, artifact: Artifact) -> None:
        """Remove the file of a package and its partial download."""
        shutil.rmtree(self.path(artifact).parent, ignore_errors=True)


_UNPACKED_SCHEMA = "envforge unpacked 3"  # raised when a new check must read archives that were accepted before
_UNPACKED_HEAD = re.compile(rb"%s ([0-9]{1,15}) ([0-9a-f]{64}) ([0-9]{1,15})" % _UNPACKED_SCHEMA.encode())

CACHE_HINTS = (
    Hint("to remove cached packages", "envforge clean"),
    Hint("to put the cache on another disk, pass `--cache DIR`"),
)


def default_root() -> Path:
    """Return the default cache directory of the user."""
    import platformdirs  # noqa: PLC0415 - only if no directory is specified

    return Path(platformdirs.user_cache_dir("envforge", appauthor=False)) / "packages"


def _verified(path: Path) -> Path:
    return path.with_name(f"{path.name}.verified")


def _unpacked(path: Path) -> Path:
    return path.with_name(f"{path.name}.unpacked")


def _identity(path: Path, digest: Digest) -> bytes:
    """Return what changes whenever the content of a file does; nothing but a change of the clock fakes the ctime."""
    state = path.stat()
    return f"{digest} {state.st_size} {state.st_mtime_ns} {state.st_ctime_ns} {state.st_ino}\n".encode()


def digest_of(path: Path, wanted: Digest) -> Digest:
    """Return the checksum of a file, using the algorithm of ``wanted``."""
    return Digest(algorithm=wanted.algorithm, hex=hash_file(str(path), new_hasher(wanted)))


def hash_file(path: str, hasher: hashlib._Hash) -> str:
    """Feed a file to ``hasher``, and return the hexadecimal result."""
    view = memoryview(bytearray(_BLOCK))
    with open(path, "rb", buffering=0) as stream:  # noqa: PTH123 - a Path for each file is slow
        while length := stream.readinto(view):
            hasher.update(view[:length])
    return hasher.hexdigest()


def new_hasher(wanted: Digest) -> hashlib._Hash:
    """Return a hash object for the algorithm of ``wanted``."""
    # old lockfiles state only MD5; a system in FIPS mode allows it if it isn't used for security
    return hashlib.sha256() if wanted.algorithm == "sha256" else hashlib.md5(usedforsecurity=False)


def walk(folder: Path, *, skip: Collection[str] = ()) -> Iterator[tuple[str, os.DirEntry[str], os.stat_result]]:
    """Yield everything below a directory: its path relative to the directory, and its state; links aren't followed.

    Directories whose names are in ``skip`` are omitted with their content. Paths are strings, because an environment
    has tens of thousands of files.
    """
    waiting = [("", str(folder))]
    while waiting:
        beginning, place = waiting.pop()
        with os.scandir(place) as entries:
            for entry in entries:
                state = entry.stat(follow_symlinks=False)
                if not stat.S_ISDIR(state.st_mode):
                    yield beginning + entry.name, entry, state
                elif entry.name not in skip:
                    yield beginning + entry.name, entry, state
                    waiting.append((f"{beginning}{entry.name}/", entry.path))


_TICK_NS = 20_000_000  # twice the longest clock tick of Linux (HZ=100)
_COARSE_NS = 2_000_000_000  # for file systems that store whole seconds
_SECOND_NS = 1_000_000_000
SEEN_SCHEMA = "envforge seen 5"  # raised when a new check must read what an earlier envforge accepted


def identity(state: os.stat_result) -> str:
    """Return what identifies the content of an unpacked file; a string, because a wheel has tens of thousands."""
    return f"{state.st_size} {state.st_mtime_ns} {state.st_ino}"


def settled_before(mtimes_ns: Iterable[int], now_ns: int) -> int:
    """Return the limit below which an mtime can't come from a change after ``now_ns``, in nanoseconds.

    A later change could fall into the same clock tick as the previous one, and leave the mtime as it was.
    """
    fine = any(mtime_ns % _SECOND_NS for mtime_ns in mtimes_ns)
    return now_ns - (_TICK_NS if fine else _COARSE_NS)


def mark(archive: Path) -> Path:
    """Return the path of the ``.seen`` file of an archive."""
    return archive.with_name(f"{archive.name}.seen")


def read_files(archive: Path) -> dict[str, str]:
    """Return the identities of the recorded files of a wheel by their names; empty if there is no valid record."""
    try:
        head, *lines = regular(mark(archive)).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError):
        return {}
    rows = (line.partition("\t") for line in lines if line)
    return {name: seen for seen, _, name in rows} if head == SEEN_SCHEMA else {}


def note_files(archive: Path, states: Mapping[str, os.stat_result], whole_at_ns: int) -> None:
    """Record the files of a wheel that were intact at ``whole_at_ns``; one that may have changed never matches."""
    latest = settled_before((state.st_mtime_ns for state in states.values()), whole_at_ns)
    rows = (f"{identity(state) if state.st_mtime_ns < latest else '-'}\t{name}" for name, state in states.items())
    write_mark(archive, "".join(f"{row}\n" for row in rows))


def write_mark(archive: Path, text: str) -> None:
    """Write a ``.seen`` file if the cache is writable; if a crash loses it, the files are read again."""
    if os.access(archive.parent, os.W_OK):
        _write_note(mark(archive), f"{SEEN_SCHEMA}\n{text}".encode())


def _write_note(path: Path, content: bytes) -> None:
    if path.is_fifo():  # which `write_atomic` would write into, and wait for a reader
        path.unlink()
    write_atomic(path, content, synced=False, through_links=False)


def existing(path: Path) -> Path:
    """Return the first existing directory among a path and its parents."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def need_room(path: Path, wanted: int, purpose: str) -> None:
    """Raise ``OutsideError`` unless the disk of ``path`` has ``wanted`` bytes of free space."""
    free = shutil.disk_usage(existing(path)).free
    if free < wanted:
        raise OutsideError(
            f"not enough disk space {purpose}: expected {wanted / 1e6:.0f} MB, found {free / 1e6:.0f} MB",
            hint=CACHE_HINTS,
            code="disk-full",
        )


class Tree(Struct, kw_only=True):
    """The unpacked files of a package: a row for each, directories, links with their targets, and mtimes."""

    rows: list[str] = field(default_factory=list)
    files: set[str] = field(default_factory=set)
    folders: list[str] = field(default_factory=list)
    links: dict[str, str] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    mtimes_ns: list[int] = field(default_factory=list)
    size: int = 0

    @property
    def digest(self) -> str:
        """SHA-256 of the listing: path, target, size, mtime, inode, and mode of each file."""
        text = "\0\0".join(sorted(self.rows))
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def read_tree(folder: Path, *, umask: int | None = None) -> Tree:
    """List the files below a directory; with ``umask``, give each the mode that it would have if it were created now.

    Only whether the owner may write or execute a file is taken from its package: it could permit writing to anyone.
    """
    tree = Tree()
    for name, entry, state in walk(folder):
        if umask is not None and not stat.S_ISLNK(state.st_mode):
            state = _with_umask(entry, state, umask)  # noqa: PLW2901 - a directory can be read only after that
        if stat.S_ISDIR(state.st_mode):
            tree.folders.append(name)
            continue
        target = ""
        if stat.S_ISLNK(state.st_mode):
            target = tree.links[name] = os.readlink(entry.path)  # noqa: PTH115 - a Path for each file is slow
        elif not stat.S_ISREG(state.st_mode) or state.st_mode & (stat.S_ISUID | stat.S_ISGID):
            tree.strange.append(name)
        tree.files.add(name)
        tree.rows.append(f"{name}\0{target}\0{state.st_size} {state.st_mtime_ns} {state.st_ino} {state.st_mode}")
        tree.mtimes_ns.append(state.st_mtime_ns)
        tree.size += state.st_size
    return tree


def _with_umask(entry: os.DirEntry[str], state: os.stat_result, umask: int) -> os.stat_result:
    owner = stat.S_IRWXU if stat.S_ISDIR(state.st_mode) else state.st_mode & stat.S_IRWXU | stat.S_IRUSR
    mode = (owner | owner >> 3 | owner >> 6) & ~umask
    if stat.S_IMODE(state.st_mode) == mode or state.st_mode & (stat.S_ISUID | stat.S_ISGID):
        return state
    os.chmod(entry.path, mode)  # noqa: PTH101 - a Path for each file is slow
    return entry.stat(follow_symlinks=False) if os.name == "nt" else os.lstat(entry.path)


def standing_tree(folder: Path, archive: Path) -> Tree | None:
    """Return the unpacked files of a conda package if all are unchanged since they were checked, else None."""
    try:
        noted = regular(mark(archive)).read_text(encoding="ascii")
        tree = read_tree(folder)
    except (OSError, UnicodeDecodeError):
        return None
    return tree if noted == f"{SEEN_SCHEMA}\n{tree.digest}\n" else None


def note_tree(tree: Tree, archive: Path, whole_at_ns: int) -> None:
    """Record unpacked files that were intact at ``whole_at_ns``, unless one may have changed since then."""
    if max(tree.mtimes_ns, default=0) < settled_before(tree.mtimes_ns, whole_at_ns):
        write_mark(archive, f"{tree.digest}\n")


# `clean` must know of installs into any prefix; the system releases these locks when a process dies
_USERS = "in-use"
_CLEANING = "cleaning.lock"


@contextmanager
def in_use(root: Path) -> Iterator[None]:
    """Keep cleanings away from the cache, and wait for a running one; a cache that isn't writable is not locked."""
    path = root / _USERS / f"{os.getpid()}-{uuid.uuid4().hex[:8]}.lock"
    if not is_writable(path.parent):
        yield
        return
    with ExitStack() as held:
        with file_lock(root / _CLEANING):
            held.callback(path.unlink, missing_ok=True)
            held.enter_context(file_lock(path))
        yield


@contextmanager
def exclusive_cache(root: Path) -> Iterator[None]:
    """Lock a cache that no other process uses; raise ``OutsideError`` with the PIDs of those that do."""
    from filelock import Timeout  # noqa: PLC0415 - only if something is changed

    try:
        with file_lock(root / _CLEANING, timeout_s=0):
            users = [path for path in sorted((root / _USERS).glob("*.lock")) if _is_held(path)]
            if users:
                named = ", ".join(path.name.partition("-")[0] for path in users)
                raise _busy(root, f"an install (PID {named}) is using it")
            yield
    except Timeout as error:
        raise _busy(root, "another envforge process is opening or cleaning it") from error


def _busy(root: Path, why: str) -> OutsideError:
    return OutsideError(
        f"the package cache `{root}` is in use: {why}",
        hint="wait for it to finish, then try again",
        code="cache-busy",
    )


def _is_held(path: Path) -> bool:
    """Return whether the process of a lock file is running; remove the file if it isn't."""
    from filelock import Timeout  # noqa: PLC0415 - as above

    try:
        with file_lock(path, timeout_s=0):
            pass
    except Timeout:
        return True
    path.unlink(missing_ok=True)
    return False
