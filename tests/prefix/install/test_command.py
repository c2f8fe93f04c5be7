"""``envforge install`` prints a report for people, or JSON."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.credentials import SimpleCredential

from envforge.cli import main
from envforge.lock.project import input_sha256
from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import SUBDIR, Channel
from tests.support.loopback import Fault, Loopback, Request, Response


@pytest.fixture
def project(lock: LockWriter, channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a lock of two packages, in which the command line is run."""
    folder = tmp_path / "project"
    folder.mkdir()
    lock.conda(channel.packages["greeting"], channel.packages["scripted"]).write(folder / "conda-lock.yml")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ENVFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return folder


def _normal(text: str, project: Path) -> str:
    return re.sub(r"\d+\.\d+ (s|MB)\b", r"N \1", text.replace(str(project), "PROJECT"))


def test_what_people_read_of_an_install(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install"]) == 0
    captured = capsys.readouterr()
    assert _normal(captured.out, project) == (
        "installed 2 packages in PROJECT/.conda (N s, N MB downloaded)\n"
        "note: the link scripts of scripted were not run; if a package requires its script, remove the environment, "
        "then run this command again with `--run-scripts`\n"
    )
    assert _normal(captured.err, project).splitlines() == [
        "downloading: N MB in N s (N MB/s)",
        "linking: 2 packages in N s",
    ]


def test_category_limits_an_install_and_its_audit(
    project: Path, channel: Channel, lock: LockWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    lock.conda(channel.packages["extra"], category="docs").write(project / "conda-lock.yml")
    assert main(["install", "--category", "docs", "--category", "main"]) == 0
    assert (project / ".conda" / "share" / "extra.txt").is_file()
    assert main(["install", "--category", "main"]) == 0
    captured = capsys.readouterr()
    assert "warning: category `docs` is left out: extra\n" in captured.err
    assert not (project / ".conda" / "share" / "extra.txt").exists()
    assert main(["install", "--category", "docs"]) == 0
    assert main(["audit"]) == 0
    (project / ".conda" / "share" / "extra.txt").unlink()
    assert main(["audit", "--fix"]) == 0
    assert (project / ".conda" / "share" / "extra.txt").is_file()
    assert main(["install", "--category", "tests"]) == 2
    assert "has no category `tests`; it has `docs`, `main`" in capsys.readouterr().err


def test_what_people_read_where_nothing_had_to_be_done(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["install"])
    capsys.readouterr()
    assert main(["install"]) == 0
    captured = capsys.readouterr()
    assert _normal(captured.out, project) == "PROJECT/.conda already matches conda-lock.yml (2 packages)\n"
    assert captured.err == ""


def test_json_is_one_document_and_stderr_is_quiet(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--json", "--prefix", "here"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    result = document["result"]
    assert (document["command"], document["ok"]) == ("install", True)
    assert result["outcome"] == "installed"
    assert result["prefix"] == str(project / "here")
    assert sorted(result["linked"]) == ["greeting 1.0", "scripted 1.0"]
    assert result["scripts_not_run"] == ["scripted"]
    assert captured.err == ""


def test_a_failure_names_package_and_address_and_exits_3(
    project: Path, capsys: pytest.CaptureFixture[str], server: Loopback, channel: Channel
) -> None:
    location = f"/{channel.packages['greeting'].location}"
    server.fail(location, Fault(status=404))
    assert main(["install"]) == 3
    said = "the server returned 404 Not Found"
    assert capsys.readouterr().err.endswith(
        f"error: failed to download `greeting 1.0` from `{server.url}{location}`: {said}\n"
        "\n"
        "hint: if the file was removed or moved, run `envforge lock`; "
        "to download it from a mirror, pass `--mirror FROM=TO`\n"
    )
    assert not (project / ".conda").exists()


def test_a_named_environment_lies_in_the_user_s_own_folder(project: Path, tmp_path: Path) -> None:
    assert main(["install", "--name", "my-project"]) == 0
    assert (tmp_path / "data" / "envforge" / "environments" / "my-project" / "share" / "greeting.txt").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "a\\b", "x" * 65, "dot."])
def test_a_name_that_could_lead_elsewhere_is_refused(project: Path, name: str) -> None:
    assert main(["install", "--name", name]) == 2


def test_two_places_or_two_locks_are_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--name", "a", "--prefix", "b"]) == 2
    assert main(["install", "conda-lock.yml", "--variant", "cpu"]) == 2
    said = capsys.readouterr().err
    assert "hint: to select one environment, omit `--prefix` or `--name`\n" in said
    assert "hint: to select one lockfile, omit the path or `--variant`\n" in said


def test_a_project_without_a_lock_says_how_to_make_one(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "conda-lock.yml").unlink()
    assert main(["install"]) == 1
    assert "change to a project directory; to create a project, run `envforge new " in capsys.readouterr().err
    (project / "environment.yml").write_text("")
    assert main(["install"]) == 1
    assert "hint: to create it from environment.yml, run `envforge lock`" in capsys.readouterr().err


def test_the_variant_that_fits_is_installed_and_said(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "lockfiles" / "cpu").mkdir(parents=True)
    (project / "conda-lock.yml").rename(project / "lockfiles" / "cpu" / "conda-lock.yml")
    assert main(["install"]) == 0
    assert "variant cpu: requires " in capsys.readouterr().err
    assert main(["install", "--variant", "cpu"]) == 0
    assert main(["install", "--variant", "cu118"]) == 2


def test_the_root_lock_does_not_win_over_a_variant_that_fits_better(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "lockfiles" / "cpu").mkdir(parents=True)
    (project / "conda-lock.yml").rename(project / "lockfiles" / "cpu" / "conda-lock.yml")
    (project / "conda-lock.yml").write_text("version: 1\n", encoding="utf-8")
    assert main(["install"]) == 0
    assert "variant cpu: requires " in capsys.readouterr().err
    assert main(["install", "conda-lock.yml"]) == 1


OTHER = "osx-arm64" if SUBDIR != "osx-arm64" else "linux-64"
ENVIRONMENT = f"channels: [conda-forge]\nplatforms: [{SUBDIR}]\ndependencies: [greeting, scripted]\n"


@pytest.fixture
def own_lock(project: Path, lock: LockWriter) -> Path:
    """An environment.yml with a lock that envforge made from it."""
    (project / "environment.yml").write_text(ENVIRONMENT)
    lock.write(project / "conda-lock.yml", envforge_input_sha256=input_sha256(ENVIRONMENT, None))
    return project / "environment.yml"


@pytest.mark.usefixtures("own_lock")
def test_a_lock_that_fits_its_input_is_installed_without_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--locked"]) == 0
    assert "environment.yml" not in capsys.readouterr().err


def test_a_lock_whose_input_has_changed_is_installed_with_a_warning(
    own_lock: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_lock.write_text(ENVIRONMENT + "# more\n")
    assert main(["install"]) == 0
    assert "warning: `environment.yml` has changed since `conda-lock.yml` was created" in capsys.readouterr().err


@pytest.mark.usefixtures("own_lock")
def test_edited_lockfile_is_installed_with_a_warning_unless_locked(
    project: Path, lock: LockWriter, capsys: pytest.CaptureFixture[str]
) -> None:
    recorded = {"envforge_input_sha256": input_sha256(ENVIRONMENT, None), "envforge_lockfile_sha256": "0" * 64}
    lock.write(project / "conda-lock.yml", **recorded)
    assert main(["install", "--locked"]) == 1
    assert "the lockfile must be as envforge wrote it, but it was edited" in capsys.readouterr().err
    assert main(["install"]) == 0
    warning = "warning: `conda-lock.yml` was edited after envforge wrote it; to restore it, run `envforge lock`\n"
    assert warning in capsys.readouterr().err
    assert main(["install", "--frozen"]) == 0
    assert "edited" not in capsys.readouterr().err


def test_frozen_does_not_look_at_the_input(own_lock: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own_lock.write_text(ENVIRONMENT + "# more\n")
    assert main(["install", "--frozen"]) == 0
    assert "environment.yml" not in capsys.readouterr().err


def test_locked_refuses_a_lock_that_is_not_what_its_input_asks_for(
    own_lock: Path, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own_lock.write_text(ENVIRONMENT.replace(f"[{SUBDIR}]", f"[{SUBDIR}, {OTHER}]"))
    assert main(["install", "--locked"]) == 1
    assert f"platform `{OTHER}` is requested, but it is not locked" in capsys.readouterr().err
    assert not (project / ".conda").exists()


class OneHost(KeyringBackend):
    """A keyring that knows one user."""

    priority = -1.0
    is_open = False  # keyring queries every class that exists, in the tests of other modules, too

    def get_credential(self, service: str, username: str | None) -> SimpleCredential | None:
        is_known = self.is_open and service.startswith("http://127.0.0.1:")
        return SimpleCredential("ada", "s3cret") if is_known else None

    def get_password(self, service: str, username: str) -> str | None:
        return None

    def set_password(self, service: str, username: str, password: str) -> None:
        raise NotImplementedError

    def delete_password(self, service: str, username: str) -> None:
        raise NotImplementedError


def test_the_keyring_is_asked_once_a_server_refuses_us(
    channel: Channel, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OneHost, "is_open", True)
    written = channel.packages["greeting"]
    seen = []

    def guarded(request: Request) -> Response:
        seen.append(request.headers.get("authorization"))
        return Response(body=written.path) if seen[-1] else Response(body=b"", status=401)

    before = keyring.get_keyring()
    keyring.set_keyring(OneHost())  # type: ignore[no-untyped-call] # keyring's own signature
    try:
        with Loopback(guarded) as server:
            place.install(LockWriter(server.url).conda(written).write(tmp_path / "conda-lock.yml"))
    finally:
        keyring.set_keyring(before)
    assert seen == [None, "Basic YWRhOnMzY3JldA=="]
    assert (place.prefix / "share" / "greeting.txt").exists()


def test_dry_run_shows_the_work_and_writes_nothing(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install", "--dry-run"]) == 0
    out = capsys.readouterr().out.replace(str(project), "PROJECT")
    assert out.splitlines()[0] == "would link 2 packages into PROJECT/.conda, remove 0, and keep 0"
    assert re.fullmatch(r"would download 2 files \(\d\.\d MB\); the cache has 0", out.splitlines()[1])
    assert re.search(r"^  download     0\.0 MB  greeting 1\.0$", out, re.MULTILINE)
    assert not (project / ".conda").exists()
    assert not (tmp_path / "cache").exists()


def test_dry_run_tells_cached_files_from_others(
    project: Path, lock: LockWriter, channel: Channel, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install"]) == 0
    written = channel.packages["extra"]
    server.fail(f"/{written.location}", Fault(status=404))
    lock.rows = [row for row in lock.rows if row["name"] != "scripted"]
    lock.conda(written).write(project / "conda-lock.yml")
    before = sorted(path for path in (project / ".conda").rglob("*"))
    capsys.readouterr()
    assert main(["install", "--dry-run", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["result"]
    assert found["files"] == [{"package": "extra 1.0", "cached": False, "bytes": None}]
    assert (found["removed"], found["unchanged"], found["dry_run"]) == (["scripted"], 1, True)
    assert main(["install", "--dry-run", "--prefix", "other"]) == 0
    out = capsys.readouterr().out
    assert "would download 1 file; the cache has 1\n" in out
    assert re.search(r"^  cached       0\.0 MB  greeting 1\.0$", out, re.MULTILINE)
    assert re.search(r"^  download    unknown  extra 1\.0$", out, re.MULTILINE)
    assert sorted(path for path in (project / ".conda").rglob("*")) == before


def test_dry_run_of_a_matching_environment_has_nothing_to_do(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install"]) == 0
    capsys.readouterr()
    assert main(["install", "--dry-run"]) == 0
    assert capsys.readouterr().out == f"{project}/.conda already matches conda-lock.yml (2 packages)\n"


def test_dry_run_offline_sends_no_request(project: Path, server: Loopback, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["install", "--dry-run", "--offline"]) == 0
    assert server.requests == ()
    out = capsys.readouterr().out
    assert "2 files are not in the cache, so `--offline` would fail; the cache has 0\n" in out
    assert re.search(r"^  missing     unknown  greeting 1\.0$", out, re.MULTILINE)
    assert not (project / ".conda").exists()


def test_dry_run_without_a_network_gives_the_reason_once(
    project: Path, lock: LockWriter, channel: Channel, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{taken.getsockname()[1]}"
        text = (project / "conda-lock.yml").read_text(encoding="utf-8")
        base = lock.rows[0]["url"].split("/")[2]
        (project / "conda-lock.yml").write_text(text.replace(base, host), encoding="utf-8")
        assert main(["install", "--dry-run"]) == 0
    err = capsys.readouterr().err
    assert "reading file sizes: 2 packages in " in err
    assert err.count(f"the sizes of files on `{host}` are unknown: could not connect to the host") == 1


@pytest.mark.usefixtures("own_lock")
def test_stale_lockfile_is_reported_before_the_download(
    own_lock: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    own_lock.write_text(ENVIRONMENT + "# more\n")
    assert main(["install"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("warning: `environment.yml` has changed since `conda-lock.yml` was created; to update")
    assert lines[1].startswith("downloading: ")


def test_install_finds_the_project_from_a_subdirectory(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(project / "src" / "deep")
    assert main(["install"]) == 0
    assert (project / ".conda" / "share" / "greeting.txt").exists()
    assert not (project / "src" / "deep" / ".conda").exists()
    assert f"installed 2 packages in {project}/.conda (" in capsys.readouterr().out


@pytest.mark.usefixtures("own_lock")
def test_hint_of_a_stale_lockfile_works_from_a_subdirectory(
    own_lock: Path, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own_lock.write_text(ENVIRONMENT + "# more\n")
    (project / "src").mkdir()
    monkeypatch.chdir(project / "src")
    assert main(["install"]) == 0
    assert "to update the lockfile, run `envforge lock`\n" in capsys.readouterr().err


def test_variant_is_found_from_a_subdirectory(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "lockfiles" / "cpu").mkdir(parents=True)
    (project / "conda-lock.yml").rename(project / "lockfiles" / "cpu" / "conda-lock.yml")
    (project / "envforge.toml").write_text("")
    (project / "src").mkdir()
    monkeypatch.chdir(project / "src")
    assert main(["install", "--variant", "cpu"]) == 0
    assert main(["bundle", "--variant", "cpu"]) == 0
    assert main(["export", "explicit", "--variant", "cpu"]) == 0
    assert (project / ".conda" / "share" / "greeting.txt").exists()
