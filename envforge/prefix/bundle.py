"""Write and read bundles: a plain tar with a lockfile, every package of one platform, and their checksums.

The same packages always produce the same bytes. An archive with anything else in it (links, ``..``, other or duplicate
members) is rejected before use.

bundle.json                            the platform and the SHA-256 of the lockfile
conda-lock.yml                         the lockfile, byte for byte
SHA256SUMS                             of every package, in the format of sha256sum
packages/ab12…/jinja2-3.1.6-0.conda    the packages, one directory per checksum, sorted
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

from msgspec import Struct

from envforge.base.documents import Document, Printable, Sha256
from envforge.base.envelope import to_json
from envforge.base.files import replacing
from envforge.errors import EnvforgeError, Hint, OutsideError, printable
from envforge.lock.plan import Artifact, Digest
from envforge.prefix.cache import digest_of
from envforge.prefix.values import InstallProgress, progress_step

ABOUT = "bundle.json"
LOCK = "conda-lock.yml"
SUMS = "SHA256SUMS"
_PACKAGE = re.compile(r"packages/(?:[0-9a-f]{64}|md5-[0-9a-f]{32})/[^/\\\0]+")
_LONGEST = {ABOUT: 1 << 20, LOCK: 1 << 26, SUMS: 1 << 24}  # bytes
_LONGEST_HEADER = 1 << 24
_BLOCK = 1 << 20
_MAKE_AGAIN = Hint("nothing was installed; to make it again on a machine with a network", "envforge bundle")
_MODIFIED_S = 315_532_800  # 1980-01-01, as in the cache: no clock in the bytes


class _About(Struct, frozen=True, kw_only=True):
    """The member ``bundle.json``."""

    schema_version: Literal[1] = 1
    platform: Printable
    lock_sha256: Sha256


class Span(Struct, frozen=True):
    """Position of a package's bytes in the archive."""

    offset: int
    size: int


class Bundle(Struct, frozen=True, kw_only=True):
    """A bundle that has been read: its lockfile, and the position of each package by its name in the archive."""

    path: Path
    platform: str
    lock: bytes
    members: Mapping[str, Span]

    def refuse_other_platform(self, platform: str) -> None:
        """Raise ``EnvforgeError`` if the packages are for another platform than this one."""
        if platform != self.platform:
            raise EnvforgeError(
                f"the bundle `{self.path}` is for `{self.platform}`, but this machine is `{platform}`",
                hint="to make a bundle for this machine",
                command=f"envforge bundle --platform {platform}",
                code="platform-not-bundled",
            )

    def holds(self, artifact: Artifact) -> bool:
        """Return whether the bundle contains the file of a package."""
        return member_name(artifact) in self.members

    @contextmanager
    def open(self, artifact: Artifact) -> Iterator[tuple[BinaryIO, int]]:
        """Yield the unverified bytes of a package and their number; may be called from several threads."""
        span = self.members[member_name(artifact)]
        with self.path.open("rb") as stream:
            yield io.BufferedReader(_Window(stream, span), _BLOCK), span.size


class _Window(io.RawIOBase):
    """Read-only stream over one span of a file."""

    def __init__(self, stream: BinaryIO, span: Span) -> None:
        super().__init__()
        self._stream, self._left = stream, span.size
        stream.seek(span.offset)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override] # the types that io passes
        block = self._stream.read(min(len(buffer), self._left))
        buffer[: len(block)] = block
        self._left -= len(block)
        return len(block)


class _Headers(io.BufferedReader):
    """File of which ``tarfile`` reads headers, at most ``_LONGEST_HEADER`` bytes of each."""

    def read(self, size: int | None = -1) -> bytes:
        # a hostile header may claim a size that would fill the memory
        if size is not None and size > _LONGEST_HEADER:
            raise ValueError(f"a header has {size} bytes")
        return super().read(size)


def member_name(artifact: Artifact) -> str:
    """Return the name of a package's file in a bundle."""
    return f"packages/{artifact.digest.key}/{artifact.file_name}"


def write_bundle(
    output: Path, lock: bytes, platform: str, files: Mapping[str, tuple[Path, Digest]], progress: InstallProgress
) -> None:
    """Write a bundle of ``files`` (by name in the archive) atomically, and verify each file on the way."""
    names = sorted(files)
    with (
        progress_step(progress, "bundling", sum(files[name][0].stat().st_size for name in names), "bytes"),
        replacing(output) as stream,
        tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        about = _About(platform=platform, lock_sha256=_sha256(lock))
        _add_text(archive, ABOUT, (json.dumps(to_json(about), indent=1) + "\n").encode())
        _add_text(archive, LOCK, lock)
        _add_text(archive, SUMS, _sums(names, files).encode())
        for name in names:
            _add_file(archive, name, files[name], progress)


def read_bundle(path: Path) -> Bundle:
    """Read a bundle; raise ``EnvforgeError`` if it is invalid. Packages are verified when they are used."""
    if path.exists() and not path.is_file():  # reading a pipe would block
        raise _fault(path, "it is not a regular file")
    texts: dict[str, bytes] = {}
    members: dict[str, Span] = {}
    try:
        with _Headers(path.open("rb", buffering=0)) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                _refuse_stranger(path, member, is_second=member.name in texts or member.name in members)
                if member.name.startswith("packages/"):
                    members[member.name] = Span(member.offset_data, member.size)
                else:
                    texts[member.name] = _text(archive, member)
    except (tarfile.TarError, EOFError, ValueError, OverflowError, RecursionError) as error:
        raise _fault(path, f"it is not a complete tar archive: {error}") from error
    except OSError as error:
        raise OutsideError(f"cannot read the bundle `{path}`: {error.strerror or error}", code="unreadable") from error
    return _assembled(path, texts, members)


def _text(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = archive.extractfile(member)
    # in blocks, because a lockfile may be longer than a header
    return b"".join(iter(partial(stream.read, _BLOCK), b"")) if stream is not None else b""


def _assembled(path: Path, texts: Mapping[str, bytes], members: Mapping[str, Span]) -> Bundle:
    missing = [name for name in (ABOUT, LOCK, SUMS) if name not in texts]
    if missing:
        raise _fault(path, f"it has no `{missing[0]}`")
    document = Document(
        damaged=f"the bundle `{path}` is invalid: its `{ABOUT}`",
        error=EnvforgeError,
        code="bundle-damaged",
        hints=lambda: (_MAKE_AGAIN,),
    )
    about = document.read_json(texts[ABOUT], _About)
    found = _sha256(texts[LOCK])
    if found != about.lock_sha256:
        raise _fault(path, f"its `{LOCK}`: expected SHA-256 `{about.lock_sha256}`, found `{found}`")
    _refuse_incomplete(path, texts[SUMS], members)
    return Bundle(path=path, platform=about.platform, lock=texts[LOCK], members=members)


def _refuse_stranger(path: Path, member: tarfile.TarInfo, *, is_second: bool) -> None:
    """Raise ``EnvforgeError`` for a member that envforge doesn't write, even though nothing is unpacked by name."""
    name = member.name
    if not member.isreg() or member.issparse():
        raise _fault(path, f"its member `{name}` is not a plain file")
    if name not in {ABOUT, LOCK, SUMS} and (_PACKAGE.fullmatch(name) is None or name.endswith(("/..", "/."))):
        raise _fault(path, f"its member `{name}` does not belong in a bundle")
    if is_second:
        raise _fault(path, f"it contains `{name}` twice")
    if member.size < 0:
        raise _fault(path, f"its `{name}` has a negative size")
    if member.size > _LONGEST.get(name, member.size):
        raise _fault(path, f"its `{name}` is too large: {member.size} bytes")


def _refuse_incomplete(path: Path, sums: bytes, members: Mapping[str, Span]) -> None:
    """Raise ``EnvforgeError`` if packages and list differ, because ``tarfile`` accepts an archive cut at a member."""
    listed = {line.partition("  ")[2] for line in sums.decode("utf-8", "replace").splitlines()}
    for name in sorted(listed - set(members)):
        raise _fault(path, f"`{name}`, which its `{SUMS}` lists, is missing")
    for name in sorted(set(members) - listed):
        raise _fault(path, f"it contains `{name}`, which its `{SUMS}` does not list")
    size = path.stat().st_size
    for name, span in members.items():
        if span.offset + span.size > size:
            raise _fault(path, f"it ends within `{name}`: expected {span.offset + span.size} bytes, found {size}")


def _sums(names: list[str], files: Mapping[str, tuple[Path, Digest]]) -> str:
    lines = []
    for name in names:
        path, digest = files[name]
        if digest.algorithm != "sha256":
            digest = digest_of(path, Digest(algorithm="sha256", hex=""))
        lines.append(f"{digest.hex}  {name}\n")
    return "".join(lines)


def _add_text(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    archive.addfile(_info(name, len(data)), io.BytesIO(data))


def _add_file(archive: tarfile.TarFile, name: str, source: tuple[Path, Digest], progress: InstallProgress) -> None:
    path, digest = source
    with path.open("rb") as stream:
        counted = _Counted(stream, digest, progress)
        archive.addfile(_info(name, path.stat().st_size), counted)
    if counted.hasher.hexdigest() != digest.hex:
        raise EnvforgeError(
            f"`{path}` changed while it was bundled: expected `{digest}`, found `{counted.hasher.hexdigest()}`",
            hint="run the command again",
            code="cache-changed",
        )


class _Counted:
    """File that hashes and counts what ``tarfile`` reads."""

    def __init__(self, stream: BinaryIO, digest: Digest, progress: InstallProgress) -> None:
        self._stream, self._progress = stream, progress
        self.hasher = hashlib.new(digest.algorithm, usedforsecurity=False)

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.hasher.update(block)
        self._progress.advance(len(block))
        return block


def _info(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    # without owner, group, and time, so that the same packages give the same bytes
    info.size, info.mtime, info.mode = size, _MODIFIED_S, 0o644
    return info


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _fault(path: Path, reason: str) -> EnvforgeError:
    return EnvforgeError(
        f"the bundle `{path}` is invalid: {printable(reason)}", hint=(_MAKE_AGAIN,), code="bundle-damaged"
    )
