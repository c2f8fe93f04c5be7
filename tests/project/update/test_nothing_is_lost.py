"""Test that an update keeps every line of the user's, whatever the user and the template do to the same files."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from envforge.base.staging import TargetError
from envforge.project.changes import OnConflict
from envforge.project.update import UpdateRequest
from tests.project.update.support import FILES, World, made

NAMES = ("a.txt", "b.txt", "sub/c.txt")
BASE = {name: [f"{name} line {number}" for number in range(8)] for name in NAMES}
_edits = st.lists(st.tuples(st.sampled_from(["insert", "delete", "replace"]), st.integers(0, 9)), max_size=5)
_fates = st.sampled_from(["edit", "edit", "edit", "leave", "delete", "move"])
_side = st.fixed_dictionaries({name: st.tuples(_fates, _edits) for name in NAMES})
Side = dict[str, tuple[str, list[tuple[str, int]]]]


def _edited(lines: list[str], edits: list[tuple[str, int]], who: str) -> list[str]:
    lines = list(lines)
    for number, (kind, at) in enumerate(edits):
        place = min(at, len(lines))
        if kind == "insert":
            lines.insert(place, f"{who} {number} at {at}")
        elif place < len(lines):
            lines[place : place + 1] = [] if kind == "delete" else [f"{who} {number} at {at}"]
    return lines


def _text(lines: list[str], *, last: bool) -> bytes:
    """The file; without ``last`` its last line does not end."""
    text = "".join(f"{line}\n" for line in lines)
    return (text if last else text.removesuffix("\n")).encode()


def _after(side: Side, who: str, *, last: bool) -> dict[str, bytes]:
    files = {}
    for name, (fate, edits) in side.items():
        lines = _edited(BASE[name], edits, f"{who} {name}") if fate in ("edit", "move") else BASE[name]
        if fate != "delete":
            files[f"moved/{name}" if fate == "move" else name] = _text(lines, last=last)
    return files


def _apply_as_user(world: World, user: Side, *, last: bool) -> dict[str, bytes]:
    for name in NAMES:
        (world.project / name).unlink()
    files = {name.replace("moved/", "mine/"): content for name, content in _after(user, "user", last=last).items()} | {
        "own/notes": b"user's own file\n",
        "b.txt.new": b"user's too\n",
    }
    for name, content in files.items():
        world.write(name, content)
    return files


def _lines(files: dict[str, bytes]) -> set[str]:
    return {line for content in files.values() for line in content.decode().replace("\r", "").split("\n")}


@settings(max_examples=30, deadline=None)
@given(user=_side, template=_side, how=st.sampled_from(["inline", "rej"]), last=st.booleans())
def test_every_line_of_the_user_survives_or_is_in_a_conflict(
    user: Side, template: Side, how: OnConflict, last: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = made(Path(folder), {name: _text(lines, last=True) for name, lines in BASE.items()})
        mine = _apply_as_user(world, user, last=last)
        theirs = _after(template, "template", last=True)
        world.write_template(theirs, version=2)

        world.update(UpdateRequest(on_conflict=how))
        once = world.contents()

        there = _lines(once) | {line[1:] for line in _lines(once) if line.startswith("+")}  # lines of a patch
        assert {line for line in _lines(mine) if line.startswith("user")} <= there
        assert once["own/notes"] == b"user's own file\n"
        assert once["b.txt.new"] == b"user's too\n"
        left_alone = {name for name, (fate, _) in template.items() if fate == "leave"}
        assert {name: once.get(name) for name in left_alone} == {name: mine.get(name) for name in left_alone}
        gone = {name for name, (fate, _) in user.items() if fate == "delete"}
        assert not {name for name in gone if name in once}
        for name, (fate, _) in template.items():
            if fate in ("edit", "leave") and user[name][0] in ("edit", "leave"):
                wanted = {line for line in _lines({name: theirs[name]}) if line.startswith("template")}
                assert wanted <= there

        assert world.update(UpdateRequest(on_conflict=how)).changes == ()
        assert world.contents() == once


@settings(max_examples=10, deadline=None)
@given(user=_side, last=st.booleans())
def test_an_update_without_a_change_of_the_template_changes_nothing(user: Side, last: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        world = made(Path(folder), {name: _text(lines, last=True) for name, lines in BASE.items()})
        _apply_as_user(world, user, last=last)
        before = world.contents()

        update = world.update()

        assert update.changes == ()
        assert world.contents() == before


def test_update_does_not_write_through_a_linked_directory(tmp_path: Path) -> None:
    world, elsewhere = made(tmp_path), tmp_path / "elsewhere"
    (world.project / ".envforge").rename(elsewhere)
    (world.project / ".envforge").symlink_to(elsewhere)
    world.write_template({**FILES, "__package__/train.py": b"train = 2\n"}, version=2)
    before = world.contents(), {path: path.read_bytes() for path in elsewhere.iterdir()}

    with pytest.raises(TargetError, match=r"is a symbolic link, so .* nothing was written"):
        world.update()

    assert (world.contents(), {path: path.read_bytes() for path in elsewhere.iterdir()}) == before
