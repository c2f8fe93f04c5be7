"""A bundle installs an entire environment on a machine without a network or a cache."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from envforge.cli import main
from envforge.errors import EnvforgeError, OutsideError
from envforge.prefix.bundle import LOCK, SUMS, read_bundle
from envforge.prefix.cache import exclusive_cache
from tests.prefix.install.support import LockWriter, tree
from tests.support.channel import SUBDIR, Channel
from tests.support.loopback import Loopback, Request


@pytest.fixture
def project(lock: LockWriter, channel: Channel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a lock of conda packages of both formats, in which the command line is run."""
    folder = tmp_path / "project"
    folder.mkdir()
    lock.conda(*(channel.packages[name] for name in ("greeting", "binary", "old")))
    lock.write(folder / "conda-lock.yml")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("ENVFORGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return folder


def _run(*arguments: str) -> None:
    assert main(list(arguments)) == 0


ROOT = Path(__file__).parents[2]


def _no_network(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a command in a network namespace that has no interface but a loopback that is down."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        pytest.skip("this machine does not allow network namespaces")
    words = ["unshare", "-rn", *map(str, command)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder)}
    return subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_bundle_of_a_lockfile_with_a_password_is_refused(
    project: Path, server: Loopback, capsys: pytest.CaptureFixture[str]
) -> None:
    path = project / "conda-lock.yml"
    path.write_text(path.read_text().replace("http://", "http://joe:S3CRET@"))

    assert main(["bundle", "-o", "b.tar"]) == 1
    assert "contains credentials" in (said := capsys.readouterr().err)
    assert "S3CRET" not in said
    assert not (project / "b.tar").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_copy_of_a_lockfile_in_an_environment_is_as_private_as_the_lockfile(project: Path) -> None:
    path = project / "conda-lock.yml"
    path.chmod(0o600)

    _run("install", "--frozen")
    assert (project / ".conda" / ".envforge" / "conda-lock.yml").stat().st_mode & 0o777 == 0o600


def test_a_bundle_becomes_the_environment_without_any_network_and_with_an_empty_cache(
    lock: LockWriter, channel: Channel, project: Path, tmp_path: Path
) -> None:
    lock.conda(*(channel.packages[name] for name in ("python", "jinja2", "markupsafe")))
    lock.wheel(*(path for path in (channel.folder / "wheels").glob("*.whl") if "-2.0" not in path.name))
    lock.write(project / "conda-lock.yml")
    _run("bundle", "-o", "all.tar")
    _run("install", "--prefix", str(tmp_path / "prefix"))
    far = tmp_path / "far"
    far.mkdir()
    shutil.move(project / "all.tar", far / "all.tar")
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "envforge",
        "install",
        "--bundle",
        far / "all.tar",
        "--prefix",
        far / "prefix",
    ]
    done = _no_network(far, *command, "--cache", far / "cache")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("installed 8 packages")
    ran = _no_network(far, far / "prefix" / "bin" / "python", "-c", "import jinja2, tool; tool.main()")
    assert ran.stdout == "tool at work\n"
    assert tree(far / "prefix").keys() == tree(tmp_path / "prefix").keys()
    again = _no_network(far, *command, "--cache", far / "cache")
    assert "already matches" in again.stdout


def test_bundling_twice_gives_the_same_bytes(project: Path, tmp_path: Path) -> None:
    _run("bundle", "-o", "one.tar")
    _run("bundle", "-o", "two.tar", "--cache", str(tmp_path / "other-cache"))
    assert (project / "one.tar").read_bytes() == (project / "two.tar").read_bytes()


def test_a_bundle_is_a_plain_tar_that_sha256sum_can_check(project: Path, tmp_path: Path) -> None:
    _run("bundle")
    subprocess.run(["tar", "-xf", project / f"bundle-{SUBDIR}.tar", "-C", tmp_path], check=True)
    assert (tmp_path / LOCK).read_bytes() == (project / "conda-lock.yml").read_bytes()
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", SUMS], cwd=tmp_path, check=True)
    assert len((tmp_path / SUMS).read_text().splitlines()) == 3


def test_a_bundle_that_was_made_is_not_lost_when_the_next_one_fails(project: Path, server: Loopback) -> None:
    _run("bundle", "-o", "all.tar")
    before = (project / "all.tar").read_bytes()
    (project / "conda-lock.yml").write_text((project / "conda-lock.yml").read_text().replace("old-1.0", "odd-1.0"))
    assert main(["bundle", "-o", "all.tar"]) == 3
    assert (project / "all.tar").read_bytes() == before
    assert [path.name for path in project.glob(".*")] == []


def test_a_variant_is_bundled_under_its_name(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "lockfiles" / "cpu").mkdir(parents=True)
    lock = (project / "conda-lock.yml").rename(project / "lockfiles" / "cpu" / "conda-lock.yml")
    assert main(["bundle"]) == 2
    assert capsys.readouterr().err.endswith("hint: to select one, run `envforge bundle --variant cpu`\n")
    _run("bundle", "--variant", "cpu")
    assert read_bundle(project / f"bundle-cpu-{SUBDIR}.tar").lock == lock.read_bytes()
    assert main(["bundle", "conda-lock.yml", "--variant", "cpu"]) == 2


def test_nobody_cleans_the_cache_while_a_bundle_is_made_from_it(
    project: Path, channel: Channel, server: Loopback, tmp_path: Path
) -> None:
    met: list[str] = []

    def clean(request: Request) -> None:
        try:
            with exclusive_cache(tmp_path / "cache"):
                met.append("cleaned")
        except OutsideError as error:
            met.append(error.code)

    with Loopback(channel.folder, gate=clean) as watched:
        _run("bundle", "--mirror", f"{server.url}={watched.url}")
    assert met == ["cache-busy"] * 3


def test_a_bundle_for_another_platform_is_refused(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _run("bundle", "-o", "all.tar")
    _rewrite(project / "all.tar", lambda name, data: data.replace(SUBDIR.encode(), b"osx-arm64"), only="bundle.json")
    assert main(["install", "--bundle", "all.tar"]) == 1
    assert f"is for `osx-arm64`, but this machine is `{SUBDIR}`" in capsys.readouterr().err


def test_another_lock_beside_the_bundle_is_told_and_another_lock_named_is_refused(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("bundle", "-o", "all.tar")
    (project / "conda-lock.yml").write_text((project / "conda-lock.yml").read_text() + "\n# another\n")
    assert main(["install", "conda-lock.yml", "--bundle", "all.tar"]) == 2
    assert not (project / ".conda").exists()
    assert main(["install", "--bundle", "all.tar", "--cache", str(tmp_path / "new")]) == 0
    assert "note: installing the lockfile of all.tar, which differs from conda-lock.yml" in capsys.readouterr().err


def test_a_changed_package_in_a_bundle_stops_the_install(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("bundle", "-o", "all.tar")
    _rewrite(project / "all.tar", lambda name, data: data[:-1] + bytes([data[-1] ^ 1]), only="greeting")
    assert main(["install", "--bundle", "all.tar", "--cache", str(tmp_path / "new")]) == 3
    assert "error: checksum mismatch for `greeting 1.0`" in capsys.readouterr().err
    assert not (project / ".conda").exists()


def test_a_package_that_a_bundle_lacks_is_named(project: Path) -> None:
    _run("bundle", "-o", "all.tar")
    _rewrite(project / "all.tar", lambda name, data: None, only="greeting")
    with pytest.raises(
        EnvforgeError, match=r"`packages/[0-9a-f]{64}/greeting-1\.0.*, which its `SHA256SUMS` lists, is missing"
    ):
        read_bundle(project / "all.tar")


def _member(name: str, kind: bytes = tarfile.REGTYPE, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


GOOD = "packages/" + "a" * 64 + "/x.conda"


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (_member("../outside"), "does not belong in a bundle"),
        (_member("/etc/passwd"), "does not belong in a bundle"),
        (_member("packages/" + "a" * 64 + "/.."), "does not belong in a bundle"),
        (_member("packages/../x"), "does not belong in a bundle"),
        (_member("packages/" + "a" * 64 + "/a/b"), "does not belong in a bundle"),
        (_member(GOOD, tarfile.SYMTYPE, "/etc/passwd"), "is not a plain file"),
        (_member(GOOD, tarfile.LNKTYPE, "bundle.json"), "is not a plain file"),
        (_member(GOOD, tarfile.DIRTYPE), "is not a plain file"),
        (_member(GOOD, tarfile.FIFOTYPE), "is not a plain file"),
        (_member("conda-lock.yml"), "twice"),
    ],
)
def test_a_member_that_no_bundle_has_is_refused(project: Path, member: tarfile.TarInfo, reason: str) -> None:
    _run("bundle", "-o", "all.tar")
    with tarfile.open(project / "all.tar", "a") as archive:
        archive.addfile(member, io.BytesIO())
    with pytest.raises(EnvforgeError, match=reason) as caught:
        read_bundle(project / "all.tar")
    assert caught.value.code == "bundle-damaged"


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [
        (tarfile.GNUTYPE_LONGNAME, "././@LongLink", "a header has"),
        (tarfile.XHDTYPE, "x", "a header has"),
        (tarfile.REGTYPE, SUMS, "is too large"),
    ],
)
def test_a_bundle_with_a_huge_header_or_text_is_refused(tmp_path: Path, kind: bytes, name: str, reason: str) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.size = kind, (1 << 24) + 512
    path = tmp_path / "bundle.tar"
    with path.open("wb") as stream:
        stream.write(member.tobuf(tarfile.GNU_FORMAT))
        stream.truncate((1 << 24) + 10_240)
    with pytest.raises(EnvforgeError, match=reason) as caught:
        read_bundle(path)
    assert caught.value.code == "bundle-damaged"


def test_a_bundle_with_headers_of_headers_is_refused(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 512
    path = tmp_path / "bundle.tar"
    path.write_bytes((header.tobuf(tarfile.GNU_FORMAT) + b"a" * 512) * 5_000)
    with pytest.raises(EnvforgeError) as caught:
        read_bundle(path)
    assert caught.value.code == "bundle-damaged"


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_bundle_that_was_cut_is_refused(project: Path, share: float) -> None:
    _run("bundle", "-o", "all.tar")
    data = (project / "all.tar").read_bytes()
    end = read_bundle(project / "all.tar")
    last = max(span.offset + span.size for span in end.members.values())
    (project / "all.tar").write_bytes(data[: int(last * share)])
    with pytest.raises(EnvforgeError):
        read_bundle(project / "all.tar")


def test_a_changed_lock_in_a_bundle_is_refused(project: Path) -> None:
    _run("bundle", "-o", "all.tar")
    _rewrite(project / "all.tar", lambda name, data: data + b"\n", only=LOCK)
    with pytest.raises(EnvforgeError, match=r"its `conda-lock\.yml`: expected SHA-256"):
        read_bundle(project / "all.tar")


def test_what_is_no_bundle_is_refused_with_exit_1(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "x.tar").write_bytes(hashlib.sha256(b"").digest() * 100)
    assert main(["install", "--bundle", "x.tar"]) == 1
    assert "the bundle `x.tar` is invalid: it is not a complete tar archive" in capsys.readouterr().err


def _rewrite(path: Path, change: Callable[[str, bytes], bytes | None], *, only: str) -> None:
    """Change the members whose name holds ``only``; ``None`` takes one out."""
    with tarfile.open(path) as archive:
        members = [(m.name, archive.extractfile(m)) for m in archive]
        rows = [(name, stream.read()) for name, stream in members if stream is not None]
    with tarfile.open(path, "w") as archive:
        for name, data in rows:
            found = change(name, data) if only in name else data
            if found is not None:
                info = _member(name)
                info.size = len(found)
                archive.addfile(info, io.BytesIO(found))


def test_lockfile_that_changes_while_it_is_read_is_not_bundled(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from envforge.lock import plan

    read = plan.read_any_lock

    def read_and_change(path: Path, platform: str) -> object:
        found = read(path, platform)
        path.write_text(path.read_text() + "\n# changed\n")
        return found

    monkeypatch.setattr(plan, "read_any_lock", read_and_change)
    assert main(["bundle", "-o", "all.tar"]) == 1
    assert "conda-lock.yml` changed while it was read" in capsys.readouterr().err
    assert not (project / "all.tar").exists()


def test_two_bundles_at_once_write_one_complete_file(project: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "envforge", "bundle", "-o", "all.tar"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = [subprocess.Popen(command, cwd=project, env=environment) for _ in range(3)]

    assert [each.wait() for each in running] == [0, 0, 0]
    assert read_bundle(project / "all.tar").platform == SUBDIR
    assert [path.name for path in project.iterdir() if path.name.startswith(".")] == []
