"""Find files that the template moved between two versions, or that the user moved inside the project."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from envforge.project.staging import PlannedFile
from envforge.project.textmerge import is_text

_ALIKE = 0.6  # of the lines; git requires 50 % by default (`git diff --find-renames`)
_LARGEST = 1_000_000
_MOST_FILES = 5_000
_SKIPPED = ("__pycache__", "node_modules", "runs", "site-packages")


def moved_by_template(
    base: Mapping[PurePosixPath, PlannedFile], new: Mapping[PurePosixPath, PlannedFile]
) -> dict[PurePosixPath, PurePosixPath]:
    """Return the new path of each file that the template moved; each path is in at most one pair."""
    gone, come = sorted(base.keys() - new.keys()), sorted(new.keys() - base.keys())
    pairs = sorted(
        ((_likeness(base[old].content, new[there].content), old, there) for old in gone for there in come),
        key=lambda pair: (-pair[0], pair[1].name != pair[2].name, pair[1], pair[2]),
    )
    moves: dict[PurePosixPath, PurePosixPath] = {}
    for likeness, old, there in pairs:
        if likeness >= _ALIKE and old not in moves and there not in moves.values():
            moves[old] = there
    return moves


def moved_by_user(folder: Path, file: PlannedFile, known: Collection[PurePosixPath]) -> PurePosixPath | None:
    """Return where the user moved ``file``: to the most similar file, or ``None`` if none is similar enough."""
    best: tuple[float, bool, PurePosixPath] | None = None
    for path in _candidates(folder, file.path.suffix):
        if path in known:
            continue
        likeness = _likeness(file.content, (folder / path).read_bytes())
        found = (likeness, path.name == file.path.name, path)
        if likeness >= _ALIKE and (best is None or found[:2] > best[:2]):
            best = found
    return None if best is None else best[2]


def _candidates(folder: Path, suffix: str) -> Iterator[PurePosixPath]:
    seen = 0
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _SKIPPED)
        for name in sorted(names):
            seen += 1
            if seen > _MOST_FILES:
                return
            place = Path(where) / name
            if place.suffix == suffix and not place.is_symlink() and 0 < place.stat().st_size <= _LARGEST:
                yield PurePosixPath(place.relative_to(folder).as_posix())


def _likeness(one: bytes, other: bytes) -> float:
    """Return 1 for the same bytes, else the share of lines that two texts have in common, or 0 for binary files."""
    if one == other:
        return 1.0 if one else 0.0
    if not (is_text(one) and is_text(other)):
        return 0.0
    matcher = difflib.SequenceMatcher(None, one.splitlines(), other.splitlines(), autojunk=False)
    return matcher.ratio() if matcher.real_quick_ratio() >= _ALIKE and matcher.quick_ratio() >= _ALIKE else 0.0
