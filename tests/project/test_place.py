from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from filelock import FileLock

from envforge.base.staging import STAGING, Interrupts, PlannedFile, TargetError, settle_interrupted
from envforge.errors import OutsideError
from envforge.project.plan import abandoned, place, plan_placement
from tests.project.trees import in_child, names, send, trap, trap_each, trap_rename, tree

assert sys.platform != "win32"


def _file(path: str, text: str, *, executable: bool = False) -> PlannedFile:
    return PlannedFile(path=PurePosixPath(path), content=text.encode(), executable=executable)


FILES = (
    _file("README.md", "read me\n"),
    _file("net/__init__.py", ""),
    _file("net/train.py", "train\n"),
    _file("net/deep/er/x.py", "x\n"),
    _file("run.sh", "#!/bin/sh\n", executable=True),
)
WHOLE = {
    "README.md": "read me\n",
    "net": "folder",
    "net/__init__.py": "",
    "net/deep": "folder",
    "net/deep/er": "folder",
    "net/deep/er/x.py": "x\n",
    "net/train.py": "train\n",
    "run.sh": "#!/bin/sh\n",
}
OLD = {"README.md": "mine\n", "net": "folder", "net/train.py": "train of old\n", "notes": "keep me\n"}
MERGED = {**WHOLE, "notes": "keep me\n", "README.md.orig": "mine\n"}
WRITTEN_BEFORE = {"net/train.py": sha256(b"train of old\n").hexdigest()}
SIGNALS = ((signal.SIGINT, 2), (signal.SIGTERM, 5), (signal.SIGKILL, 1))  # with how many operations lie between tries


def _old_project(target: Path) -> None:
    (target / "net").mkdir(parents=True)
    for name, content in OLD.items():
        if content != "folder":
            (target / name).write_text(content, encoding="utf-8")


def _place(target: Path, *, force: bool = False) -> object:
    return place(FILES, target, force=force, written_before=WRITTEN_BEFORE)


def _operations(work: Callable[[], object], below: Path) -> int:
    """How many operations on paths below ``below`` the work has: the numbers at which a trap springs."""
    read, write = os.pipe()
    assert in_child(work, lambda: trap_each(lambda: os.write(write, b"."), below)) == 0
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        return len(pipe.read())


def test_a_new_target_gets_every_file_and_nothing_else(tmp_path: Path) -> None:
    placement = place(FILES, tmp_path / "new", force=False, written_before={})

    assert tree(tmp_path / "new") == WHOLE
    assert names(tmp_path) == ["new"]
    assert placement.created == tuple(file.path for file in FILES)
    assert os.access(tmp_path / "new" / "run.sh", os.X_OK)
    assert not os.access(tmp_path / "new" / "README.md", os.X_OK)


def test_files_have_the_rights_that_the_user_gives_new_files(tmp_path: Path) -> None:
    assert in_child(lambda: _place(tmp_path / "new"), lambda: os.umask(0o027)) == 0

    modes = {path: (tmp_path / "new" / path).stat().st_mode & 0o777 for path in ("README.md", "run.sh", "net")}
    assert modes == {"README.md": 0o640, "run.sh": 0o750, "net": 0o750}


def test_an_empty_folder_stays_the_same_folder(tmp_path: Path) -> None:
    target = tmp_path / "empty"
    target.mkdir()
    before = target.stat().st_ino

    _place(target)

    assert tree(target) == WHOLE
    assert target.stat().st_ino == before


def test_force_replaces_what_was_ours_and_keeps_what_is_not(tmp_path: Path) -> None:
    _old_project(tmp_path / "old")

    placement = place(FILES, tmp_path / "old", force=True, written_before=WRITTEN_BEFORE)

    assert tree(tmp_path / "old") == MERGED
    assert placement.replaced == (PurePosixPath("README.md"), PurePosixPath("net/train.py"))
    assert placement.kept == ((PurePosixPath("README.md"), PurePosixPath("README.md.orig")),)


def test_an_original_is_never_kept_over_another(tmp_path: Path) -> None:
    _old_project(tmp_path / "old")
    (tmp_path / "old" / "README.md.orig").write_text("older\n", encoding="utf-8")

    _place(tmp_path / "old", force=True)

    assert tree(tmp_path / "old") == {**MERGED, "README.md.orig": "older\n", "README.md.orig1": "mine\n"}


def test_doing_it_again_changes_nothing(tmp_path: Path) -> None:
    _place(tmp_path / "new")

    again = place(FILES, tmp_path / "new", force=True, written_before={})

    assert again.unchanged == tuple(file.path for file in FILES)
    assert tree(tmp_path / "new") == WHOLE


def test_planning_changes_nothing(tmp_path: Path) -> None:
    _old_project(tmp_path / "old")

    planned = plan_placement(FILES, tmp_path / "old", WRITTEN_BEFORE)

    assert tree(tmp_path / "old") == OLD
    assert planned == place(FILES, tmp_path / "old", force=True, written_before=WRITTEN_BEFORE)


def test_a_folder_with_content_is_refused_without_force(tmp_path: Path) -> None:
    _old_project(tmp_path / "old")

    with pytest.raises(TargetError, match=r"not empty: it contains `README.md` and 2 more"):
        _place(tmp_path / "old")

    assert tree(tmp_path / "old") == OLD


@pytest.mark.parametrize("force", [False, True])
def test_a_link_is_refused_as_target(tmp_path: Path, force: bool) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")

    with pytest.raises(TargetError, match="is a symbolic link to `real`"):
        _place(tmp_path / "link", force=force)

    assert tree(tmp_path / "real") == {}


@pytest.mark.parametrize("force", [False, True])
def test_a_dangling_link_is_refused_as_target(tmp_path: Path, force: bool) -> None:
    (tmp_path / "link").symlink_to("nowhere")

    with pytest.raises(TargetError, match="symbolic link"):
        _place(tmp_path / "link", force=force)

    assert names(tmp_path) == ["link"]


def test_a_linked_folder_inside_the_target_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "net").symlink_to("../elsewhere")

    with pytest.raises(TargetError, match="is a link or a file"):
        _place(tmp_path / "old", force=True)

    assert tree(tmp_path) == {"elsewhere": "folder", "old": "folder", "old/net": "-> ../elsewhere"}


def test_a_linked_file_is_moved_aside_and_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "theirs").write_text("theirs\n", encoding="utf-8")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "README.md").symlink_to("../theirs")

    _place(tmp_path / "old", force=True)

    assert (tmp_path / "theirs").read_text(encoding="utf-8") == "theirs\n"
    assert tree(tmp_path / "old") == {**WHOLE, "README.md.orig": "-> ../theirs"}


def test_a_folder_where_a_file_goes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old" / "README.md").mkdir(parents=True)

    with pytest.raises(TargetError, match="is a directory, expected a file"):
        _place(tmp_path / "old", force=True)

    assert tree(tmp_path / "old") == {"README.md": "folder"}


def test_a_file_is_refused_as_target(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")

    with pytest.raises(TargetError, match="is a file, expected a directory"):
        _place(tmp_path / "file", force=True)


def test_a_target_in_no_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not exist"):
        _place(tmp_path / "no" / "new")

    assert tree(tmp_path) == {}


@pytest.mark.parametrize(("number", "step"), SIGNALS)
def test_a_new_target_is_whole_or_absent_wherever_the_run_is_interrupted(
    tmp_path: Path, number: signal.Signals, step: int
) -> None:
    outcomes = set()
    for at in range(1, _operations(lambda: _place(tmp_path / "count" / "new"), _made(tmp_path / "count")) + 1, step):
        folder = _made(tmp_path / str(at))

        code = in_child(lambda: _place(folder / "new"), lambda: trap(at, send(number), folder))  # noqa: B023

        assert code == (130 if number == signal.SIGINT else -number)
        assert tree(folder / "new") in ({}, WHOLE)
        left = set(names(folder)) - {"new"}
        if number == signal.SIGKILL:
            assert left == {path.name for path in abandoned(folder / "new")}
        else:
            assert left == set()
        outcomes.add((folder / "new").exists())
    assert outcomes == {False, True}  # signals came before and after the moment that counts


@pytest.mark.parametrize(("number", "step"), SIGNALS)
def test_an_old_target_is_old_or_new_wherever_the_run_is_interrupted(
    tmp_path: Path, number: signal.Signals, step: int
) -> None:
    outcomes = set()
    _old_project(tmp_path / "count")
    for at in range(1, _operations(lambda: _place(tmp_path / "count", force=True), tmp_path / "count") + 1, step):
        target = tmp_path / str(at)
        _old_project(target)

        code = in_child(lambda: _place(target, force=True), lambda: trap(at, send(number), target))  # noqa: B023

        assert code == (130 if number == signal.SIGINT else -number)
        if number == signal.SIGKILL:
            settle_interrupted(target)
        assert tree(target) in (OLD, MERGED)
        outcomes.add(tree(target) == MERGED)
    assert outcomes == {False, True}


def test_an_undo_that_is_itself_killed_is_undone_by_the_next_run(tmp_path: Path) -> None:
    _old_project(tmp_path / "count")
    operations = _operations(lambda: _place(tmp_path / "count", force=True), tmp_path / "count")
    for at in range(11, operations + 1, 5):
        for again in range(5, 30, 8):
            target = tmp_path / f"{at}-{again}"
            _old_project(target)
            in_child(lambda: _place(target, force=True), lambda: trap(at, send(signal.SIGKILL), target))  # noqa: B023
            in_child(lambda: settle_interrupted(target), lambda: trap(again, send(signal.SIGKILL), target))  # noqa: B023

            settle_interrupted(target)

            assert tree(target) in (OLD, MERGED)


def test_the_next_run_completes_what_a_killed_one_began(tmp_path: Path) -> None:
    for at in range(10, 40, 7):
        target = tmp_path / str(at)
        _old_project(target)
        in_child(lambda: _place(target, force=True), lambda: trap(at, send(signal.SIGKILL), target))  # noqa: B023

        _place(target, force=True)

        assert tree(target) == MERGED


def test_a_disk_that_takes_no_more_leaves_a_new_target_absent(tmp_path: Path) -> None:
    big = (*FILES, _file("zzz", "x" * 5000))

    code = in_child(
        lambda: _expect(OutsideError, lambda: place(big, tmp_path / "new", force=False, written_before={})),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )

    assert code == 0
    assert tree(tmp_path) == {}


def test_a_disk_that_takes_no_more_leaves_an_old_target_as_it_was(tmp_path: Path) -> None:
    _old_project(tmp_path / "old")
    big = (*FILES, _file("zzz", "x" * 5000))

    code = in_child(
        lambda: _expect(OutsideError, lambda: place(big, tmp_path / "old", force=True, written_before={})),
        lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )

    assert code == 0
    assert tree(tmp_path / "old") == OLD


@pytest.mark.parametrize("name", ["new", "old"])
def test_a_folder_without_write_permission_stays_as_it_was(tmp_path: Path, name: str) -> None:
    parent = tmp_path / "parent"
    _old_project(parent / "old")
    for folder in (parent / "old", parent):
        folder.chmod(0o555)
    before = tree(parent)

    code = in_child(
        lambda: _expect(OutsideError, lambda: _place(parent / name, force=True)),
        _obey_permissions,
    )

    assert code == 0
    assert tree(parent) == before


def test_what_appears_at_the_target_meanwhile_is_left_alone(tmp_path: Path) -> None:
    target = tmp_path / "new"

    def intrude() -> None:
        target.mkdir()
        (target / "theirs").write_text("theirs\n", encoding="utf-8")

    code = in_child(lambda: _expect(OutsideError, lambda: _place(target)), lambda: trap_rename(target, intrude))

    assert code == 0
    assert tree(tmp_path) == {"new": "folder", "new/theirs": "theirs\n"}


def test_a_link_that_appears_at_the_target_meanwhile_is_not_followed(tmp_path: Path) -> None:
    target, theirs = tmp_path / "new", tmp_path / "theirs"
    theirs.mkdir()

    code = in_child(
        lambda: _expect(OutsideError, lambda: _place(target)),
        lambda: trap_rename(target, lambda: target.symlink_to(theirs)),
    )

    assert code == 0
    assert tree(theirs) == {}
    assert names(tmp_path) == ["new", "theirs"]


def test_two_runs_into_one_folder_do_not_meet(tmp_path: Path) -> None:
    _old_project(tmp_path / "old")
    (tmp_path / "old" / STAGING).mkdir()

    with FileLock(tmp_path / "old" / STAGING / "lock"), pytest.raises(TargetError, match="another envforge process"):
        _place(tmp_path / "old", force=True)


def test_a_staging_folder_of_somebody_else_is_refused_and_kept(tmp_path: Path) -> None:
    _old_project(tmp_path / "old")
    (tmp_path / "old" / STAGING).mkdir()
    (tmp_path / "old" / STAGING / "thesis").write_text("mine\n", encoding="utf-8")
    before = tree(tmp_path / "old")

    with pytest.raises(TargetError, match="files that envforge didn't write"):
        _place(tmp_path / "old", force=True)

    assert tree(tmp_path / "old") == before


# a cloned repository may contain a journal, the files to restore, and links
@pytest.mark.parametrize("field", ["created", "replaced", "folders", "removed", "kept", "new name"])
@pytest.mark.parametrize("link", ["link", f"{STAGING}/old/link", f"{STAGING}/old", f"{STAGING}/new"])
def test_journal_whose_paths_lead_through_a_link_is_refused(tmp_path: Path, field: str, link: str) -> None:
    victim, target = tmp_path / "victim", tmp_path / "project"
    (victim / "link" / "folder").mkdir(parents=True)
    (victim / "link" / "file").write_text("mine\n", encoding="utf-8")
    journal: dict[str, Any] = {"created": [], "replaced": [], "folders": [], "removed": [], "kept": {}}
    path = "link/folder" if field == "folders" else "link/file"
    if field in {"kept", "new name"}:
        journal["kept"] = {path: "file"} if field == "kept" else {"file": path}
    else:
        journal[field] = [path]
    place = target / link
    place.parent.mkdir(parents=True, exist_ok=True)
    (target / STAGING).mkdir(exist_ok=True)
    place.symlink_to(victim / "link" if place.name == "link" else victim)
    (target / STAGING / "journal.json").write_text(json.dumps(journal), encoding="utf-8")
    with pytest.raises(TargetError, match="lead through no symbolic link"):
        settle_interrupted(target)
    assert (victim / "link" / "file").read_text(encoding="utf-8") == "mine\n"
    assert (victim / "link" / "folder").is_dir()


def test_a_folder_that_no_run_was_interrupted_in_is_not_touched(tmp_path: Path) -> None:
    _old_project(tmp_path / "old")

    assert settle_interrupted(tmp_path / "old") is False
    assert tree(tmp_path / "old") == OLD


def test_an_interruption_waits_for_the_check(tmp_path: Path) -> None:
    steps = []
    with pytest.raises(KeyboardInterrupt), Interrupts() as interrupts:  # noqa: PT012 - each line is the promise
        os.kill(os.getpid(), signal.SIGINT)
        steps.append("went on")
        interrupts.check()
        steps.append("never here")

    assert steps == ["went on"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored() -> None:
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Interrupts() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            interrupts.check()
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, former)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _expect(kind: type[Exception], work: Callable[[], object]) -> None:
    with pytest.raises(kind):
        work()


def _obey_permissions() -> None:
    """Root may write everywhere; give up what lets it (``CAP_DAC_OVERRIDE`` and ``CAP_DAC_READ_SEARCH``)."""
    if os.geteuid() == 0:
        header, capabilities = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.capget(header, capabilities) == 0
        for word in (0, 1):  # effective, permitted: of the first 32 capabilities
            capabilities[word] &= ~(1 << 1 | 1 << 2)
        assert libc.capset(header, capabilities) == 0
