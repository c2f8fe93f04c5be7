"""Build a real conda channel for tests from this Python, pip, and the installed libraries.

    channel = Channel(folder)
    channel.add(python_package(), pip_package(), repack("jinja2"), repack("markupsafe"))
    channel.index()                     # repodata.json, .zst and shards, written by rattler's own indexer

Serve the directory with ``tests.support.loopback.Loopback``, or use ``channel.folder.as_uri()``. Pure libraries become
``noarch: python`` packages with entry points in ``link.json``. Libraries with compiled modules become packages of this
platform. The prefix of the running Python is replaced by a placeholder, as conda-build does.
"""

from __future__ import annotations

import asyncio
import bz2
import functools
import hashlib
import io
import json
import re
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import zstandard
from msgspec import Struct, field
from msgspec.structs import replace
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from rattler import Subdir
from rattler.index import index_fs

PLACEHOLDER = ("/opt/placeholder_" + "placehold_" * 25)[:255]
PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHON_VERSION = ".".join(map(str, sys.version_info[:3]))
SUBDIR = str(Subdir.current())
SITE_PACKAGES = f"lib/python{PYTHON}/site-packages"
_ADD_SITE_PACKAGES = (
    f"import os, site; site.addsitedir(os.path.normpath(os.path.join(sitedir, '../../../{SITE_PACKAGES}')))\n"
).encode()
CONDA_NAMES = {"typing-extensions": "typing_extensions"}
_STDLIB_LEFT_OUT = {
    "__pycache__", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages", "dist-packages", "test", "tests",
    "tkinter", "turtledemo",
}  # fmt: skip
_TIME = 1_700_000_000


class File(Struct, frozen=True, kw_only=True):
    """One path of a package. ``prefix_mode`` marks a file that holds ``PLACEHOLDER``."""

    path: str
    data: bytes = b""
    executable: bool = False
    link_to: str | None = None
    prefix_mode: Literal["text", "binary"] | None = None

    def entry(self) -> dict[str, Any]:
        """The row of ``info/paths.json``."""
        kind = "softlink" if self.link_to is not None else "hardlink"
        row: dict[str, Any] = {"_path": self.path, "path_type": kind}
        row["sha256"] = hashlib.sha256(self.data).hexdigest()
        row["size_in_bytes"] = len(self.data)
        if self.prefix_mode is not None:
            row |= {"file_mode": self.prefix_mode, "prefix_placeholder": PLACEHOLDER}
        return row


class Package(Struct, frozen=True, kw_only=True):
    """One conda package before it is written. ``info`` holds further files of ``info/``."""

    name: str
    version: str
    build: str = "0"
    build_number: int = 0
    subdir: str = SUBDIR
    depends: tuple[str, ...] = ()
    constrains: tuple[str, ...] = ()
    noarch: Literal["python", "generic"] | None = None
    entry_points: tuple[str, ...] = ()
    files: tuple[File, ...] = ()
    info: dict[str, bytes] = field(default_factory=dict)
    license: str = "MIT"
    timestamp_ms: int | None = _TIME * 1000

    @property
    def stem(self) -> str:
        return f"{self.name}-{self.version}-{self.build}"

    def index(self) -> dict[str, Any]:
        """``info/index.json``."""
        row: dict[str, Any] = {
            "build": self.build,
            "build_number": self.build_number,
            "constrains": list(self.constrains),
            "depends": list(self.depends),
            "license": self.license,
            "name": self.name,
            "subdir": self.subdir,
            "version": self.version,
        }
        row |= {"timestamp": self.timestamp_ms} if self.timestamp_ms is not None else {}
        return row | ({"noarch": self.noarch} if self.noarch else {})

    def info_files(self) -> Iterator[File]:
        documents: dict[str, Any] = {
            "about.json": {"license": self.license},
            "index.json": self.index(),
            "paths.json": {"paths": [entry.entry() for entry in self.files], "paths_version": 1},
        }
        if self.noarch == "python":
            noarch = {"entry_points": list(self.entry_points), "type": "python"}
            documents["link.json"] = {"noarch": noarch, "package_metadata_version": 1}
        texts = {name: json.dumps(document, indent=1, sort_keys=True) for name, document in documents.items()}
        texts["files"] = "".join(f"{entry.path}\n" for entry in self.files)
        placed = [f"{PLACEHOLDER} {f.prefix_mode} {f.path}\n" for f in self.files if f.prefix_mode]
        if placed:
            texts["has_prefix"] = "".join(placed)
        for name, text in sorted(texts.items()):
            yield File(path=f"info/{name}", data=text.encode())
        for name, data in sorted(self.info.items()):
            yield File(path=f"info/{name}", data=data)


class Written(Struct, frozen=True, kw_only=True):
    """A package file on disk, with what a lock says of it."""

    package: Package
    path: Path
    size: int
    sha256: str
    md5: str

    @property
    def location(self) -> str:
        """The path inside the channel: ``subdir/file``."""
        return f"{self.path.parent.name}/{self.path.name}"


class Channel:
    """A folder of packages in conda's layout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.packages: dict[str, Written] = {}
        for subdir in ("noarch", SUBDIR):
            (folder / subdir).mkdir(parents=True, exist_ok=True)

    def add(self, *packages: Package, extension: Literal[".conda", ".tar.bz2"] = ".conda") -> None:
        """Write packages into the channel; ``index`` makes them visible to solvers."""
        for package in packages:
            path = self.folder / package.subdir / f"{package.stem}{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            written = write_package(package, path)
            self.packages[package.name] = written

    def index(self) -> None:
        """Write the repodata of every subdir with rattler's indexer."""
        asyncio.run(index_fs(self.folder, write_zst=True, write_shards=True, force=True))


def write_package(package: Package, path: Path) -> Written:
    """Write one ``.conda`` or ``.tar.bz2``; the same package gives the same bytes."""
    data = _conda(package) if path.suffix == ".conda" else _tar_bz2(package)
    path.write_bytes(data)
    digests = {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data, usedforsecurity=False).hexdigest()}
    return Written(package=package, path=path, size=len(data), **digests)


def _conda(package: Package) -> bytes:
    stream = io.BytesIO()
    compressor = zstandard.ZstdCompressor(level=1)
    with zipfile.ZipFile(stream, "w") as archive:
        for name, data in (
            ("metadata.json", json.dumps({"conda_pkg_format_version": 2}).encode()),
            (f"pkg-{package.stem}.tar.zst", compressor.compress(_tar(package.files))),
            (f"info-{package.stem}.tar.zst", compressor.compress(_tar(package.info_files()))),
        ):
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 1, 0, 0, 0)), data)
    return stream.getvalue()


def _tar_bz2(package: Package) -> bytes:
    return bz2.compress(_tar((*package.files, *package.info_files())), 1)


def _tar(files: Iterable[File]) -> bytes:
    stream = io.BytesIO()
    with tarfile.TarFile(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as archive:
        for entry in files:
            member = tarfile.TarInfo(entry.path)
            member.mtime = _TIME
            member.mode = 0o755 if entry.executable else 0o644
            if entry.link_to is not None:
                member.type, member.linkname = tarfile.SYMTYPE, entry.link_to
                archive.addfile(member)
            else:
                member.size = len(entry.data)
                archive.addfile(member, io.BytesIO(entry.data))
    return stream.getvalue()


def text_package(name: str, version: str, texts: dict[str, str], **fields: Any) -> Package:
    """A small package of text files; a text that holds ``PLACEHOLDER`` gets the prefix put in at link time."""
    files = tuple(
        File(
            path=path,
            data=text.encode(),
            executable=path.startswith("bin/"),
            prefix_mode="text" if PLACEHOLDER in text else None,
        )
        for path, text in sorted(texts.items())
    )
    return Package(name=name, version=version, files=files, **fields)


@functools.cache
def python_package() -> Package:
    """The running interpreter without its test suites, IDLE and Tk."""
    base = Path(sys.base_prefix)
    stdlib = Path(sysconfig.get_path("stdlib", vars={"installed_base": str(base), "base": str(base)}))
    files = [_program(base), *_library(base), *_standard_library(stdlib)]
    files += [File(path=f"bin/{name}", link_to=f"python{PYTHON}") for name in ("python", "python3")]
    return Package(
        name="python",
        version=PYTHON_VERSION,
        build="0_cpython",
        files=tuple(sorted(files, key=lambda entry: entry.path)),
        license="Python-2.0",
    )


def _program(base: Path) -> File:
    program = (base / "bin" / f"python{PYTHON}").resolve()
    return File(path=f"bin/python{PYTHON}", data=_relocate(program.read_bytes(), base), executable=True)


def _library(base: Path) -> list[File]:
    library = base / "lib" / str(sysconfig.get_config_var("INSTSONAME") or "")
    if not sysconfig.get_config_var("Py_ENABLE_SHARED") or not library.is_file():
        return []
    return [File(path=f"lib/{library.name}", data=_relocate(library.read_bytes(), base), executable=True)]


def _relocate(data: bytes, base: Path) -> bytes:
    """Let the dynamic linker look beside the program: ``$ORIGIN/../lib`` in place of the longer build path."""
    old, new = f"{base}/lib".encode() + b"\0", b"$ORIGIN/../lib"
    return data.replace(old, new.ljust(len(old), b"\0")) if len(new) < len(old) else data


def _standard_library(stdlib: Path) -> Iterator[File]:
    for path in sorted(stdlib.rglob("*")):
        relative = path.relative_to(stdlib)
        left_out = _STDLIB_LEFT_OUT & set(relative.parts) or relative.parts[0].startswith("config-")
        if left_out or not path.is_file() or path.suffix == ".a" or "EXTERNALLY-MANAGED" in path.name:
            continue
        data = _as_released(relative.as_posix(), path.read_bytes())
        yield _file(f"lib/python{PYTHON}/{relative.as_posix()}", data, sys.base_prefix, executable=False)
    if "deb_system" in sysconfig.get_scheme_names():  # Debian's frozen `site` reads only `dist-packages`
        yield File(path="lib/python3/dist-packages/site-packages.pth", data=_ADD_SITE_PACKAGES)
    yield File(path=f"{SITE_PACKAGES}/README.txt", data=b"Third-party packages go here.\n")


def _as_released(path: str, data: bytes) -> bytes:
    """Undo Debian's patch, with which Python outside a virtual environment installs into ``dist-packages``."""
    if path in {"sysconfig.py", "sysconfig/__init__.py"}:
        return data.replace(b"prefix_scheme = 'posix_local'", b"prefix_scheme = 'posix_prefix'")
    return data


def _file(path: str, data: bytes, prefix: str, *, executable: bool) -> File:
    old = prefix.encode()
    if old in data and b"\0" not in data and len(old) > len("/usr"):
        return File(path=path, data=data.replace(old, PLACEHOLDER.encode()), executable=executable, prefix_mode="text")
    return File(path=path, data=data, executable=executable)


def pip_package() -> Package:
    """pip as it is installed beside this Python, as a noarch package."""
    return repack("pip")


@functools.cache
def repack(name: str, *, conda_name: str | None = None, build: str | None = None) -> Package:
    """An installed distribution as a conda package: noarch where it is pure, of this platform where it is not."""
    distribution = metadata.distribution(name)
    found = [entry for entry in distribution.files or () if not {"__pycache__", "tests"} & set(entry.parts)]
    pure = not any(re.search(r"\.(so|dylib|pyd)(\.|$)", entry.name) for entry in found)
    scripts = tuple(
        f"{point.name} = {point.value}" for point in distribution.entry_points if point.group == "console_scripts"
    )
    base = "site-packages" if pure else SITE_PACKAGES
    files = [*_modules(distribution, found, base), *([] if pure else _launchers(scripts))]
    key = canonicalize_name(name)
    return Package(
        name=conda_name or CONDA_NAMES.get(key, key),
        version=distribution.version.replace("-", "_"),
        build=build or ("pyhd8ed1ab_0" if pure else f"py{PYTHON.replace('.', '')}h0000000_0"),
        subdir="noarch" if pure else SUBDIR,
        noarch="python" if pure else None,
        depends=_dependencies(distribution, pure=pure),
        entry_points=scripts if pure else (),
        files=tuple(sorted(files, key=lambda entry: entry.path)),
    )


def _dependencies(distribution: metadata.Distribution, *, pure: bool) -> tuple[str, ...]:
    wanted = ["python >=3.10"] if pure else [f"python {PYTHON}.*"]
    for text in distribution.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            name = canonicalize_name(requirement.name)
            wanted.append(f"{CONDA_NAMES.get(name, name)} {_conda_version(requirement)}".strip())
    return tuple(sorted(set(wanted)))


def _conda_version(requirement: Requirement) -> str:
    return ",".join(sorted(str(part).replace("===", "==") for part in requirement.specifier))


def _modules(distribution: metadata.Distribution, found: list[Any], base: str) -> Iterator[File]:
    kept = [entry for entry in found if ".." not in entry.parts and not PurePosixPath(entry).is_absolute()]
    skipped = {"RECORD", "INSTALLER", "REQUESTED", "direct_url.json"}
    record_path, rows = None, []
    for entry in kept:
        in_info = len(entry.parts) == 2 and entry.parts[0].endswith(".dist-info")
        if in_info and entry.name in skipped:
            record_path = str(entry.parent / "RECORD")
            continue
        data = Path(str(distribution.locate_file(entry))).read_bytes()
        rows.append(f"{entry.as_posix()},,\n")
        yield File(path=f"{base}/{entry.as_posix()}", data=data)
    if record_path is not None:
        installer = record_path.replace("RECORD", "INSTALLER")
        yield File(path=f"{base}/{installer}", data=b"conda\n")
        rows += [f"{installer},,\n", f"{record_path},,\n"]
        yield File(path=f"{base}/{record_path}", data="".join(sorted(rows)).encode())


def _launchers(scripts: tuple[str, ...]) -> Iterator[File]:
    for script in scripts:
        name, _, target = script.partition(" = ")
        module, _, attribute = target.partition(":")
        top = attribute.split(".", 1)[0]
        text = f"#!{PLACEHOLDER}/bin/python\nimport sys\nfrom {module} import {top}\nsys.exit({attribute}())\n"
        yield File(path=f"bin/{name}", data=text.encode(), executable=True, prefix_mode="text")


def requested_closure(*names: str) -> tuple[Package, ...]:
    """The named distributions and everything that they need, each repacked once, without Python itself."""
    packages: dict[str, Package] = {}
    waiting = list(names)
    while waiting:
        package = repack(canonicalize_name(waiting.pop()))
        if package.name not in packages:
            packages[package.name] = package
            waiting += [text.split(" ", 1)[0] for text in package.depends if not text.startswith("python ")]
    return tuple(packages[name] for name in sorted(packages))


def renamed(package: Package, **changes: Any) -> Package:
    """The same content under another name, version or build: cheap bulk for large channels."""
    return replace(package, **changes)
