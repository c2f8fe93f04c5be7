"""Check the members of package archives before anything is unpacked.

Source of the layout: POSIX.1-1988 (ustar) and GNU tar's manual, "Basic Tar Format". For anything else (long names, pax
headers, sparse files, base-256 numbers, data after the end) the result is None, and the caller uses ``tarfile``.

The archive (``.conda``, ``.tar.bz2``, or a wheel) already has the locked checksum. A member with ``..``, an absolute
path, or a link to a path outside the package stops the install before anything is unpacked.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import stat
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import zstandard

from envforge.errors import EnvforgeError, Hint
from envforge.lock.plan import Artifact

_BLOCK = 512
_POSIX, _GNU = b"ustar\x0000", b"ustar  \x00"
_HARD_LINK, _LINK, _FOLDER = b"1", b"2", b"5"


class Member(NamedTuple):
    """One member; ``target`` is None if it is not a link. Its content is at ``start`` and has ``size`` bytes."""

    name: str
    target: str | None
    is_hard_link: bool
    start: int
    size: int


# programs may disagree about unusual headers, so anything unusual is left to tarfile
def plain_members(data: bytes) -> list[Member] | None:
    """Return every member of a tar, or None if one of them is not plain."""
    found: list[Member] = []
    position = 0
    while position + _BLOCK <= len(data):
        header = data[position : position + _BLOCK]
        if not header.strip(b"\0"):
            return found if not data[position:].strip(b"\0") else None
        size = _number(header[124:136])
        if size is None or not _is_whole(header):
            return None
        member = _member(header, position + _BLOCK, size)
        if member is None or member.start + size > len(data):
            return None
        found.append(member)
        position = member.start + -(-size // _BLOCK) * _BLOCK
    return None


def _member(header: bytes, start: int, size: int) -> Member | None:
    kind, magic = header[156:157], header[257:265]
    if magic not in {_POSIX, _GNU} or kind not in {b"0", b"\0", _HARD_LINK, _LINK, _FOLDER}:
        return None
    is_file = kind in {b"0", b"\0"}
    if size and not is_file:
        return None
    name = _text(header[:100])
    before = _text(header[345:500]) if magic == _POSIX else ""
    target = _text(header[157:257]) if kind in {_HARD_LINK, _LINK} else None
    return Member(f"{before}/{name}" if before else name, target, kind == _HARD_LINK, start, size)


def _is_whole(header: bytes) -> bool:
    """Return whether a header has the checksum that it states; the checksum field itself counts as spaces."""
    return _number(header[148:156]) == sum(header) - sum(header[148:156]) + 8 * ord(" ")


def _number(field: bytes) -> int | None:
    text = field.strip(b" \0")
    return int(text, 8) if text.isdigit() and b"8" not in text and b"9" not in text else None


def _text(field: bytes) -> str:
    return field.partition(b"\0")[0].decode("utf-8", "surrogateescape")


_BUFFER = 1 << 16  # tarfile copies the rest of its buffer with each header that it reads
_SMALL = 1 << 24
_ZSTD_HEADER = 18  # RFC 8878 3.1.1: maximum size of magic number, descriptor, window, dictionary, and content size
_LISTS = {"info/paths.json", "info/link.json"}
_LONGEST_LIST = 1 << 28
_LEAVES = re.compile(r"\A[/\\]|\A.:|\0|(?:\A|[/\\])\.\.(?:[/\\]|\Z)", re.DOTALL)


def check_archive(path: Path, artifact: Artifact) -> None:
    """Raise ``EnvforgeError`` if a member leads outside the package or the archive is not readable."""
    try:
        if artifact.file_name.endswith((".whl", ".zip")):
            _check_wheel(path, artifact)
        else:
            _check_conda(path, artifact)
    except (tarfile.TarError, zipfile.BadZipFile, zstandard.ZstdError, EOFError, ValueError, OSError) as error:
        raise EnvforgeError(
            f"`{artifact.file_name}` has the locked checksum, but is not a readable package: {error}",
            hint="once environment.yml excludes this build",
            command="envforge lock",
            code="archive-damaged",
        ) from error


def unpacked_bytes(path: Path) -> int:
    """Return the unpacked size of a package in bytes, as far as its archive states it.

    A ``.tar.bz2`` does not state it, so its own size is returned.
    """
    if not path.name.endswith((".conda", ".whl")):
        return path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        if path.name.endswith(".whl"):
            return sum(member.file_size for member in archive.infolist())
        return sum(_frame_bytes(archive, member) for member in archive.infolist())


def _frame_bytes(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> int:
    """Return the content size in the header of a zstd frame, or the packed size if the header has none."""
    with archive.open(member) as stream:
        head = stream.read(_ZSTD_HEADER)
    try:
        return max(zstandard.frame_content_size(head), member.file_size)
    except zstandard.ZstdError:
        return member.file_size


def _check_wheel(path: Path, artifact: Artifact) -> None:
    with zipfile.ZipFile(path) as archive:
        if not artifact.is_source and not any(name.endswith(".dist-info/RECORD") for name in archive.namelist()):
            raise zipfile.BadZipFile("it has no file `RECORD`")
        for member in archive.infolist():
            _check_name(member.orig_filename, artifact)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise _refused(artifact, member.filename, "is a link, which wheels can't contain")


def _check_conda(path: Path, artifact: Artifact) -> None:
    if not artifact.file_name.endswith(".conda"):
        with tarfile.open(path, "r:*") as archive:
            _check_tar(archive, artifact)
        return
    with zipfile.ZipFile(path) as outer:
        for name in outer.namelist():
            _check_name(name, artifact)
            if name.endswith(".tar.zst"):
                _check_packed(outer, name, artifact)


def _check_packed(outer: zipfile.ZipFile, name: str, artifact: Artifact) -> None:
    """Check the tar in a zstd frame: a small one in memory, by parsing only headers, and a large one as a stream."""
    with outer.open(name) as packed:
        size = zstandard.frame_content_size(packed.read(_ZSTD_HEADER))
        packed.seek(0)
        if not 0 < size <= _SMALL:
            with (
                zstandard.ZstdDecompressor().stream_reader(packed, read_size=_BUFFER) as stream,
                tarfile.open(fileobj=stream, mode="r|", bufsize=_BUFFER) as archive,
            ):
                _check_tar(archive, artifact)
            return
        plain = zstandard.ZstdDecompressor().decompress(packed.read(), max_output_size=size)
    members = plain_members(plain)
    if members is None:
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
            _check_tar(archive, artifact)
        return
    for member in members:
        _check_name(member.name, artifact)
        if member.target is not None:
            start = "" if member.is_hard_link else posixpath.dirname(member.name)
            _check_link(member.name, member.target, start, artifact)
        elif member.name in _LISTS and member.size < _LONGEST_LIST:
            _check_list(plain[member.start : member.start + member.size], artifact)


def _check_tar(archive: tarfile.TarFile, artifact: Artifact) -> None:
    for member in archive:
        _check_member(member, artifact)
        if member.name in _LISTS and member.isfile() and member.size < _LONGEST_LIST:
            stream = archive.extractfile(member)
            _check_list(stream.read() if stream is not None else b"{}", artifact)


def _check_list(text: bytes, artifact: Artifact) -> None:
    for name in _listed(json.loads(text)):
        _check_name(name, artifact)


def _check_member(member: tarfile.TarInfo, artifact: Artifact) -> None:
    _check_name(member.name, artifact)
    if not (member.isfile() or member.isdir() or member.issym() or member.islnk()):
        raise _refused(artifact, member.name, "is not a file, a directory, or a link")
    if member.issym():
        _check_link(member.name, member.linkname, posixpath.dirname(member.name), artifact)
    elif member.islnk():
        _check_link(member.name, member.linkname, "", artifact)


def _check_link(name: str, target: str, start: str, artifact: Artifact) -> None:
    arrived = posixpath.normpath(posixpath.join(start, target))
    if posixpath.isabs(target) or arrived == ".." or arrived.startswith("../"):
        raise _refused(artifact, name, f"is a link to a path outside the package: `{target}`")


def _check_name(name: str, artifact: Artifact) -> None:
    if _LEAVES.search(name):
        raise _refused(artifact, name, "is a path outside the package")


def _listed(document: Any) -> Iterator[str]:
    """Yield the paths that linking will write, from ``paths.json`` and the entry points in ``link.json``."""
    for row in document.get("paths", ()):
        yield str(row["_path"])
    noarch = document.get("noarch")
    for point in noarch.get("entry_points", ()) if isinstance(noarch, dict) else ():
        program = str(point).split("=", 1)[0].strip()
        yield program if "/" not in program and "\\" not in program else f"../{program}"


def _refused(artifact: Artifact, member: str, reason: str) -> EnvforgeError:
    return EnvforgeError(
        f"`{artifact.file_name}` is not safe to unpack: its member `{member}` {reason}",
        hint=(
            Hint("nothing was unpacked; report this to the publisher"),
            Hint("once environment.yml excludes this build", "envforge lock"),
        ),
        code="archive-refused",
    )
