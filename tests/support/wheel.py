"""Rebuild real wheels for tests from the packages that are installed in the test environment.

    wheel = rebuild_wheel("markupsafe", folder)         # folder/markupsafe-3.0.4-cp311-cp311-….whl

Modules, metadata, and tags are those of the installed distribution. Scripts are left out, because installers create
them from the entry points.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.tags import parse_tag
from packaging.utils import canonicalize_name

_LEFT_OUT = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"}
_DATE = (2024, 1, 1, 0, 0, 0)


def rebuild_wheel(name: str, folder: Path) -> Path:
    """Write the wheel of an installed distribution, uncompressed, and return its path."""
    distribution = metadata.distribution(name)
    entries = {
        entry.as_posix(): Path(str(distribution.locate_file(entry)))
        for entry in distribution.files or ()
        if ".." not in entry.parts and "__pycache__" not in entry.parts and not _is_left_out(entry)
    }
    stem = f"{canonicalize_name(name).replace('-', '_')}-{distribution.version}"
    path = folder / f"{stem}-{_tag(distribution)}.whl"
    info = next(key for key in entries if key.endswith(".dist-info/METADATA")).rsplit("/", 1)[0]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        rows = [_add(archive, key, source) for key, source in sorted(entries.items())]
        record = "".join([*rows, f"{info}/RECORD,,\n"])
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", _DATE), record)
    return path


def text_wheel(name: str, version: str, texts: dict[str, str], folder: Path, *, scripts: tuple[str, ...] = ()) -> Path:
    """Write a small pure wheel; ``scripts`` are entry points, as in ``tool = package.module:function``."""
    info = f"{name}-{version}.dist-info"
    files = {
        **texts,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    if scripts:
        files[f"{info}/entry_points.txt"] = "[console_scripts]\n" + "".join(f"{script}\n" for script in scripts)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        rows = []
        for key, text in sorted(files.items()):
            archive.writestr(zipfile.ZipInfo(key, _DATE), text)
            rows.append(f"{key},{_digest(text.encode())},{len(text.encode())}\n")
        archive.writestr(zipfile.ZipInfo(f"{info}/RECORD", _DATE), "".join([*rows, f"{info}/RECORD,,\n"]))
    return path


def sha256_of(path: Path) -> str:
    with path.open("rb") as stream:
        hasher = hashlib.sha256()
        while block := stream.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()


def _is_left_out(entry: metadata.PackagePath) -> bool:
    return len(entry.parts) == 2 and entry.parts[0].endswith(".dist-info") and entry.name in _LEFT_OUT


def _tag(distribution: metadata.Distribution) -> str:
    """The compressed tag of the file name, from the tags in ``WHEEL``."""
    text = distribution.read_text("WHEEL") or ""
    tags = [line.removeprefix("Tag:").strip() for line in text.splitlines() if line.startswith("Tag:")]
    parsed = [next(iter(parse_tag(tag))) for tag in tags]
    columns = zip(*((tag.interpreter, tag.abi, tag.platform) for tag in parsed), strict=True)
    return "-".join(".".join(sorted(set(column))) for column in columns)


def _add(archive: zipfile.ZipFile, key: str, source: Path) -> str:
    member = zipfile.ZipInfo(key, _DATE)
    member.external_attr = (source.stat().st_mode & 0xFFFF) << 16
    hasher, size = hashlib.sha256(), source.stat().st_size
    with source.open("rb") as stream, archive.open(member, "w", force_zip64=size > 1 << 30) as target:
        while block := stream.read(1 << 20):
            hasher.update(block)
            target.write(block)
    return f"{_quoted(key)},{_form(hasher.digest())},{size}\n"


def _quoted(key: str) -> str:
    return f'"{key}"' if "," in key else key


def _digest(data: bytes) -> str:
    return _form(hashlib.sha256(data).digest())


def _form(digest: bytes) -> str:
    return "sha256=" + base64.urlsafe_b64encode(digest).decode().rstrip("=")


def relabeled(wheel: Path, local: str, folder: Path) -> Path:
    """Copy a wheel, with a local version such as ``cu130``; its other files are copied without unpacking them."""
    name, version, rest = wheel.name.split("-", 2)
    old, new = f"{name}-{version}.dist-info/", f"{name}-{version}+{local}.dist-info/"
    copy = folder / f"{name}-{version}+{local}-{rest}"
    with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(copy, "w", zipfile.ZIP_DEFLATED) as target:
        metadata_text = source.read(f"{old}METADATA").decode()
        metadata_text = metadata_text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+{local}\n", 1)
        rows = source.read(f"{old}RECORD").decode().replace(old, new).splitlines(keepends=True)
        row = f"{new}METADATA,{_digest(metadata_text.encode())},{len(metadata_text.encode())}\n"
        rows = [row if each.startswith(f"{new}METADATA,") else each for each in rows]
        for member in source.infolist():
            if not member.filename.startswith(old):
                _copy_packed(source, target, member)
            elif member.filename == f"{old}METADATA":
                target.writestr(f"{new}METADATA", metadata_text)
            elif member.filename != f"{old}RECORD":
                target.writestr(member.filename.replace(old, new), source.read(member))
        target.writestr(f"{new}RECORD", "".join(rows))
    return copy


def _copy_packed(source: zipfile.ZipFile, target: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Append a member with its packed bytes, which `zipfile` can't do: unpacking and packing 1 GB takes minutes."""
    assert source.fp is not None
    assert target.fp is not None
    source.fp.seek(member.header_offset + 26)
    lengths = source.fp.read(4)
    source.fp.seek(int.from_bytes(lengths[:2], "little") + int.from_bytes(lengths[2:], "little"), os.SEEK_CUR)
    target.fp.seek(target.start_dir)
    member.header_offset = target.fp.tell()
    member.flag_bits &= ~0x08  # the sizes are in the header, not after the data
    target.fp.write(member.FileHeader())
    left = member.compress_size
    while left:
        left -= target.fp.write(source.fp.read(min(left, 1 << 20)))
    target.start_dir = target.fp.tell()
    target.filelist.append(member)
    target.NameToInfo[member.filename] = member
