"""Reject a package that would write outside a prefix, or that can't be linked, before the prefix changes.

Of a conda package, what rattler unpacked is checked, and the list of files as rattler parses it, because that is what
it will link. uv rejects entry points and members outside their directories, and rewrites ``RECORD``. A wheel is checked
before that, so that it fails before the prefix changes, and because of the data files, which uv copies anywhere in the
prefix.
"""

from __future__ import annotations

import os
import re
import stat
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePath
from typing import IO, Any, Literal

import rattler
from msgspec import Struct
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.documents import Document
from envforge.errors import EnvforgeError, Hint, printable
from envforge.lock.plan import LARGEST_METADATA, Artifact, wheel_of
from envforge.lock.project import ENVFORGE_DIRECTORY
from envforge.prefix.cache import Tree, Unpacked
from envforge.prefix.installed import ORIGIN, read_record, sha256_of_row

RESERVED = {"conda-meta", ENVFORGE_DIRECTORY, "pyvenv.cfg", "__clobbers__"}  # the last one is of rattler
INFO = "info"
_LARGEST_LIST = 1 << 25  # bytes; a list of 100,000 files has 20 MB
_MOST_ROWS = 500_000
_ODD_SPELLING = re.compile(rb'\\[u/]|/\.?[/"]|"\./')  # in a list, which is parsed again only if it has one
SHORTEST_PLACEHOLDER = 32  # characters, in a binary file; conda-build used this length before it used 255
_MOST_PLACEHOLDERS = 100_000  # in a text file, each of which grows by up to 1,000 characters
_LONGEST_PROGRAM = 200  # bytes; file systems allow 255, and Windows needs an ending
_IDENTIFIERS = r"\s*[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*\s*"
_ENTRY_POINT = re.compile(rf"[^=]+={_IDENTIFIERS}:{_IDENTIFIERS}", re.ASCII)
_LONGEST_NAME = 255  # bytes, of most file systems
_LONGEST_PATH = 2000  # bytes; Linux permits 4095, the prefix included
_LOCAL_HEADER = b"PK\3\4"
_UTF8_FLAG = 0x800
_LONGEST_SIZES = 24  # bytes: a signature, a checksum, and two large sizes
_LARGEST_DIRECTORY = 64 << 20  # bytes; the one of torch has 2 MB
_ENTRY = struct.Struct("<4s16x2I3H8xI")
_UNKNOWN_SIZE = 0xFFFFFFFF  # the number is in a ZIP64 field
_LARGEST_RECORD = 20_000_000  # bytes unpacked; the RECORD of torch has 1.5 MB


def check_unpacked(artifact: Artifact, folder: Path, tree: Tree, platform: str) -> None:
    """Raise ``EnvforgeError`` if a file that rattler will link, or an unpacked file of a conda package, is not safe."""
    for name in tree.strange:
        raise refused(artifact, name, "is a device, a pipe, or a program that changes its user")
    # links are resolved on the disk: a chain of them can leave the package although each looks harmless
    top = folder.resolve()
    for name, target in tree.links.items():
        arrived = Path(os.path.realpath(folder / name))
        if not arrived.is_relative_to(top) or not RESERVED.isdisjoint(arrived.relative_to(top).parts[:1]):
            raise refused(artifact, name, f"is a link to a path outside the package: `{printable(target)}`")
    _check_size(artifact, folder)
    seen: dict[str, str] = {}
    # rattler's own parse, which accepts the older `info/files`, too, and is what it will link
    for entry in rattler.PathsJson.from_package_directory_with_deprecated_fallback(folder).paths:
        name = entry.relative_path.as_posix()
        check_path(artifact, name)
        key = name if platform.startswith("linux-") else _folded(artifact, name, platform)
        if key.split("/", 1)[0] == INFO:
            raise refused(artifact, name, f"is listed, but in `{INFO}`, which is not installed")
        if seen.get(key) == name:
            raise archive_damaged(artifact, f"it lists `{printable(name)}` twice")
        if seen.setdefault(key, name) != name:
            raise refused(artifact, name, f"has the same name as `{seen[key]}` on a disk that ignores case")
        if name not in tree.files:
            raise archive_damaged(artifact, f"it lists `{printable(name)}`, but contains no such file")
        _check_listed(artifact, entry, folder / name)
    for name in sorted(tree.links.keys() - set(seen.values())):
        # rattler doesn't link it, so the links that lead through it here would lead elsewhere
        if name.split("/", 1)[0] != INFO:
            raise archive_damaged(artifact, f"it contains the link `{printable(name)}`, but doesn't list it")
    _check_spellings(artifact, folder / INFO, set(seen.values()))


def _check_size(artifact: Artifact, folder: Path) -> None:
    """Raise ``EnvforgeError`` if rattler would need gigabytes to parse the metadata of a package."""
    for name, marks in {"index.json": b"{[", "paths.json": b"{[", "link.json": b"{[", "files": b"\n"}.items():
        path = folder / INFO / name
        if not path.is_file():
            continue
        size = path.stat().st_size
        if size > _LARGEST_LIST:
            raise archive_damaged(artifact, f"its `{INFO}/{name}` is too large: {size} bytes")
        data = path.read_bytes()
        if sum(data.count(mark) for mark in marks) > _MOST_ROWS:
            raise archive_damaged(artifact, f"its `{INFO}/{name}` has more than {_MOST_ROWS:,} rows")


def _check_spellings(artifact: Artifact, info: Path, listed: Collection[str]) -> None:
    """Raise ``EnvforgeError`` if a listed path is written as `a/`, which rattler can't link, but returns as `a`."""
    path = info / "paths.json"
    if not path.is_file():
        path = info / "files"
    data = path.read_bytes()
    waiting: list[Any] = []
    if path.suffix != ".json":
        waiting = data.decode().splitlines()
    elif _ODD_SPELLING.search(data):
        waiting = [_info_file(artifact, path.name).read_json(data, dict[str, Any])]
    while waiting:
        match waiting.pop():
            case str() as text if text != (name := PurePath(text).as_posix()) and name in listed:
                raise archive_damaged(artifact, f"it lists `{printable(name)}` as `{printable(text)}`")
            case dict() as values:
                waiting += values.values()
            case list() as values:
                waiting += values


def _info_file(artifact: Artifact, name: str) -> Document:
    return Document(
        damaged=f"the file `{INFO}/{name}` of `{artifact.file_name}` is invalid",
        error=EnvforgeError,
        code="archive-damaged",
        hints=lambda: (EXCLUDE,),
    )


class _Noarch(Struct, frozen=True, kw_only=True):
    type: Literal["python"]
    entry_points: tuple[str, ...] = ()


class _LinkFile(Struct, frozen=True, kw_only=True):
    noarch: _Noarch
    package_metadata_version: Literal[1]


def read_programs(artifact: Artifact, folder: Path) -> tuple[str, ...]:
    """Return the names of the programs that rattler will write for the entry points of a package, which are checked."""
    path = folder / INFO / "link.json"
    if not path.exists():
        return ()
    document = _info_file(artifact, path.name)
    # decoded here, because rattler accepts only UTF-8
    points = document.read_json(document.read_bytes(path).decode(), _LinkFile).noarch.entry_points
    for point in points:
        if not _ENTRY_POINT.fullmatch(point):
            raise archive_damaged(artifact, f"`{printable(point)}` is not an entry point `NAME = MODULE:FUNCTION`")
        check_program(artifact, point.partition("=")[0].strip())
    return tuple(point.partition("=")[0].strip() for point in points)


def check_program(artifact: Artifact, name: str) -> None:
    """Raise ``EnvforgeError`` unless the name of a program is one of a file in the directory of programs."""
    if name in {"", ".", ".."} or not name.isprintable() or {"/", "\\"} & set(name):
        raise refused(artifact, name, "is a program outside the directory of programs")
    if len(name.encode()) > _LONGEST_PROGRAM:
        raise refused(artifact, name, "is a program whose name is too long")
    # an entry point of this name would run its code whenever someone starts Python
    if re.fullmatch(r"pythonw?[0-9.]*t?(\.exe)?", name, re.IGNORECASE):
        raise refused(artifact, name, "is a program that would replace Python")


def _check_listed(artifact: Artifact, entry: rattler.PathsEntry, path: Path) -> None:
    """Raise ``EnvforgeError`` if rattler can't link a listed file: it would stop with a half-linked prefix."""
    kind = entry.path_type
    if kind.directory or bool(kind.softlink) != path.is_symlink() or not (kind.softlink or path.is_file()):
        listed = printable(entry.relative_path.as_posix())
        raise archive_damaged(artifact, f"it lists `{listed}` as another kind of file than it is")
    if entry.prefix_placeholder is not None:
        if not path.is_file():
            raise archive_damaged(artifact, f"`{printable(entry.relative_path.as_posix())}` has no text to replace")
        _check_placeholder(artifact, entry.prefix_placeholder, path)


def _check_placeholder(artifact: Artifact, placeholder: rattler.PrefixPlaceholder, path: Path) -> None:
    """Raise ``EnvforgeError`` if a placeholder is none that a build tool writes, or would make a file enormous."""
    text, is_binary = placeholder.placeholder, placeholder.file_mode.mode == "binary"
    if not re.match(r"/|[A-Za-z]:[\\/]", text) or (is_binary and len(text) < SHORTEST_PLACEHOLDER):
        raise archive_damaged(artifact, f"`{printable(text)}` is not a placeholder of a prefix")
    most = path.stat().st_size // len(text)
    if not is_binary and most > _MOST_PLACEHOLDERS and path.read_bytes().count(text.encode()) > _MOST_PLACEHOLDERS:
        raise archive_damaged(artifact, f"`{printable(path.name)}` contains `{printable(text)}` too often")


def _folded(artifact: Artifact, name: str, platform: str) -> str:
    """Return a key that is equal for all spellings of a path on the disks of macOS and Windows."""
    if platform.startswith("win-") and any(":" in part or part.endswith((".", " ")) for part in name.split("/")):
        raise refused(artifact, name, "has a name that Windows changes")
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())


def check_path(artifact: Artifact, name: str, *, reserved: bool = True) -> None:
    """Raise ``EnvforgeError`` unless a path of a package is relative and inside.

    With ``reserved``, it may not be in the directories of conda's and envforge's own records either.
    """
    parts = re.split(r"[/\\]", name)
    if "\0" in name or name[1:2] == ":" or not {"", ".", ".."}.isdisjoint(parts):
        raise refused(artifact, name, "is a path outside the package")
    if reserved and parts[0].lower() in RESERVED:
        raise refused(artifact, name, f"is in `{parts[0]}`, whose files only the installer writes")


EXCLUDE = Hint("once environment.yml excludes this build", "envforge lock")


def refused(artifact: Artifact, member: str, reason: str) -> EnvforgeError:
    """Return the error for a package that must not be installed because of one of its files."""
    return EnvforgeError(
        f"`{artifact.file_name}` is not safe to install: its file `{printable(member)}` {reason}",
        hint=(Hint("report this package to its publisher"), EXCLUDE),
        code="archive-refused",
    )


def archive_damaged(artifact: Artifact, reason: str) -> EnvforgeError:
    """Return the error for a package that has the locked checksum, but can't be read."""
    return EnvforgeError(
        f"`{artifact.file_name}` has the locked checksum, but is not a readable package: {reason}",
        hint=(EXCLUDE,),
        code="archive-damaged",
    )


def placeholders(folder: Path) -> Iterator[bytes]:
    """Yield the placeholders in binary files, which a longer path can't replace."""
    for row in rattler.PathsJson.from_package_directory_with_deprecated_fallback(folder).paths:
        if row.prefix_placeholder is not None and row.prefix_placeholder.file_mode.mode == "binary":
            yield row.prefix_placeholder.placeholder.encode()


_SIZES_FOLLOW = 0x8
_MEANINGFUL_FLAGS = _UTF8_FLAG | _SIZES_FOLLOW
_ENCRYPTED = 0x2041  # APPNOTE 4.4.4
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, 93}  # those of uv; the last is zstd
_NEWEST_FORMAT = 63
# sizes above 4 GB, times, and owners; none is another name (APPNOTE 4.5.2, and extrafld.txt of Info-ZIP)
_ZIP64 = 0x0001
_EXTRA_FIELDS = frozenset({_ZIP64, 0x000A, 0x5455, 0x5855, 0x7855, 0x7875})
_DATA_KINDS = {"purelib", "platlib", "headers", "scripts", "data"}
_PROGRAMS = {"console_scripts", "gui_scripts"}
_SECTION = re.compile(r"\[([^\[\]]+)\]")
_WHEEL_ENTRY_POINT = re.compile(rf"[^=]+={_IDENTIFIERS}(?::{_IDENTIFIERS})?(?:\[[^\[\]]*\])?", re.ASCII)


def check_wheel(path: Path, artifact: Artifact) -> Unpacked:
    """Return what is to be kept of a wheel.

    Raises ``EnvforgeError`` if a member, a row of ``RECORD``, or an entry point is not safe. It is also raised for
    metadata that uv rejects, because uv starts after the conda packages were linked.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_members(members, artifact)
            _check_local_headers(path, archive, artifact)
            info = _dist_info(archive, artifact)
            rows = _read(archive, f"{info}/RECORD", artifact)
            names = {member.filename for member in members}
            for name, digest, size in read_record(rows):
                _check_member(name, artifact)
                sha256_of_row(digest)
                if (digest and name not in names) or not re.fullmatch(r"[0-9]{0,19}", size):
                    raise archive_damaged(artifact, f"its `RECORD` is wrong about `{printable(name)}`")
            _check_metadata(archive, info, artifact)
            # pip and uv believe these files: a wheel could claim another origin or installer
            for written in (f"{info}/{name}" for name in (ORIGIN, "INSTALLER", "REQUESTED")):
                if written in names:
                    raise refused(artifact, written, "is a record that only the installer writes")
            points = f"{info}/entry_points.txt"
            text = _read(archive, points, artifact).decode("utf-8") if points in archive.namelist() else ""
    except (zipfile.BadZipFile, struct.error, ValueError, OSError, EOFError, NotImplementedError, zlib.error) as error:
        raise archive_damaged(artifact, str(error)) from error
    for program in _programs(text, artifact):
        check_program(artifact, program)
    return Unpacked(
        size=path.stat().st_size,
        sha256=artifact.digest.hex,
        unpacked_bytes=sum(member.file_size for member in members),
        folders=tuple(sorted({member.filename.rpartition("/")[0] for member in members})),
        record=rows,
    )


def _dist_info(archive: zipfile.ZipFile, artifact: Artifact) -> str:
    """Return the name of the only ``.dist-info`` of a wheel, which must be the one of its file name."""
    tops = {name.split("/", 1)[0] for name in archive.namelist()}
    found = sorted(top for top in tops if top.endswith(".dist-info"))
    wheel = wheel_of(artifact)
    if [_named(name) for name in found] != [(wheel.name, Version(wheel.version))]:
        named = ", ".join(f"`{printable(name)}`" for name in found) or "none"
        expected = f"{wheel.name}-{wheel.version}.dist-info"
        raise archive_damaged(artifact, f"expected one directory `{expected}`, found {named}")
    for top in tops:
        if top.endswith(".data") and top[:-5] != found[0][:-10]:  # uv installs it as it is
            raise archive_damaged(artifact, f"`{printable(top)}` is of another package")
    return found[0]


def _named(info: str) -> tuple[str, Version | None]:
    """Return the normalized name and the version in the name of a ``.dist-info``."""
    name, _, version = info.removesuffix(".dist-info").rpartition("-")
    try:
        return canonicalize_name(name), Version(version)
    except ValueError:
        return name, None


def _check_metadata(archive: zipfile.ZipFile, info: str, artifact: Artifact) -> None:
    """Raise ``EnvforgeError`` if a wheel has another name, version, or format than its file name states."""
    from email.parser import BytesHeaderParser  # noqa: PLC0415 - slow to import, and needed only for new wheels

    parse = BytesHeaderParser().parsebytes
    metadata = parse(_read(archive, f"{info}/METADATA", artifact))
    found = f"{metadata['Name']}-{metadata['Version']}.dist-info"
    if _named(found) != _named(info):
        raise archive_damaged(artifact, f"its `METADATA` is of another package: `{printable(found[:-10])}`")
    version = parse(_read(archive, f"{info}/WHEEL", artifact))["Wheel-Version"]
    if not re.fullmatch(r"1\.[0-9]{1,9}", str(version).strip()):
        raise archive_damaged(artifact, f"expected Wheel-Version `1.0`, found `{printable(str(version))}`")


def _read(archive: zipfile.ZipFile, name: str, artifact: Artifact) -> bytes:
    """Return the content of a metadata file of a wheel."""
    try:
        size = archive.getinfo(name).file_size
    except KeyError:
        raise archive_damaged(artifact, f"it has no file `{name.rpartition('/')[2]}`") from None
    most = LARGEST_METADATA if name.endswith(("/METADATA", "/WHEEL")) else _LARGEST_RECORD
    if size > most:
        raise archive_damaged(artifact, f"`{name}` is larger than {most // 1_000_000} MB")
    return archive.read(name)


def _check_members(members: Iterable[zipfile.ZipInfo], artifact: Artifact) -> None:
    names, files, folders = set[str](), set[str](), set[str]()
    for member in members:
        name = member.orig_filename.removesuffix("/")
        _check_member(name, artifact)
        # the upper half has the mode of Unix; 0 is a member without one, as Windows writes it
        mode = member.external_attr >> 16
        if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR} or mode & (stat.S_ISUID | stat.S_ISGID):
            raise refused(artifact, name, "is a link, a device, or a program that changes its user")
        if name in names:  # readers of zip files disagree about which of them counts
            raise refused(artifact, name, "is in the wheel twice")
        longest = max(len(part.encode()) for part in name.split("/"))
        if longest > _LONGEST_NAME or len(name.encode()) > _LONGEST_PATH or not name.isprintable():
            raise archive_damaged(artifact, f"no file can be named `{printable(name)}`")
        names.add(name)
        (folders if member.is_dir() else files).add(name)
        folders.update(name[: match.start()] for match in re.finditer("/", name))
    for name in files & folders:
        raise archive_damaged(artifact, f"`{printable(name)}` is a file and a directory")


def _check_local_headers(path: Path, archive: zipfile.ZipFile, artifact: Artifact) -> None:
    """Raise ``EnvforgeError`` if the files of a wheel differ between its local headers and its central directory.

    uv reads the headers while it receives a wheel, and would reject it only after the conda packages were linked. Both
    may also state another name in an extra field, which uv uses, and Python doesn't.
    """
    end, before = 0, None
    with path.open("rb") as stream:
        for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
            _check_gap(stream, end, member.header_offset, before, artifact)
            stream.seek(member.header_offset)
            fields = struct.unpack("<4s3H4x3I2H", stream.read(30))
            signature, version, flags, method, *numbers, name_length, extra_length = fields
            name = member.orig_filename
            # without the flag, zip names are in the code page of DOS
            encoding = "utf-8" if member.flag_bits & _UTF8_FLAG else "cp437"
            if signature != _LOCAL_HEADER or stream.read(name_length) != name.encode(encoding):
                raise archive_damaged(artifact, f"`{printable(name)}` has another name in its local header")
            known = [member.CRC, member.compress_size, member.file_size]
            is_stated = all(each in {number, _UNKNOWN_SIZE} for each, number in zip(numbers, known, strict=True))
            if (
                (flags ^ member.flag_bits) & _MEANINGFUL_FLAGS
                or flags & _ENCRYPTED
                or (method not in _METHODS or method != member.compress_type)
                or version > _NEWEST_FORMAT
                or not (is_stated or flags & _SIZES_FOLLOW)
            ):
                raise archive_damaged(artifact, f"`{printable(name)}` is packed otherwise in its local header")
            if not _EXTRA_FIELDS.issuperset((*_extra_fields(member.extra), *_extra_fields(stream.read(extra_length)))):
                raise archive_damaged(
                    artifact, f"`{printable(name)}` has extra fields that no builder of wheels writes"
                )
            before, end = member, member.header_offset + 30 + name_length + extra_length + member.compress_size
        _check_gap(stream, end, archive.start_dir, before, artifact)
        stream.seek(archive.start_dir)
        _check_end(stream.read(_LARGEST_DIRECTORY + 1), archive, artifact)


def _check_end(data: bytes, archive: zipfile.ZipFile, artifact: Artifact) -> None:
    """Raise ``EnvforgeError`` unless every reader finds the same central directory, with which ``data`` starts.

    Readers search for the end of an archive in other ways: in its comment, or by the offset of its ZIP64 record, which
    Python ignores. So there may be no comment, and each record must state where the directory is.
    """
    size, count, place = 0, len(archive.filelist), archive.start_dir
    for _ in range(count):
        signature, *sizes, name_length, extra_length, comment_length, offset = _ENTRY.unpack_from(data, size)
        extra = list(_extra_fields(data[size + _ENTRY.size + name_length :][:extra_length]))
        is_large = _UNKNOWN_SIZE in (*sizes, offset)
        if signature != b"PK\1\2" or extra.count(_ZIP64) != is_large or len(set(extra)) != len(extra):
            raise archive_damaged(artifact, "its directory has an entry that readers read in other ways")
        size += _ENTRY.size + name_length + extra_length + comment_length
    end, stated = data[size:], [0, 0, count, count, size, place]
    is_large = end.startswith(b"PK\6\6")
    if is_large:
        record, locator = struct.unpack_from("<4sQ4x2I4Q", end), struct.unpack_from("<4sIQI", end, 56)
        if record[1:] != (44, *stated) or locator != (b"PK\6\7", 0, place + size, 1):
            raise archive_damaged(artifact, "its ZIP64 record is wrong about its directory")
        end = end[76:]
    is_end = len(end) == 22
    if is_end:
        signature, *found, comment = struct.unpack("<4s4H2IH", end)
        elsewhere = [0xFFFF] * 4 + [_UNKNOWN_SIZE] * 2  # the number is in the ZIP64 record
        fits = (
            (is_large and each == most) or each == number
            for each, most, number in zip(found, elsewhere, stated, strict=True)
        )
        is_end = signature == b"PK\5\6" and not comment and all(fits)
    if not is_end:
        raise archive_damaged(artifact, "its end is wrong about its directory, or has a comment")


def _extra_fields(extra: bytes) -> Iterator[int]:
    """Yield the identifiers of the extra fields of a member; -1 for bytes that are no field."""
    while extra:
        if len(extra) < 4:
            yield -1
            return
        number, length = struct.unpack_from("<2H", extra)
        yield number if 4 + length <= len(extra) else -1
        extra = extra[4 + length :]


def _check_gap(stream: IO[bytes], start: int, end: int, before: zipfile.ZipInfo | None, artifact: Artifact) -> None:
    """Raise ``EnvforgeError`` if a member follows anything but the sizes of the member ``before`` it."""
    sizes = {b""}
    if before is not None and before.flag_bits & _SIZES_FOLLOW:
        numbers = (before.CRC, before.compress_size, before.file_size)
        packed = [struct.pack("<I2Q", *numbers)]
        packed += [struct.pack("<3I", *numbers)] if max(numbers) <= _UNKNOWN_SIZE else []
        sizes = {start + each for each in packed for start in (b"", b"PK\x07\x08")}
    stream.seek(start)
    if not 0 <= end - start <= _LONGEST_SIZES or stream.read(end - start) not in sizes:
        raise archive_damaged(artifact, "it contains files that its directory doesn't list")


def _check_member(name: str, artifact: Artifact) -> None:
    """Raise ``EnvforgeError`` if a file of a wheel would be installed outside, or where only installers write."""
    check_path(artifact, name, reserved=False)
    top, _, rest = name.partition("/")
    kind, _, path = rest.partition("/")
    if top.endswith(".data"):
        if rest and kind not in _DATA_KINDS:
            raise archive_damaged(artifact, f"`{printable(name)}` is not in a directory of the wheel format")
        if kind == "data" and path:
            check_path(artifact, path)
        if kind == "scripts" and "/" in path:
            raise archive_damaged(artifact, f"`{printable(name)}` is in a directory of programs")
        folder, _, program = path.rpartition("/")
        if program and (kind, folder) in {("scripts", ""), ("data", "bin"), ("data", "Scripts")}:
            check_program(artifact, program)


def _programs(text: str, artifact: Artifact) -> Iterator[str]:
    """Yield the names of the programs in ``entry_points.txt``; raise ``EnvforgeError`` for what uv reads otherwise."""
    is_program = False
    for line in map(str.strip, text.splitlines()):
        if not line or line.startswith(("#", ";")):
            continue
        if section := _SECTION.fullmatch(line):
            is_program = section[1].strip() in _PROGRAMS
        elif line.startswith(("[", "\ufeff")) or (is_program and not _WHEEL_ENTRY_POINT.fullmatch(line)):
            raise archive_damaged(artifact, f"`{printable(line)}` is not valid in `entry_points.txt`")
        elif is_program:
            yield line.partition("=")[0].strip()
