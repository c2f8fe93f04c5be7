"""Derive the requirements of a torch build: those of the index's build, changed as `wheels/torch.toml` states."""

from __future__ import annotations

from msgspec import Struct
from packaging.requirements import Requirement

from tools.facts.rows import Build, Metadata


class Requires(Struct, frozen=True, kw_only=True):
    """The requirements of one build of a package and where they were read."""

    lines: tuple[str, ...]
    python: str
    source: str


def metadata_requires(row: Metadata) -> Requires:
    """Return the requirements of a wheel on the package index."""
    source = f"{row.source}, {row.checked.isoformat()}"
    return Requires(lines=tuple(row.requires), python=row.requires_python or "", source=source)


def mandatory(lines: list[str] | tuple[str, ...]) -> tuple[str, ...]:
    """Return the requirements that don't belong to an optional extra."""
    return tuple(line for line in lines if not _names(line, "extra"))


def torch_requires(build: Build, like: Metadata) -> Requires:
    """Return the requirements of a torch build; `like` is the metadata of the index's build."""
    lines = tuple(like.requires)
    if build.without is not None:
        lines = tuple(line for line in lines if not _names(line, build.without))
    marker = f"; {build.add_marker}" if build.add_marker else ""
    added = tuple(line + marker for line in build.add)
    return Requires(lines=lines + added, python=like.requires_python or "", source=build.source)


def _names(line: str, variable: str) -> bool:
    marker = Requirement(line).marker
    return marker is not None and variable in str(marker)
