"""Ways out of an error that were once printed and did not help."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from envforge.base.git import read_revision, restore_hints
from envforge.base.net import unreachable_hints
from envforge.catalogue.index import chosen_catalogue
from envforge.cli import main
from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.inputs import read_inputs, virtual_packages_of
from envforge.lock.lockfile import INPUT_SHA256, read_lockfile
from envforge.lock.project import platform_hints
from envforge.lock.variants import parse_variant
from envforge.prefix.cache import Store
from envforge.project.record import parse_project_file

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
    with pytest.raises(EnvforgeError, match=r"is invalid: expected TOML, found .*line 1") as caught:
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


# platforms


LOCK = """version: 1
metadata:
  content_hash: {linux-64: a}
  channels: [conda-forge]
  platforms: [linux-64]
package: []
"""


@pytest.fixture
def locked(folder: Path) -> Path:
    """Return a lockfile for linux-64, with its environment.yml, in the current directory."""
    (folder / "environment.yml").write_text(ENVIRONMENT)
    (folder / "conda-lock.yml").write_text(LOCK)
    return Path("conda-lock.yml")


def test_new_platform_of_a_plain_environment_is_listed_first(locked: Path) -> None:
    (hint,) = platform_hints(locked, ("linux-64",), "osx-arm64")
    assert (hint.purpose, hint.command) == ("once `platforms` in `environment.yml` lists `osx-arm64`", "envforge lock")


@pytest.mark.parametrize("platform", ["linux-aarch64", "osx-arm64", "win-64"])
def test_new_platform_of_a_rendered_project_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], platform: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "tabular", "net", "--cuda", "11.8", "-p", "linux-64"]) == 0
    (hint,) = platform_hints(Path("net/conda-lock.yml"), ("linux-64",), platform)
    words = shlex.split(hint.command)
    assert words[:4] == ["envforge", "update", "--directory", "net"]
    capsys.readouterr()
    assert main([*words[1:], "--dry-run"]) == 0
    assert f"+  {platform}:" in capsys.readouterr().out

    monkeypatch.chdir(tmp_path / "net")
    (hint,) = platform_hints(Path("conda-lock.yml"), ("linux-64",), platform)
    assert hint.command == f"envforge update -p linux-64 -p {platform}"


def test_misspelled_platform_gets_the_nearest(locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "explicit", "-p", "linux-46"]) == 1
    assert capsys.readouterr().err.endswith("\nhint: did you mean `linux-64`?\n")


def test_platform_without_virtual_packages_gets_those_of_torch(folder: Path) -> None:
    (folder / "environment.yml").write_text(ENVIRONMENT.replace("python]", "python, {pip: [torch==2.7.1+cu128]}]"))
    (folder / "virtual-packages.yml").write_text('subdirs: {linux-64: {packages: {__glibc: "2.17"}}}\n')
    found = virtual_packages_of(read_inputs(Path("environment.yml"), None, ("linux-64", "linux-aarch64")))
    assert found.of("linux-64") == {"__glibc": "2.17"}
    assert found.of("linux-aarch64")["__cuda"] == "12.8"
    assert found.source == "virtual-packages.yml, and from the torch version for linux-aarch64"


# the command that was run


def complaint(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) in (1, 2, 3)
    return capsys.readouterr().err


def test_verify_with_a_wrong_path_checks_the_path(locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "verify", "machine", "--lock", "nope.yml")
    assert said == "error: the lockfile `nope.yml` does not exist\n\nhint: check the path in `--lock`\n"


def test_audit_tells_a_directory_from_an_environment(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "plain").mkdir()
    assert "`" + str(folder / "plain") + "` is not an environment" in complaint(capsys, "audit", "--prefix", "plain")
    assert "run `envforge install --prefix none`" in complaint(capsys, "audit", "--prefix", "none")
    assert "run `envforge install --name none`" in complaint(capsys, "audit", "--name", "none")


def test_lock_check_without_input_fails_like_lock(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = complaint(capsys, "lock")
    assert "`environment.yml`" in said
    assert complaint(capsys, "lock", "--check") == said
    assert complaint(capsys, "lock", "-f", "nope.yml").endswith("\nhint: check the path in `--file`\n")


def test_locked_install_without_input_has_its_own_hint(locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("environment.yml").unlink()
    assert complaint(capsys, "install", "--locked").endswith(
        "\nhint: to install the lockfile as it is, omit `--locked`\n"
    )


@pytest.mark.parametrize(("made_from", "said"), [("0", ": not valid YAML: "), (None, "")])
def test_invalid_input_is_no_newer_input(
    locked: Path, capsys: pytest.CaptureFixture[str], made_from: str | None, said: str
) -> None:
    if made_from is not None:
        locked.write_text(LOCK.replace("metadata:\n", f"metadata:\n  custom_metadata: {{{INPUT_SHA256}: '0'}}\n"))
    Path("environment.yml").write_text("dependencies: [\n")
    main(["install", "--dry-run"])
    err = capsys.readouterr().err
    assert said in err
    assert "has changed" not in err
    assert ("line 2" in err) is bool(said)


def test_unusable_cache_names_its_variable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("ENVFORGE_CACHE", str(folder / "file" / "cache"))
    with pytest.raises(OutsideError, match=r"\(from `ENVFORGE_CACHE`\)") as caught:
        Store(folder / "file" / "cache").create()
    assert caught.value.hint == "to use another directory, set `ENVFORGE_CACHE=DIR`"


@pytest.mark.parametrize(("name", "near"), [("cu99", None), ("cu127", "cu12"), ("cu12x", "cu12"), ("cp118", "cu118")])
def test_unknown_variant_gets_a_near_tag_or_none(name: str, near: str | None) -> None:
    with pytest.raises(EnvforgeError) as caught:
        parse_variant(name)
    assert (caught.value.hint == "") if near is None else f"--variant {near}" in caught.value.hint


@pytest.mark.parametrize("scheme", ["http", "https", "ftp", "file"])
def test_template_url_without_git_hides_its_password(scheme: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", f"{scheme}://user:S3CRET@host.invalid/x", "net", "--no-lock", "--defaults"]) == 2
    error = capsys.readouterr().err
    assert "S3CRET" not in error
    assert "git+https://HOST/PATH" in error
