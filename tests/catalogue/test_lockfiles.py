"""``envforge lockfiles`` works with each kind of catalogue: directory, git, web server, and object store."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import fsspec
import pytest

from envforge.base.distribution import extra_command
from envforge.catalogue.address import parse_address
from envforge.catalogue.directory import Addition, opened_to_publish
from envforge.catalogue.index import list_entries
from envforge.cli import main
from tests.catalogue.support import addition, git, project, repository
from tests.support.git_http import GitServer
from tests.support.loopback import Fault, Loopback

NAME = "demo/cpu-linux-64"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user without settings, in a project with a lock."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    monkeypatch.setenv("ENVFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ENVFORGE_CATALOGUE", raising=False)
    folder = project(tmp_path / "demo")
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(params=["folder", "file", "git", "git-subdirectory", "git-empty", "objects"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A catalogue of each kind that can be published into; nothing is in it yet."""
    if request.param == "folder":
        return str(tmp_path / "catalogue")
    if request.param == "file":
        return (tmp_path / "a catalogue").as_uri()
    if request.param == "objects":
        fsspec.filesystem("memory").store.clear()
        return "memory://bucket/locks"
    if request.param == "git-empty":
        git(tmp_path, "init", "--quiet", "--bare", "--initial-branch=main", str(tmp_path / "empty.git"))
        return f"git+{(tmp_path / 'empty.git').as_uri()}"
    bare = repository(tmp_path)
    return f"git+{bare.as_uri()}@main" + ("#subdirectory=team/locks" if request.param == "git-subdirectory" else "")


def _run(*arguments: str) -> None:
    assert main(["lockfiles", *arguments]) == 0


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    capsys.readouterr()
    main(["lockfiles", *arguments, "--json"])
    return json.loads(capsys.readouterr().out)


def test_what_one_publishes_another_lists_shows_and_pulls(
    home: Path, address: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("publish", "--catalogue", address, "--publisher", "Ada")
    assert "published demo/cpu-linux-64 to" in capsys.readouterr().out
    _run("list", "--catalogue", address)
    listed = capsys.readouterr().out
    assert "1 lockfile\n" in listed
    assert "torch 2.14.1 cpu, Python 3.12, published 20" in listed
    assert listed.rstrip().endswith("UTC by Ada")
    _run("show", NAME, "--catalogue", address)
    assert "no NVIDIA GPU needed, glibc 2.28 or newer\n" in capsys.readouterr().out
    pulled = tmp_path / "elsewhere.yml"
    _run("pull", NAME, "--catalogue", address, "-o", str(pulled))
    assert pulled.read_bytes() == (home / "conda-lock.yml").read_bytes()
    _run("verify", "--catalogue", address)
    assert "1 of 1 lockfile valid (checked SHA-256)" in capsys.readouterr().out


def test_publishing_the_same_again_changes_nothing_and_another_lock_is_refused(
    home: Path, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("publish", "--catalogue", address, "--publisher", "Ada")
    assert _json(capsys, "publish", "--catalogue", address)["result"]["added"] is False
    project(home, "another")
    (home / "conda-lock.yml").write_text((home / "conda-lock.yml").read_text() + "# another\n")
    assert main(["lockfiles", "publish", "--catalogue", address, "--publisher", "Eve"]) == 1
    said = capsys.readouterr().err
    assert "the catalogue already has an entry `demo/cpu-linux-64`: sha256" in said
    assert "published by Ada" in said
    _run("publish", "--catalogue", address, "--publisher", "Eve", "--name", f"{NAME}-later")
    found = _json(capsys, "list", "--catalogue", address)["result"]["entries"]
    assert [(row["name"], row["published"]["by"]) for row in found] == [(NAME, "Ada"), (f"{NAME}-later", "Eve")]


def test_a_changed_lock_is_not_pulled_and_verify_tells_of_it(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address = str(tmp_path / "catalogue")
    _run("publish", "--catalogue", address)
    stored = tmp_path / "catalogue" / f"{NAME}.conda-lock.yml"
    stored.write_bytes(stored.read_bytes() + b"\n")
    before = (home / "conda-lock.yml").read_bytes()
    assert main(["lockfiles", "pull", NAME, "--catalogue", address, "--force"]) == 1
    assert "expected SHA-256" in capsys.readouterr().err
    assert (home / "conda-lock.yml").read_bytes() == before
    assert main(["lockfiles", "verify", "--catalogue", address]) == 1
    assert "0 of 1 lockfile valid" in capsys.readouterr().out


def test_a_lock_that_is_a_link_out_of_the_catalogue_is_not_pulled(home: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "catalogue")
    _run("publish", "--catalogue", address)
    stored = tmp_path / "catalogue" / f"{NAME}.conda-lock.yml"
    stored.rename(tmp_path / "outside.yml")
    stored.symlink_to(tmp_path / "outside.yml")
    assert main(["lockfiles", "pull", NAME, "--catalogue", address, "--force"]) == 1


def test_pull_does_not_write_over_another_lock(home: Path, tmp_path: Path) -> None:
    address = str(tmp_path / "catalogue")
    _run("publish", "--catalogue", address)
    (home / "conda-lock.yml").write_text("mine\n")
    assert main(["lockfiles", "pull", NAME, "--catalogue", address]) == 2
    assert (home / "conda-lock.yml").read_text() == "mine\n"
    _run("pull", NAME, "--catalogue", address, "--force")
    assert (home / "conda-lock.yml").read_text() != "mine\n"


def test_publishing_interrupted_before_the_index_leaves_no_entry_and_is_done_again(home: Path, tmp_path: Path) -> None:
    address = tmp_path / "catalogue"
    half = address / f"{NAME}.conda-lock.yml"
    half.parent.mkdir(parents=True)
    half.write_text("half a lo")
    _run("publish", "--catalogue", str(address))
    assert half.read_bytes() == (home / "conda-lock.yml").read_bytes()
    assert len(list_entries(address)) == 1


@pytest.mark.parametrize(("kind", "publishers"), [("folder", 12), ("git", 3)])
def test_publishers_at_the_same_time_lose_no_entry(home: Path, tmp_path: Path, kind: str, publishers: int) -> None:
    names = [f"demo/lock-{number:02}" for number in range(publishers)]
    additions = [addition(home, name) for name in names]
    address = str(tmp_path / "catalogue") if kind == "folder" else f"git+{repository(tmp_path).as_uri()}@main"
    together = threading.Barrier(publishers, timeout=60)

    def publish(one: Addition) -> bool:
        with opened_to_publish(parse_address(address, tmp_path)) as catalogue:
            together.wait()
            return catalogue.publish(one)

    with ThreadPoolExecutor(publishers) as pool:
        assert list(pool.map(publish, additions)) == [True] * publishers
    catalogue = tmp_path / "catalogue"
    if kind == "git":
        git(tmp_path, "clone", "--quiet", str(tmp_path / "locks.git"), str(catalogue))
    assert sorted(entry.name for entry in list_entries(catalogue)) == names


def test_a_push_that_another_has_overtaken_is_made_again_on_top(home: Path, tmp_path: Path) -> None:
    from envforge.catalogue.git import clone

    address = f"git+{repository(tmp_path).as_uri()}@main"
    late = clone(parse_address(address, tmp_path), tmp_path / "late")
    _run("publish", "--catalogue", address, "--name", "demo/first")
    assert late.publish(addition(home, "demo/second")) is True
    git(tmp_path, "clone", "--quiet", str(tmp_path / "locks.git"), str(tmp_path / "seen"))
    assert [entry.name for entry in list_entries(tmp_path / "seen")] == ["demo/first", "demo/second"]


def test_a_tag_is_read_and_not_published_into(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = repository(tmp_path)
    _run("publish", "--catalogue", f"git+{bare.as_uri()}@main", "--publisher", "Ada")
    git(bare, "tag", "v1", "main")
    commit = git(bare, "rev-parse", "main")
    _run("publish", "--catalogue", f"git+{bare.as_uri()}@main", "--name", "demo/later")
    for rev in ("v1", commit):
        address = f"git+{bare.as_uri()}@{rev}"
        assert len(_json(capsys, "list", "--catalogue", address)["result"]["entries"]) == 1
        assert main(["lockfiles", "publish", "--catalogue", address, "--name", "demo/third"]) == 2
        assert "is a tag or a commit" in capsys.readouterr().err


def test_hooks_of_a_repository_or_a_user_do_not_run(home: Path, tmp_path: Path) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("post-checkout", "pre-commit", "pre-push"):
        (hooks / name).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
        (hooks / name).chmod(0o755)
    (tmp_path / "gitconfig").write_text(f"[core]\n\thooksPath = {hooks}\n")
    _run("publish", "--catalogue", f"git+{repository_without_hooks(tmp_path)}@main")
    assert not (tmp_path / "ran").exists()


def repository_without_hooks(folder: Path) -> str:
    """The repository is made by a git that does not read the user's settings."""
    settings = folder / "gitconfig"
    text = settings.read_text()
    settings.write_text("")
    bare = repository(folder)
    settings.write_text(text)
    return bare.as_uri()


@pytest.mark.parametrize("command", [["list"], ["pull", NAME], ["publish"]])
@pytest.mark.parametrize("kind", ["git+", ""])
def test_no_message_has_the_password_of_an_address(
    home: Path, command: list[str], kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with Loopback(lambda request: None) as server:
        address = f"{kind}{server.url.replace('://', '://ada:secret@')}/locks.git"
        assert main(["lockfiles", *command, "--catalogue", address]) in {2, 3}
    captured = capfd.readouterr()
    assert "secret" not in captured.out + captured.err
    assert server.url.split("://")[1] in captured.err


def test_what_an_older_git_says_of_an_address_is_shown_without_its_password(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "bin" / "git"
    stub.parent.mkdir()
    stub.write_text('#!/bin/sh\necho "fatal: unable to access $*" >&2\nexit 128\n')
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:/usr/bin:/bin")
    assert main(["lockfiles", "list", "--catalogue", "git+https://ada:secret@host.example/locks.git"]) == 3
    captured = capfd.readouterr()
    assert "fatal: unable to access" in captured.err
    assert "secret" not in captured.out + captured.err


def test_a_web_address_is_read_verified_and_never_written(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "catalogue"
    _run("publish", "--catalogue", str(folder))
    with Loopback(folder) as server:
        server.fail("/index.json", Fault(status=503), times=1)
        _run("pull", NAME, "--catalogue", server.url, "-o", str(tmp_path / "pulled.yml"))
        assert (tmp_path / "pulled.yml").read_bytes() == (home / "conda-lock.yml").read_bytes()
        server.fail(f"/{NAME}.conda-lock.yml", Fault(corrupt=True))
        assert main(["lockfiles", "pull", NAME, "--catalogue", server.url, "-o", str(tmp_path / "bad.yml")]) == 1
        assert not (tmp_path / "bad.yml").exists()
        server.fail("/index.json", Fault(status=404))
        capsys.readouterr()
        assert main(["lockfiles", "list", "--catalogue", server.url]) == 3
        assert "the server returned 404" in capsys.readouterr().err
        assert main(["lockfiles", "publish", "--catalogue", server.url]) == 2
        assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize(
    ("command", "name"),
    [(("list",), "index.json"), (("pull", NAME), f"{NAME}.conda-lock.yml"), (("verify",), f"{NAME}.conda-lock.yml")],
)
def test_error_about_a_web_catalogue_names_its_url(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], name: str
) -> None:
    _run("publish", "--catalogue", str(tmp_path / "catalogue"))
    (tmp_path / "catalogue" / name).write_text("[]")
    capsys.readouterr()
    with Loopback(tmp_path / "catalogue") as server:
        assert main(["lockfiles", *command, "--catalogue", server.url]) == 1
    printed = "".join(capsys.readouterr())
    assert f"`{server.url}/{name}`" in printed
    assert "envforge-catalogue-" not in printed


def test_publishers_into_an_object_store_take_turns(home: Path, tmp_path: Path) -> None:
    from msgspec.structs import replace

    from envforge.catalogue.objects import open_objects
    from envforge.errors import OutsideError

    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pipe_file("/bucket/.index.lock", b"Grace".ljust(300))
    (tmp_path / "copy").mkdir()
    source = open_objects(parse_address("memory://bucket", tmp_path), tmp_path / "copy")
    with pytest.raises(OutsideError, match=r"`Grace {195}` has been publishing"):
        replace(source, wait_s=0.0).publish(addition(home, NAME))
    assert not store.exists("/bucket/index.json")
    store.rm_file("/bucket/.index.lock")
    assert source.publish(addition(home, NAME)) is True
    assert not store.exists("/bucket/.index.lock")


def test_an_object_is_read_up_to_the_limit(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pipe_file("/bucket/index.json", bytes(300))
    read: list[bytes] = []

    def cat_file(self: Any, path: str, start: int | None = None, end: int | None = None) -> bytes:
        read.append(store.store[self._strip_protocol(path)].getvalue()[start:end])
        return read[-1]

    monkeypatch.setattr(type(store), "cat_file", cat_file)
    monkeypatch.setattr("envforge.catalogue.objects._LONGEST_BYTES", 9)
    assert main(["lockfiles", "list", "--catalogue", "memory://bucket"]) == 3
    assert "the file has more than 256 MB" in capsys.readouterr().err
    assert read == [bytes(10)]


def test_a_store_whose_driver_is_missing_is_named(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lockfiles", "list", "--catalogue", "gs://bucket/locks"]) == 1
    assert f"hint: to install it, run `{extra_command('gs')}`" in capsys.readouterr().err


def test_the_catalogue_of_the_project_comes_before_that_of_the_user(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "ours", "stated"):
        _run("publish", "--catalogue", str(tmp_path / name), "--name", f"demo/{name}")
    user = tmp_path / "config" / "envforge" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text(f'[catalogue]\naddress = "{tmp_path}/mine"\n')
    assert _json(capsys, "list")["result"]["entries"][0]["name"] == "demo/mine"
    (home / "envforge.toml").write_text('[catalogue]\naddress = "../ours"\n')
    assert _json(capsys, "list")["result"]["entries"][0]["name"] == "demo/ours"
    monkeypatch.setenv("ENVFORGE_CATALOGUE", str(tmp_path / "stated"))
    assert _json(capsys, "list")["result"]["entries"][0]["name"] == "demo/stated"
    _run("publish", "--name", "demo/second")  # an envforge.toml with settings alone is enough
    assert _json(capsys, "list", "--catalogue", "../mine")["result"]["entries"][0]["name"] == "demo/mine"


def test_without_a_catalogue_the_ways_to_name_one_are_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lockfiles", "list"]) == 2
    said = capsys.readouterr().err
    assert "no catalogue is configured" in said
    assert "envforge.toml" in said


@pytest.mark.parametrize(
    "text", ["catalogue = 3", "[catalogue]\naddres = 'x'", "[catalogue]\naddress = 3", "[catalogue"]
)
def test_damaged_settings_are_named(home: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "envforge.toml").write_text(text)
    assert main(["lockfiles", "list"]) == 1
    wanted = ": expected TOML, found " if text == "[catalogue" else " at `"
    assert f"`envforge.toml` is invalid{wanted}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "address",
    [
        "git+ext::sh -c touch% x",
        "git+https://h/x@--upload-pack=x",
        "git+file:///x#subdirectory=../y",
        "file://host/x",
        "-x",
    ],
)
def test_an_address_that_is_none_is_refused(home: Path, address: str) -> None:
    assert main(["lockfiles", "list", f"--catalogue={address}"]) == 2


@pytest.mark.parametrize("name", ["../x", "/x", "a//b", "a/..", ".hidden", "a b", "a/-b"])
def test_a_name_that_leaves_the_catalogue_is_refused(home: Path, tmp_path: Path, name: str) -> None:
    assert main(["lockfiles", "publish", "--catalogue", str(tmp_path / "c"), f"--name={name}"]) == 2
    assert not (tmp_path / "c").exists()


def test_a_lock_that_is_out_of_date_is_not_published(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "environment.yml").write_text("channels: [conda-forge]\nplatforms: [osx-64]\ndependencies: [python]\n")
    assert main(["lockfiles", "publish", "--catalogue", str(tmp_path / "c")]) == 1
    assert "needs to be updated to match `environment.yml`" in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_a_lock_with_a_password_is_not_published(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lock = home / "conda-lock.yml"
    lock.write_text(lock.read_text().replace("https://download.pytorch", "https://u:secret@download.pytorch"))
    assert main(["lockfiles", "publish", "--catalogue", str(tmp_path / "c")]) == 1
    said = capsys.readouterr().err
    assert "the URL of `torch`" in said
    assert "secret" not in said
    assert not (tmp_path / "c").exists()


def test_a_wrong_name_is_answered_with_the_nearest(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("publish", "--catalogue", str(tmp_path / "c"))
    assert main(["lockfiles", "show", "demo/cpu-linux", "--catalogue", str(tmp_path / "c")]) == 2
    assert "did you mean `demo/cpu-linux-64`?" in capsys.readouterr().err


def test_a_place_without_an_index_is_told_apart_from_a_damaged_catalogue(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for address in (str(tmp_path), f"git+{repository(tmp_path).as_uri()}"):
        assert main(["lockfiles", "list", "--catalogue", address]) == 1
        assert "it has no `index.json`" in capsys.readouterr().err


def test_a_repository_that_is_not_there_is_told_in_the_words_of_git(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["lockfiles", "list", "--catalogue", f"git+{tmp_path.as_uri()}/none.git"]) == 3
    assert "none.git' does not appear to be a git repository" in capsys.readouterr().err


@pytest.mark.parametrize("field", ["template", "variant", "published.by", "requirements.words"])
def test_an_index_that_would_write_to_the_terminal_is_refused(
    home: Path, tmp_path: Path, field: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("publish", "--catalogue", str(tmp_path / "c"))
    index = tmp_path / "c" / "index.json"
    document = json.loads(index.read_text())
    row = document["entries"][0]
    *parents, last = field.split(".")
    for parent in parents:
        row = row[parent]
    row[last] = "fine\x1b[2Jgone"
    index.write_text(json.dumps(document))
    capsys.readouterr()
    assert main(["lockfiles", "list", "--catalogue", str(tmp_path / "c")]) == 1
    captured = capsys.readouterr()
    assert f"at `entries[0].{field}`: expected a string without control characters" in captured.err
    assert "\x1b" not in captured.out + captured.err


@pytest.mark.skipif(sys.platform == "win32", reason="the program git is a shell script here")
@pytest.mark.parametrize("user", ["ada:p%40ss word", "ada:p@ss+word%24HOME'\"", "ada:"])
def test_password_of_a_repository_is_in_no_argument_of_git(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, user: str
) -> None:
    bare, log = repository(tmp_path), tmp_path / "arguments"
    git(bare, "config", "http.receivepack", "true")
    program = tmp_path / "bin" / "git"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> {log}\nexec {shutil.which("git")} "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    with GitServer(tmp_path, login=unquote(user)) as server:
        host = server.url.removeprefix("http://")
        address = f"git+http://{user.replace(' ', '%20')}@{host}/locks.git"

        _run("publish", "--catalogue", address, "--publisher", "Ada")
        _run("pull", NAME, "--catalogue", f"{address}@{git(bare, 'rev-parse', 'main')}", "--force")

        assert main(["lockfiles", "list", "--catalogue", address.replace("ada", "eve")]) == 3
    arguments = log.read_text()
    assert "push" in arguments
    assert "p@ss" not in arguments
    assert "p%40ss" not in arguments
    assert "ada" not in arguments
