"""List the variants of a project by name, in the order in which they are tried, without reading lockfiles."""

from __future__ import annotations

from pathlib import Path

from packaging.version import Version

from envforge.cuda import WheelTag

FOLDER = "lockfiles"
LOCK_NAME = "conda-lock.yml"


def list_variants(project: Path) -> tuple[str, ...]:
    """Return the names in ``lockfiles/``: CUDA newest first, then other names, ``cpu`` last."""
    return tuple(sorted((path.parent.name for path in project.glob(f"{FOLDER}/*/{LOCK_NAME}")), key=order_of))


def order_of(name: str) -> tuple[int, Version, str]:
    """Return the sort key of a variant: CUDA newest first, then names that are no tag, ``cpu`` last."""
    try:
        tag = WheelTag.parse(name)
    except ValueError:
        return (1, Version("0"), name)
    if tag.cuda is None:
        return (2, Version("0"), name)
    return (0, Version(f"{1000 - tag.cuda.major}.{1000 - tag.cuda.minor}"), name)
