"""Merge the changes of a template into the files of a project.

Every line of the project that the template changed or removed too is kept, or is part of a conflict.

The template's change is merged with the user's edits in a three-way merge.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from envforge.base.git import has_git, run_git
from envforge.base.staging import PlannedFile
from envforge.errors import OutsideError

OnConflict = Literal["inline", "rej"]
_LABELS = ("yours", "the template before", "the template now")


class Merged(Struct, frozen=True, kw_only=True):
    """The merged text; ``rejected`` is a patch of what couldn't be merged (only with ``rej``)."""

    content: bytes
    conflicts: int = 0
    rejected: bytes | None = None


def is_text(content: bytes) -> bool:
    """Return whether the content can be merged line by line: UTF-8 without NUL."""
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def merge_text(base: bytes, mine: bytes, new: bytes, on_conflict: OnConflict) -> Merged:
    """Merge the change from ``base`` to ``new`` into ``mine``, and keep its line endings."""
    if _has_other_line_ends(mine, base):
        merged = merge_text(base, mine.replace(b"\r\n", b"\n"), new, on_conflict)
        return Merged(
            content=merged.content.replace(b"\n", b"\r\n"), conflicts=merged.conflicts, rejected=merged.rejected
        )
    with tempfile.TemporaryDirectory(prefix="envforge-update-") as name:
        folder = Path(name)
        for part, content in (("mine", mine), ("base", base), ("new", new)):
            (folder / part).write_bytes(content)
        conflicts, content = _merge_file(folder, "--diff3")
        if conflicts == 0 or on_conflict == "inline":
            return Merged(content=content, conflicts=conflicts)
        # git has no format for rejected changes, so they are the difference between its two one-sided merges
        ours, theirs = _merge_file(folder, "--ours")[1], _merge_file(folder, "--theirs")[1]
    return Merged(content=ours, conflicts=conflicts, rejected=unified_diff(ours, theirs, "yours", "the template now"))


def has_conflict(content: bytes) -> bool:
    """Return whether a file still contains both markers of a conflict that ``merge_text`` wrote."""
    return all(
        re.search(rb"(?m)^" + mark, content) for mark in (rb"<<<<<<< yours\r?$", rb">>>>>>> the template now\r?$")
    )


def same_text(mine: bytes, other: bytes) -> bool:
    """Return whether two files differ at most in line endings, which git converts in a checkout on Windows."""
    return mine == other or (_has_other_line_ends(mine, other) and mine.replace(b"\r\n", b"\n") == other)


def _has_other_line_ends(mine: bytes, base: bytes) -> bool:
    return b"\r\n" in mine and b"\r\n" not in base and mine.count(b"\r\n") == mine.count(b"\n")


def _merge_file(folder: Path, *options: str) -> tuple[int, bytes]:
    labels = [word for label in _LABELS for word in ("-L", label)]
    words = ["merge-file", "-p", "-q", *options, *labels, "mine", "base", "new"]
    done = run_git(folder, *words, isolated=True)  # the settings of a user must not change the result
    if not 0 <= done.code <= 127:  # git's manual: the number of conflicts, at most 127; above, an error
        raise OutsideError(f"`git merge-file` failed with exit code {done.code}: {done.reason}", code="git-failed")
    return done.code, done.stdout


def unified_diff(before: bytes, after: bytes, name_before: str, name_after: str) -> bytes:
    """Return a unified diff, which `patch` accepts even if the last line of a file doesn't end."""
    old, new = (re.findall(rb"[^\n]*\n|[^\n]+", content) for content in (before, after))
    names = (name_before.encode(), name_after.encode())
    lines = difflib.diff_bytes(difflib.unified_diff, old, new, *names, lineterm=b"\n")
    return b"".join(line if line.endswith(b"\n") else line + b"\n\\ No newline at end of file\n" for line in lines)


_ALIKE = 0.6  # of the lines; git requires 50 % by default (`git diff --find-renames`)
_LARGEST = 1_000_000
# a project may contain a data set of many files, which would be compared one by one
_MOST_FILES = 5_000
# directories with many files that no template wrote
_SKIPPED = ("__pycache__", "node_modules", "runs", "site-packages")


def moved_by_template(
    base: Mapping[PurePosixPath, PlannedFile], new: Mapping[PurePosixPath, PlannedFile]
) -> dict[PurePosixPath, PurePosixPath]:
    """Return the new path of each file that the template moved; each path is in at most one pair."""
    gone, come = sorted(base.keys() - new.keys()), sorted(new.keys() - base.keys())
    pairs = sorted(
        ((_likeness(base[old].content, new[there].content), old, there) for old in gone for there in come),
        # the most similar first, then those that kept their name; then by path, for the same result each time
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


ProjectFiles: TypeAlias = Mapping[PurePosixPath, PlannedFile]
Action = Literal["add", "update", "merge", "conflict", "move", "remove", "yours"]


class FileChange(Struct, frozen=True, kw_only=True):
    """One file: ``before`` is its content at ``path`` or ``moved_from``, ``after`` the content that it gets.

    ``beside`` is a second file, with what couldn't be merged. ``note`` adds what the action doesn't express.
    """

    path: PurePosixPath
    action: Action
    before: PlannedFile | None = None
    after: PlannedFile | None = None
    beside: PlannedFile | None = None
    moved_from: PurePosixPath | None = None
    conflicts: int = 0
    note: str = ""

    @property
    def writes(self) -> bool:
        """True if anything on disk changes."""
        return self.action != "yours"


class _Sides(Struct, frozen=True, kw_only=True):
    base: ProjectFiles
    new: ProjectFiles
    folder: Path
    on_conflict: OnConflict


def plan_changes(
    base: ProjectFiles, new: ProjectFiles, folder: Path, on_conflict: OnConflict
) -> tuple[FileChange, ...]:
    """Return the changes, sorted by path; files that only the user or neither side changed have none."""
    sides = _Sides(base=base, new=new, folder=folder, on_conflict=on_conflict)
    moves = {old: there for old, there in moved_by_template(base, new).items() if not os.path.lexists(folder / there)}
    changes = [_moved(sides, old, there) for old, there in moves.items()]
    changes += [_dropped(sides, path) for path in base.keys() - new.keys() - moves.keys()]
    changes += [_added(sides, path) for path in new.keys() - base.keys() - set(moves.values())]
    changes += _all_changed(sides)
    return tuple(sorted((change for change in changes if change is not None), key=lambda change: change.path))


def read_there(folder: Path, path: PurePosixPath) -> PlannedFile | None:
    """Read the project's file at ``path``; return ``None`` if it isn't a regular file or is behind a link."""
    place = folder / path
    if any((folder / parent).is_symlink() for parent in path.parents if parent.parts):
        return None
    if place.is_symlink() or not place.is_file():
        return None
    return PlannedFile(path=path, content=place.read_bytes(), executable=bool(place.stat().st_mode & 0o100))


def _obstacle(folder: Path, path: PurePosixPath) -> str:
    """Return what keeps envforge from writing a file at ``path``; empty if nothing does."""
    for part in (path, *path.parents):
        place = folder / part
        if part.parts and place.is_symlink():
            return f"`{part}` is a link"
    if os.path.lexists(folder / path) and not (folder / path).is_file():
        return "it isn't a regular file"
    parent = next(
        (p for p in path.parents if p.parts and os.path.lexists(folder / p) and not (folder / p).is_dir()), None
    )
    return f"`{parent}` isn't a directory" if parent else ""


def _all_changed(sides: _Sides) -> list[FileChange]:
    """Return the changes of files that both versions of the template have.

    A file that the user moved is matched to at most one of them.
    """
    # a file of the template is where the template put it, so the user can't have moved another one there
    known, found = {*sides.base, *sides.new}, []
    for path in sorted(sides.base.keys() & sides.new.keys()):
        change = _changed(sides, path, known)
        if change is not None:
            known.add(change.path)
            found.append(change)
    return found


def _changed(sides: _Sides, path: PurePosixPath, known: Collection[PurePosixPath]) -> FileChange | None:
    base, new = sides.base[path], sides.new[path]
    if base.content == new.content and base.executable == new.executable:
        return None
    obstacle = _obstacle(sides.folder, path)
    if obstacle:
        return FileChange(path=path, action="yours", note=f"{obstacle}; the template changed this file")
    mine = read_there(sides.folder, path)
    if mine is not None:
        return _three_way(sides, base, mine, new)
    place = moved_by_user(sides.folder, base, known)
    moved = None if place is None else read_there(sides.folder, place)
    if place is None or moved is None:
        return FileChange(
            path=path, action="yours", note="you removed it, so it remains removed; the template changed it"
        )
    change = _three_way(sides, base, moved, replace(new, path=place))
    return None if change is None else replace(change, note=f"the template's `{path}`, which you moved here")


def _dropped(sides: _Sides, path: PurePosixPath) -> FileChange | None:
    mine = read_there(sides.folder, path)
    if mine is None:
        return None
    if same_text(mine.content, sides.base[path].content):
        return FileChange(path=path, action="remove", before=mine)
    return FileChange(path=path, action="yours", note="the template no longer has it; your edited file is kept")


def _added(sides: _Sides, path: PurePosixPath) -> FileChange | None:
    new, mine = sides.new[path], read_there(sides.folder, path)
    obstacle = _obstacle(sides.folder, path)
    if obstacle:
        return FileChange(path=path, action="yours", note=f"{obstacle}; the template now has a file of this name")
    if mine is None:
        return FileChange(path=path, action="add", after=new)
    if same_text(mine.content, new.content):
        return None
    beside = _beside(sides.folder, path, ".new", new.content)
    note = f"your file is kept; the template's new file of this name is `{beside.path}`"
    return FileChange(path=path, action="conflict", before=mine, after=mine, beside=beside, conflicts=1, note=note)


def _moved(sides: _Sides, old: PurePosixPath, there: PurePosixPath) -> FileChange | None:
    """Move a file as the template did, with the user's edits in it."""
    mine, obstacle = read_there(sides.folder, old), _obstacle(sides.folder, there)
    if mine is None or obstacle:
        note = obstacle or f"you removed it as `{old}`, so it remains removed; the template moved it"
        return FileChange(path=there, action="yours", note=note)
    new = sides.new[there]
    change = _three_way(sides, sides.base[old], mine, new)
    if change is None:
        change = FileChange(path=there, action="move", before=mine, after=replace(mine, path=there))
    return replace(change, moved_from=old, action="move" if change.action == "update" else change.action)


def _three_way(sides: _Sides, base: PlannedFile, mine: PlannedFile, new: PlannedFile) -> FileChange | None:
    """Apply the change from ``base`` to ``new`` to ``mine``; the result is at the path of ``new``."""
    executable = new.executable if new.executable != base.executable else mine.executable
    # the user's bytes are kept, which may differ in their line endings
    if same_text(mine.content, new.content) or base.content == new.content:
        content = mine.content
    elif same_text(mine.content, base.content):
        content = _with_line_ends_of(mine.content, base.content, new.content)
    elif all(is_text(file.content) for file in (base, mine, new)) and has_git():
        return _merged(sides, (base.content, mine, new), executable=executable)
    else:
        return _unmerged(sides, mine, new)
    after = PlannedFile(path=new.path, content=content, executable=executable)
    if (after.content, after.executable) == (mine.content, mine.executable):
        return None
    return FileChange(path=new.path, action="update", before=mine, after=after)


def _merged(sides: _Sides, texts: tuple[bytes, PlannedFile, PlannedFile], *, executable: bool) -> FileChange | None:
    base, mine, new = texts
    merged = merge_text(base, mine.content, new.content, sides.on_conflict)
    after = PlannedFile(path=new.path, content=merged.content, executable=executable)
    if not merged.conflicts:
        same = (after.content, after.executable) == (mine.content, mine.executable)
        return None if same else FileChange(path=new.path, action="merge", before=mine, after=after)
    beside = None
    note = f"{merged.conflicts} conflict{'s' if merged.conflicts > 1 else ''}"
    if merged.rejected is None:
        note += ": search for <<<<<<<"
    else:
        beside = _beside(sides.folder, new.path, ".rej", merged.rejected)
        note += f": the rejected changes are in `{beside.path}`"
    return FileChange(
        path=new.path, action="conflict", before=mine, after=after, beside=beside, conflicts=merged.conflicts, note=note
    )


def _unmerged(sides: _Sides, mine: PlannedFile, new: PlannedFile) -> FileChange:
    beside = _beside(sides.folder, new.path, ".new", new.content)
    why = "it isn't a text file" if has_git() else "merging requires git, which isn't on PATH"
    note = f"both sides changed it, and {why}: your file is kept, the template's is `{beside.path}`"
    after = replace(mine, path=new.path)
    return FileChange(path=new.path, action="conflict", before=mine, after=after, beside=beside, conflicts=1, note=note)


def _with_line_ends_of(mine: bytes, base: bytes, new: bytes) -> bytes:
    return new if mine == base else new.replace(b"\n", b"\r\n")


def _beside(folder: Path, path: PurePosixPath, ending: str, content: bytes) -> PlannedFile:
    """Return a file next to ``path`` with an unused name, or with a name that has this content already."""
    number = 0
    while True:
        name = path.with_name(f"{path.name}{ending}{number or ''}")
        there = read_there(folder, name)
        if not os.path.lexists(folder / name) or (there is not None and there.content == content):
            return PlannedFile(path=name, content=content)
        number += 1
