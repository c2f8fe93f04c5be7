from __future__ import annotations

import base64
import hashlib
import json
import lzma
import signal
import stat
import sys
from functools import partial
from pathlib import Path

import pytest

from envforge.base.staging import TargetError, settle_interrupted
from envforge.cli import main
from envforge.errors import RequestError
from envforge.project.record import BASELINE, PROJECT_FILE, BaselineError, ProjectFileError, need_project_file
from envforge.project.update import Locks, UpdateRequest, apply
from tests.project import builds
from tests.project.trees import in_child, send, trap
from tests.project.update.support import FILES, LINES, World, actions, made

assert sys.platform != "win32"

NEWER = {**FILES, "README": LINES.replace("line 2\n", "line two\n").encode()}


@pytest.fixture
def world(tmp_path: Path) -> World:
    return made(tmp_path)


def test_without_a_change_of_the_template_nothing_is_written(world: World) -> None:
    world.write("README", "all mine\n")
    (world.project / "size").unlink()
    before = world.contents()
    times = {path: path.stat().st_mtime_ns for path in world.project.rglob("*") if path.is_file()}

    update = world.update()

    assert update.changes == ()
    assert not update.is_newer
    assert world.contents() == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_another_content_under_the_same_version_is_newer(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(world.project)
    assert main(["update", "--check"]) == 0
    world.write_template(NEWER, version=1)

    assert main(["update", "--check"]) == 1

    assert "net, from demo 1: update available (" in capsys.readouterr().out
    assert main(["update"]) == 0
    assert main(["update", "--check"]) == 0


def test_another_version_of_the_same_content_is_not_newer_but_is_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.project)
    world.write_template(FILES, version=2)

    assert main(["update", "--check"]) == 0
    assert main(["update"]) == 0

    assert need_project_file(world.project).template_version == "2"


def test_an_unedited_file_takes_the_new_text(world: World) -> None:
    world.write_template(NEWER, version=2)

    assert actions(world.update()) == {"README": "update"}
    assert world.read("README") == LINES.replace("line 2\n", "line two\n")
    assert need_project_file(world.project).template_version == "2"


def test_edits_and_a_change_elsewhere_in_the_file_are_merged(world: World) -> None:
    world.write("README", LINES.replace("line 11\n", "line eleven, mine\n") + "and more\n")
    world.write_template(NEWER, version=2)

    assert actions(world.update()) == {"README": "merge"}
    assert world.read("README") == LINES.replace("line 2\n", "line two\n").replace(
        "line 11\n", "line eleven, mine\n"
    ) + ("and more\n")


def test_both_sides_of_a_conflict_stand_in_the_file(world: World) -> None:
    world.write("README", LINES.replace("line 2\n", "mine\n"))
    world.write_template(NEWER, version=2)

    update = world.update()

    assert actions(update) == {"README": "conflict"}
    assert update.changes[0].conflicts == 1
    assert world.read("README").startswith(
        "line 1\n<<<<<<< yours\nmine\n||||||| the template before\nline 2\n"
        "=======\nline two\n>>>>>>> the template now\nline 3\n"
    )


def test_with_rej_the_file_stays_yours_and_the_rest_is_a_patch(world: World) -> None:
    mine = LINES.replace("line 2\n", "mine\n")
    world.write("README", mine)
    world.write_template({**FILES, "README": NEWER["README"].replace(b"line 9\n", b"line nine\n")}, version=2)

    world.update(UpdateRequest(on_conflict="rej"))

    assert world.read("README") == mine.replace("line 9\n", "line nine\n")
    rejected = world.read("README.rej")
    assert "\n-mine\n+line two\n" in rejected
    assert "nine" not in [line[1:] for line in rejected.splitlines() if line[:1] in "+-"]


def test_a_file_that_the_user_removed_stays_removed(world: World) -> None:
    (world.project / "README").unlink()
    world.write_template(NEWER, version=2)

    update = world.update()

    assert actions(update) == {"README": "yours"}
    assert "remains removed" in update.changes[0].note
    assert not (world.project / "README").exists()
    assert not world.update().changes


def test_a_file_that_the_user_moved_gets_the_change_where_it_is_now(world: World) -> None:
    (world.project / "README").unlink()
    world.write("docs/START", LINES.replace("line 12\n", "line 12, mine\n"))
    world.write_template(NEWER, version=2)

    assert actions(world.update()) == {"docs/START": "merge"}
    assert world.read("docs/START") == LINES.replace("line 2\n", "line two\n").replace("line 12\n", "line 12, mine\n")
    assert not (world.project / "README").exists()


def test_one_moved_file_is_not_taken_for_two(tmp_path: Path) -> None:
    twin = {**FILES, "OTHER": LINES.encode()}
    world = made(tmp_path, twin)
    (world.project / "README").unlink()
    (world.project / "OTHER").unlink()
    world.write("START", LINES)
    changed = {name: content.replace(b"line 2\n", name.encode() + b"\n") for name, content in twin.items()}
    world.write_template(changed, version=2)

    assert sorted(actions(world.update()).values()) == ["update", "yours"]


def test_a_file_that_the_template_moved_takes_the_edits_along(world: World) -> None:
    world.write("README", LINES.replace("line 12\n", "line 12, mine\n"))
    world.write_template(
        {**{name: text for name, text in NEWER.items() if name != "README"}, "docs/README.md": NEWER["README"]}
    )

    update = world.update()

    assert actions(update) == {"docs/README.md": "merge"}
    assert str(update.changes[0].moved_from) == "README"
    assert not (world.project / "README").exists()
    assert world.read("docs/README.md") == LINES.replace("line 2\n", "line two\n").replace(
        "line 12\n", "line 12, mine\n"
    )


def test_a_removed_file_that_the_template_moved_stays_removed(world: World) -> None:
    (world.project / "README").unlink()
    world.write_template({**{n: t for n, t in FILES.items() if n != "README"}, "docs/README": FILES["README"]})

    assert actions(world.update()) == {"docs/README": "yours"}
    assert not (world.project / "docs").exists()


def test_what_the_template_drops_goes_with_its_folder_unless_it_was_edited(tmp_path: Path) -> None:
    world = made(tmp_path, {**FILES, "old/a": b"a\n", "old/b": b"b\n", "kept/c": b"c\n"})
    world.write("kept/c", "mine\n")
    world.write_template(FILES, version=2)

    assert actions(world.update()) == {"old/a": "remove", "old/b": "remove", "kept/c": "yours"}
    assert not (world.project / "old").exists()
    assert world.read("kept/c") == "mine\n"


def test_a_new_file_of_the_template_does_not_replace_one_of_the_users(world: World) -> None:
    world.write("NEW", "mine\n")
    world.write_template({**FILES, "NEW": b"theirs\n", "NEWER": b"theirs\n"}, version=2)

    assert actions(world.update()) == {"NEW": "conflict", "NEWER": "add"}
    assert world.read("NEW") == "mine\n"
    assert world.read("NEW.new") == "theirs\n"


def test_of_two_binary_files_the_users_stays_and_the_other_lies_beside_it(world: World) -> None:
    world.write("logo.png", b"\x89PNG\x00mine")
    world.write_template({**FILES, "logo.png": b"\x89PNG\x00theirs"}, version=2)

    assert actions(world.update()) == {"logo.png": "conflict"}
    assert (world.project / "logo.png").read_bytes() == b"\x89PNG\x00mine"
    assert (world.project / "logo.png.new").read_bytes() == b"\x89PNG\x00theirs"


def test_an_unedited_binary_file_is_replaced(world: World) -> None:
    world.write_template({**FILES, "logo.png": b"\x89PNG\x00theirs"}, version=2)

    assert actions(world.update()) == {"logo.png": "update"}
    assert (world.project / "logo.png").read_bytes() == b"\x89PNG\x00theirs"


def test_without_git_an_edited_file_stays_and_the_new_one_lies_beside_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = LINES.replace("line 11\n", "mine\n")
    world.write("README", mine)
    world.write_template(NEWER, version=2)
    monkeypatch.setenv("PATH", "")

    update = world.update()

    assert "requires git" in update.changes[0].note
    assert world.read("README") == mine
    assert world.read("README.new").encode() == NEWER["README"]


def test_line_ends_of_windows_are_no_edit_and_are_kept(world: World) -> None:
    world.write("README", LINES.replace("\n", "\r\n"))
    world.write("size", "small\r\nand mine\r\n")
    world.write_template({**NEWER, "size.jinja": b"# size\n{{ answers.size }}\n"}, version=2)

    assert actions(world.update()) == {"README": "update", "size": "merge"}
    assert world.read("README") == LINES.replace("line 2\n", "line two\n").replace("\n", "\r\n")
    assert world.read("size") == "# size\r\nsmall\r\nand mine\r\n"


def test_a_link_of_the_users_is_not_followed(world: World, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text(LINES, encoding="utf-8")
    (world.project / "README").unlink()
    (world.project / "README").symlink_to(outside)
    world.write_template(NEWER, version=2)

    update = world.update()

    assert actions(update) == {"README": "yours"}
    assert "is a link" in update.changes[0].note
    assert outside.read_text(encoding="utf-8") == LINES


def test_a_folder_behind_a_link_is_not_written_into(world: World, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (world.project / "docs").symlink_to(tmp_path / "outside")
    world.write_template({**FILES, "docs/a": b"a\n"}, version=2)

    assert actions(world.update()) == {"docs/a": "yours"}
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_file_becomes_executable_with_the_template_and_stays_so_for_the_user(world: World) -> None:
    world.write_template({**FILES, "run.sh": b"#!/bin/sh\n"}, version=2)
    world.update()
    world.write_template({**FILES, "run.sh": b"#!/bin/sh\n"}, version=3)
    (world.template / "files" / "run.sh").chmod(0o755)
    assert actions(world.update()) == {"run.sh": "update"}
    assert (world.project / "run.sh").stat().st_mode & stat.S_IXUSR

    (world.project / "README").chmod(0o755)
    world.write_template(NEWER, version=4)
    (world.template / "files" / "run.sh").write_bytes(b"")
    world.update()
    assert (world.project / "README").stat().st_mode & stat.S_IXUSR


def test_groups_come_and_go_and_new_answers_are_rendered(world: World) -> None:
    assert actions(world.update(UpdateRequest(with_groups=("notes",), variables=("size=large",)))) == {
        "NOTES": "add",
        "size": "update",
    }
    record = need_project_file(world.project)
    assert record.groups == (("notes", True),)
    assert dict(record.answers) == {"size": "large"}

    assert world.update().changes == ()
    assert actions(world.update(UpdateRequest(without_groups=("notes",)))) == {"NOTES": "remove"}


def test_recorded_answers_are_kept_and_new_questions_take_their_default(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write_template(FILES)
    world.create(size="large")
    newer = (world.template / "template.yml").read_text(encoding="utf-8")
    question = "  - {name: depth, type: int, default: 4, help: How deep}\ngroups:"
    (world.template / "template.yml").write_text(newer.replace("groups:", question), encoding="utf-8")

    update = world.update()

    assert dict(need_project_file(world.project).answers) == {"size": "large", "depth": 4}
    assert update.notes == ("the template has a new question, `depth`, which gets its default, `4`",)
    assert world.read("size") == "large\n"


def test_an_answer_that_is_none_any_more_is_asked_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write_template(FILES)
    world.create(size="large")
    newer = (world.template / "template.yml").read_text(encoding="utf-8")
    (world.template / "template.yml").write_text(newer.replace("large", "huge"), encoding="utf-8")

    with pytest.raises(RequestError) as refusal:
        world.plan()

    assert "the answer `large` to `size`" in refusal.value.message
    assert refusal.value.hint == "to use the default, pass `--var size=small`"


def test_another_build_changes_the_environment_and_keeps_packages_of_the_users(world: World) -> None:
    environment = world.read("environment.yml")
    world.write("environment.yml", environment.replace('  - "numpy"\n', '  - "numpy"\n  - "pandas"\n'))

    update = world.update(UpdateRequest(selections=(builds.CU118,)))

    assert actions(update) == {"environment.yml": "merge", "virtual-packages.yml": "update"}
    text = world.read("environment.yml")
    assert '"torch==2.7.1+cu118"' in text
    assert '"pandas"' in text
    assert need_project_file(world.project).selections == (builds.CU118,)


def test_a_lock_is_made_anew_from_the_merged_environment_only(world: World) -> None:
    assert world.plan(UpdateRequest(selections=(builds.CU118,))).lock_texts is None  # the project has no lock

    world.write("conda-lock.yml", "the lock\n")
    assert world.plan().lock_texts is None
    update = world.plan(UpdateRequest(selections=(builds.CU118,)))
    assert update.lock_texts is not None
    assert update.lock_texts.sha256 == update.project.texts.sha256
    apply(update, Locks(own="another lock\n"))

    assert world.read("conda-lock.yml") == "another lock\n"
    assert "conda-lock.yml" in dict(need_project_file(world.project).files)
    world.update()
    assert "conda-lock.yml" in dict(need_project_file(world.project).files)


def test_settings_of_the_user_in_the_record_survive(world: World) -> None:
    settings = '\n[catalogue]  # ours\naddress = "../locks"\n'
    world.write(PROJECT_FILE, world.read(PROJECT_FILE) + settings)
    world.write_template(NEWER, version=2)

    world.update()

    assert need_project_file(world.project).template_version == "2"
    assert settings in world.read(PROJECT_FILE)


def unpacked(world: World) -> str:
    return lzma.decompress(base64.b64decode(json.loads(world.read(BASELINE))["xz"])).decode()


def packed(text: str) -> str:
    return json.dumps({"xz": base64.b64encode(lzma.compress(text.encode())).decode()})


def test_baseline_is_small_and_no_search_finds_its_text(world: World) -> None:
    assert "line 3" in unpacked(world)
    assert "line 3" not in world.read(BASELINE)
    assert len(world.read(BASELINE).splitlines()) == 1


def test_baseline_without_compression_is_read(world: World) -> None:
    world.write(BASELINE, unpacked(world))
    world.write_template(NEWER, version=2)

    assert world.update().changes
    assert unpacked(world)  # it is written compressed


@pytest.mark.parametrize(
    "text", ['{"xz": "AAAA"}', '{"xz": "!"}', '{"xz": 3}', '{"xz": "/Td6WFo="}', packed("x" * 200_000_001)]
)
def test_baseline_that_cannot_be_unpacked_stops_update(world: World, text: str) -> None:
    world.write(BASELINE, text)

    with pytest.raises(BaselineError, match="is invalid"):
        world.update()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("line 3", "line 4", "doesn't match"),
        ('"README"', '"README2"', "doesn't match"),
        ('"text"', '"test"', "is invalid"),
        ("{", "", "expected JSON"),
        ('{"base64": "', '{"base64": "!', "is invalid"),
    ],
)
def test_a_damaged_baseline_stops_the_update(world: World, old: str, new: str, words: str) -> None:
    text = unpacked(world)
    assert old in text
    world.write(BASELINE, packed(text.replace(old, new, 1)))
    world.write_template(NEWER, version=2)
    before = world.contents()

    with pytest.raises(BaselineError) as fault:
        world.update()

    assert words in fault.value.message
    assert fault.value.commands == ("envforge new TEMPLATE DIR",)  # the project is not in git
    assert world.contents() == before


@pytest.mark.parametrize("path", [".git/config", "../outside", "/etc/x", ".envforge/journal.json", "a/./b", "NUL", ""])
def test_baseline_path_that_new_would_not_write_stops_update(world: World, path: str) -> None:
    world.write(BASELINE, packed(unpacked(world).replace("{", f'{{{json.dumps(path)}: {{"text": "mine"}}, ', 1)))
    digest = hashlib.sha256(b"mine").hexdigest()
    world.write(PROJECT_FILE, world.read(PROJECT_FILE).replace("[files]\n", f'[files]\n"{path}" = "{digest}"\n', 1))
    world.write(".git/config", "mine")

    with pytest.raises(BaselineError, match="expected paths that `envforge new` would write"):
        world.update()

    assert world.read(".git/config") == "mine"


def test_a_baseline_that_is_not_there_stops_the_update(world: World) -> None:
    (world.project / BASELINE).unlink()

    with pytest.raises(BaselineError, match="does not exist"):
        world.plan()


def test_a_baseline_survives_a_checkout_with_line_ends_of_windows(world: World) -> None:
    world.write(BASELINE, world.read(BASELINE).replace("\n", "\r\n"))
    before = world.contents()

    assert world.update().changes == ()
    assert world.contents() == before


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProjectFileError, match=r"no `envforge\.toml`"):
        need_project_file(tmp_path)


def test_a_file_that_is_edited_meanwhile_stops_the_update_and_nothing_changes(world: World) -> None:
    world.write_template({**NEWER, "size.jinja": b"new\n"}, version=2)
    planned = world.plan()
    world.write("size", "edited just now\n")
    before = world.contents()

    with pytest.raises(TargetError, match="was edited during the update"):
        apply(planned, Locks())

    assert world.contents() == before


@pytest.mark.parametrize(("number", "step"), [(signal.SIGKILL, 11), (signal.SIGINT, 17)])
def test_an_update_that_is_killed_anywhere_is_completed_by_the_next(
    tmp_path: Path, number: signal.Signals, step: int
) -> None:
    old = {**FILES, "drop/me": b"dropped\n"}
    newer = {**NEWER, "new/deep/file": b"new\n"}
    (tmp_path / "whole").mkdir()
    whole = made(tmp_path / "whole", old)
    before = whole.contents()
    whole.write_template(newer, version=2)
    whole.update()
    after = whole.contents()
    for count in range(1, 2000, step):
        root = tmp_path / str(count)
        root.mkdir()
        world = made(root, old)
        world.write_template(newer, version=2)

        ended = in_child(world.update, partial(trap, count, send(number), world.project))

        settle_interrupted(world.project)
        assert world.contents() in (before, after), count
        world.update()
        assert world.contents() == after, count
        assert not (world.project / "drop").exists()
        if ended == 0:
            break
    assert count > 3 * step  # the trap met the work many times before it came too late


def test_update_finds_project_from_subdirectory(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    world.write_template(NEWER, version=2)
    (world.project / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(world.project / "deep" / "er")

    assert main(["update", "--check"]) == 1
    assert f"run `envforge update --directory {world.project}`" in capsys.readouterr().out
    assert main(["update"]) == 0

    assert need_project_file(world.project).template_version == "2"


def test_update_outside_a_project_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["update"]) == 1

    assert f"neither `{tmp_path}` nor a parent directory has an `envforge.toml`" in capsys.readouterr().err
