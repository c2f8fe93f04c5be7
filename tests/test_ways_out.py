"""Ways out of an error that were once printed and did not help."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.lockfile import read_lockfile
from envforge.mirrors import unreachable_hints
from envforge.project.record import parse_project_file
from envforge.revision import read_revision, restore_hints
from envforge.sharing.settings import chosen_catalogue

ENVIRONMENT = "channels: [conda-forge]\nplatforms: [linux-64]\ndependencies: [python]\n"
FILE = "https://conda.example/noarch/a-1-0.conda"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty directory outside git, which is the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    return tmp_path


def commit(folder: Path) -> None:
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True)


# files that are not lockfiles


def test_environment_file_as_lockfile_is_never_removed(folder: Path) -> None:
    (folder / "environment.yml").write_text(ENVIRONMENT)
    with pytest.raises(EnvforgeError, match=r"`environment.yml` is not a lockfile$") as caught:
        read_lockfile(Path("environment.yml"))
    assert caught.value.commands == ("envforge lock -f environment.yml",)
    assert "conda-lock.yml" in caught.value.hint

    (folder / "conda-lock.yml").touch()
    with pytest.raises(EnvforgeError, match="is not a lockfile") as caught:
        read_lockfile(Path("environment.yml"))
    assert caught.value.hint == "to use the lockfile of this environment file, pass `conda-lock.yml`"


@pytest.mark.parametrize("text", ["hello: world\n", "just words", "", "- a\n", "a: [\n"])
def test_other_file_as_lockfile_is_never_removed(folder: Path, text: str) -> None:
    (folder / "conda-lock.yml").write_text(text)
    (folder / "environment.yml").write_text(ENVIRONMENT)
    with pytest.raises(EnvforgeError, match="is not a lockfile") as caught:
        read_lockfile(Path("conda-lock.yml"))
    assert caught.value.commands == ()


def test_invalid_lockfile_is_restored_or_locked_again(folder: Path) -> None:
    (folder / "environment.yml").write_text(ENVIRONMENT)
    (folder / "conda-lock.yml").write_text("version: 1\nmetadata: {\n")
    with pytest.raises(EnvforgeError, match="is invalid") as caught:
        read_lockfile(Path("conda-lock.yml"))
    again = "rm conda-lock.yml && envforge lock"
    assert caught.value.commands == (again,)

    commit(folder)
    with pytest.raises(EnvforgeError, match="is invalid") as caught:
        read_lockfile(Path("conda-lock.yml"))
    assert caught.value.commands == ("git checkout HEAD -- conda-lock.yml", again)


def test_invalid_lockfile_of_another_name_is_not_removed(folder: Path) -> None:
    (folder / "other.yml").write_text("version: 2\n")
    with pytest.raises(EnvforgeError, match="is invalid") as caught:
        read_lockfile(Path("other.yml"))
    assert (caught.value.commands, caught.value.hint) == ((), "restore `other.yml` from a copy")


# git


def test_git_restores_only_files_of_the_last_commit(folder: Path) -> None:
    (folder / "a").write_text("a")
    assert restore_hints(Path(), "a") == ()
    commit(folder)
    (folder / "b").write_text("b")
    assert [hint.command for hint in restore_hints(Path(), "a")] == ["git checkout HEAD -- a"]
    assert restore_hints(Path(), "a", "b") == ()
    (hint,) = restore_hints(folder, "a")
    assert subprocess.run(hint.command, shell=True, cwd=folder, check=False).returncode == 0


def test_project_file_outside_git_has_no_git_command(folder: Path) -> None:
    with pytest.raises(EnvforgeError) as caught:
        parse_project_file("x = [", "envforge.toml")
    assert caught.value.commands == ()
    assert "envforge.toml" in caught.value.hint


def test_revision_outside_git_suggests_no_commit(folder: Path) -> None:
    with pytest.raises(EnvforgeError) as caught:
        read_revision("git:HEAD", Path())
    assert caught.value.commands == ("envforge diff OLD NEW",)


def test_revision_without_the_file_suggests_a_commit(folder: Path) -> None:
    (folder / "a").touch()
    commit(folder)
    (folder / "conda-lock.yml").touch()
    with pytest.raises(EnvforgeError) as caught:
        read_revision("git:HEAD", Path())
    assert caught.value.commands[1] == "git add conda-lock.yml && git commit -m MESSAGE conda-lock.yml"


def test_settings_name_a_syntax_error(folder: Path) -> None:
    (folder / "envforge.toml").write_text("[catalogue\n")
    with pytest.raises(EnvforgeError, match=r"is not valid TOML: .*line 1") as caught:
        chosen_catalogue(None, folder, {})
    assert "syntax" in caught.value.hint


# downloads


def test_unreachable_host_is_named(folder: Path) -> None:
    first, mirror = unreachable_hints(FILE, FILE)
    assert "network connection to `conda.example`" in str(first)
    assert "--mirror https://conda.example=https://MIRROR" in str(mirror)


def test_unreachable_host_behind_a_proxy_names_its_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:secret@proxy.example:8080")
    first, _ = unreachable_hints(FILE, FILE)
    assert "proxy `proxy.example:8080`" in str(first)
    assert "unset `HTTPS_PROXY`" in str(first)
    monkeypatch.setenv("NO_PROXY", "conda.example")
    assert "proxy.example" not in str(unreachable_hints(FILE, FILE)[0])


def test_missing_mirror_is_named(folder: Path) -> None:
    (hint,) = unreachable_hints(FILE, "file:///nowhere/noarch/a-1-0.conda")
    assert "`file:///nowhere/noarch/a-1-0.conda`" in str(hint)
