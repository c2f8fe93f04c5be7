"""Read the CUDA libraries of torch builds from the Python package index that pip or uv is configured for.

    python -m tools.catalogue.read_registry

Writes `data/facts/wheels/registry.toml` for the builds of `torch.toml`, with paths relative to the root of the index's
files and never with its host. Reads the rows of `metadata.toml` again whose source is a file on the index. Needs the
network; `build_catalogue` doesn't.
"""

from __future__ import annotations

import datetime as dt
import email
import html
import os
import re
import sys
import urllib.request
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from packaging.requirements import Requirement
from packaging.tags import Tag, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

from envforge.lock.python_index import PythonIndex, configured_index
from tools.catalogue.remote_zip import remote_size, wheel_metadata
from tools.catalogue.requirements import mandatory, torch_requires
from tools.catalogue.wheels import WheelFacts
from tools.facts.read import FACTS, to_row
from tools.facts.rows import Metadata, RegistryWheel, TorchWheel
from tools.facts.write import write_rows

FOLDER = FACTS / "wheels"
WHEEL_SOURCE = "simple pages and metadata of the Python package registry"
METADATA_SOURCE = "metadata of the file on the Python package registry"
REGISTRY_COMMENT = """\
# CUDA libraries and triton on the Python package registry. `path` is relative to the root of the registry's files.
# Written by `python -m tools.catalogue.read_registry`."""
METADATA_COMMENT = (
    "# What a wheel on the Python package registry requires: Requires-Dist without the optional extras, "
    "and Requires-Python."
)
_LINK = re.compile(r'<a href="(?P<href>[^"#]+)#sha256=(?P<sha256>[0-9a-f]{64})"')
_REGISTRY_ONLY = ("nvidia-", "cuda-", "triton")
_MARKERS = {
    "platform_system": "Linux",
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "os_name": "posix",
    "python_version": "3.12",
    "python_full_version": "3.12.0",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
}
# the newest wheel may require a newer glibc than the torch wheel, which is built for 2.28
_PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)]
_PLATFORMS += ["manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"]


class _Reader(Struct):
    index: PythonIndex
    pages: dict[str, dict[str, tuple[str, str]]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def page(self, project: str) -> dict[str, tuple[str, str]]:
        """Return the URL and SHA-256 of each file of one project, by file name."""
        if project not in self.pages:
            text = _fetch(f"{self.index.simple_url.rstrip('/')}/{project}/").decode()
            links = [(html.unescape(match["href"]), match["sha256"]) for match in _LINK.finditer(text)]
            self.pages[project] = {href.rsplit("/", 1)[-1]: (href, sha256) for href, sha256 in links}
        return self.pages[project]

    def newest(self, requirements: list[Requirement], tags: set[Tag]) -> tuple[Version, str]:
        """Return the newest release wheel that every requirement and the platform allow."""
        project = canonicalize_name(requirements[0].name)
        fitting = []
        for name in self.page(project):
            if not name.endswith(".whl"):
                continue
            _, version, _, wheel_tags = parse_wheel_filename(name)
            if wheel_tags & tags and all(r.specifier.contains(version) for r in requirements):
                fitting.append((version, name))
        if not fitting:
            raise SystemExit(f"no wheel of {project} fits {', '.join(map(str, requirements))}")
        return max(fitting)

    def row(self, project: str, file_name: str) -> dict[str, Any]:
        """Return the facts of one wheel, with its path relative to the root of the index's files."""
        if file_name not in self.rows:
            self.rows[file_name] = self._read(project, file_name)
        return self.rows[file_name]

    def _read(self, project: str, file_name: str) -> dict[str, Any]:
        url, sha256 = self.page(project)[file_name]
        metadata = email.message_from_string(wheel_metadata(url))
        return {
            "package": project,
            "version": metadata["Version"],
            "path": url.split("/packages/", 1)[1],
            "sha256": sha256,
            "size": remote_size(url),
            "requires": metadata.get_all("Requires-Dist") or [],
            "requires_python": metadata["Requires-Python"],
        }


def wheels_for(reader: _Reader, lines: tuple[str, ...]) -> dict[str, str]:
    """Return what a build needs from the index: for each project, the file name of the newest wheel that fits."""
    tags = set(cpython_tags((3, 12), platforms=_PLATFORMS)) | {
        Tag(python, "none", platform) for python in ("py3", "py2", "cp312") for platform in [*_PLATFORMS, "any"]
    }
    wanted: dict[str, list[Requirement]] = {}
    chosen: dict[str, str] = {}
    waiting = [_active(line, frozenset()) for line in lines]
    while waiting:
        requirement = waiting.pop(0)
        if requirement is None or not requirement.name.startswith(_REGISTRY_ONLY):
            continue
        project = canonicalize_name(requirement.name)
        wanted.setdefault(project, []).append(requirement)
        extras = frozenset(extra for r in wanted[project] for extra in r.extras)
        _, chosen[project] = reader.newest(wanted[project], tags)
        requires = reader.row(project, chosen[project])["requires"]
        found = [_active(line, extras) for line in requires]
        waiting += [r for r in found if r is not None and r not in wanted.get(canonicalize_name(r.name), ())]
    return chosen


def main() -> int:
    """Write both files."""
    facts = WheelFacts.read(FOLDER)
    reader = _Reader(configured_index(os.environ, Path.home(), Path(sys.prefix)))
    today = dt.datetime.now(tz=dt.timezone.utc).date()
    rows: dict[str, RegistryWheel] = {}
    of_index = {row.index for row in facts.libraries}
    for build in facts.builds:
        if build.version.partition("+")[2] in of_index:
            continue  # the PyTorch index itself has the libraries
        lines = torch_requires(build, facts.metadata_of("torch", build.like)).lines
        for project, name in wheels_for(reader, lines).items():
            row = _stated(reader.row(project, name)) | {"source": WHEEL_SOURCE, "checked": today}
            rows[name] = to_row(row, RegistryWheel, name)
            print(f"{build.version}: {name}", file=sys.stderr)
    metadata = [_read_again(reader, row, facts.libraries, today) for row in facts.metadata]
    write_registry(FOLDER, [rows[name] for name in sorted(rows)])
    write_metadata(FOLDER, metadata)
    return 0


def write_registry(folder: Path, rows: Iterable[RegistryWheel]) -> None:
    """Write `registry.toml`."""
    write_rows(folder / "registry.toml", REGISTRY_COMMENT, {"wheel": rows})


def write_metadata(folder: Path, rows: Iterable[Metadata]) -> None:
    """Write `metadata.toml`."""
    write_rows(folder / "metadata.toml", METADATA_COMMENT, {"metadata": rows})


def _stated(row: dict[str, Any]) -> dict[str, Any]:
    """Leave out optional extras, except those of ``cuda-toolkit``, which exists only for its extras."""
    lines = row["requires"]
    return row | {"requires": list(lines if row["package"] == "cuda-toolkit" else mandatory(lines))}


def _read_again(reader: _Reader, known: Metadata, libraries: Iterable[TorchWheel], today: dt.date) -> Metadata:
    """Read the metadata of a file again; rows from another source are kept."""
    if known.source != METADATA_SOURCE:
        return known
    library = next((row for row in libraries if row.package == known.package), None)
    prefix = f"{known.package}-{known.version}-cp312"
    name = (
        library.url.rsplit("/", 1)[-1]
        if library
        else next(n for n in reader.page(known.package) if n.startswith(prefix))
    )
    row = _stated(reader.row(known.package, name))
    if library and row["sha256"] != library.sha256:
        raise SystemExit(f"{name}: expected sha256 {library.sha256}, found {row['sha256']} on the registry")
    fields = {key: row[key] for key in ("package", "requires", "requires_python")}
    stated = {"version": known.version, "source": METADATA_SOURCE, "checked": today, **fields}
    return to_row(stated, Metadata, name)


def _active(line: str, extras: frozenset[str]) -> Requirement | None:
    requirement = Requirement(line)
    if requirement.marker is None:
        return requirement
    active = any(requirement.marker.evaluate({**_MARKERS, "extra": extra}) for extra in {"", *extras})
    return requirement if active else None


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    return content


if __name__ == "__main__":
    raise SystemExit(main())
