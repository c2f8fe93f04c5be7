"""Test a template in a git repository on a web server, with git's own server program on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from envforge.cli import main
from envforge.project.record import need_project_file
from tests.catalogue.support import git
from tests.project.update.support import FILES, World, commit
from tests.support.git_http import GitServer

PAGE = "<!DOCTYPE html><html><body>Sign in</body></html>"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A template in a repository with the tag v1."""
    monkeypatch.chdir(tmp_path)
    for variable in ("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy", "ENVFORGE_CATALOGUE"):
        monkeypatch.delenv(variable, raising=False)
    world = World(tmp_path)
    world.write_template(FILES)
    git(world.root, "init", "--quiet", "--initial-branch=main", "demo")
    commit(world, "v1")
    return world


@pytest.fixture
def url(world: World) -> Iterator[str]:
    with GitServer(world.root, pages={"page": PAGE}) as server:
        yield server.url


def _new(source: str) -> int:
    return main(["new", source, "net", "--machine", "cpu", "--no-lock"])


def test_a_project_is_made_from_a_tag_and_goes_to_the_next(world: World, url: str) -> None:
    source = f"git+{url}/demo/.git"
    first = git(world.template, "rev-parse", "HEAD")

    assert _new(f"{source}@v1") == 0

    origin = need_project_file(world.project).origin
    assert (origin.source, origin.commit) == (f"{source}@v1", first)
    assert world.read("README") == FILES["README"].decode()
    (world.template / "files/README").write_bytes(b"new\n")
    commit(world, "v2")
    assert main(["update", "--directory", "net", "--check"]) == 0
    assert main(["update", "--directory", "net", "--template-version", "v2"]) == 0
    assert world.read("README") == "new\n"
    assert need_project_file(world.project).origin.source == f"{source}@v2"


def test_a_project_is_made_from_acommit(world: World, url: str) -> None:
    commit = git(world.template, "rev-parse", "HEAD")

    assert _new(f"git+{url}/demo/.git@{commit}") == 0

    assert need_project_file(world.project).origin.commit == commit


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("demo/.git@v9", "Remote branch v9 not found"),
        (f"demo/.git@{'0' * 40}", "not our ref"),
        ("nothing.git", "not found"),
    ],
    ids=["no such tag", "no such commit", "404"],
)
def test_what_the_server_does_not_have_is_told_and_nothing_is_written(
    world: World, url: str, path: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _new(f"git+{url}/{path}") == 3

    told = capsys.readouterr().err
    assert f"error: git failed to read the template `git+{url}/" in told
    assert words in told
    assert "git ls-remote" in told
    assert not world.project.exists()


@pytest.mark.parametrize("path", ["page", "empty"])
def test_a_web_page_or_an_empty_repository_is_told_from_a_repository_without_a_template(
    world: World, url: str, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    git(world.root, "init", "--quiet", "--bare", "empty")

    assert _new(f"git+{url}/{path}") == 2

    told = capsys.readouterr().err
    assert f"`git+{url}/{path}` has no commits: it is an empty repository, or not a repository" in told
    assert f"git ls-remote {url}/{path}" in told
    assert not world.project.exists()


def test_an_update_with_the_server_gone_changes_nothing(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    with GitServer(world.root) as server:
        assert _new(f"git+{server.url}/demo/.git@v1") == 0
    before = world.contents()

    assert main(["update", "--directory", "net"]) == 3

    assert "git failed to read the template" in capsys.readouterr().err
    assert before == world.contents()
