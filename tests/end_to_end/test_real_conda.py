"""Test that conda and mamba read what envforge writes, and the reverse; skipped without them on PATH.

``ENVFORGE_TEST_CONDA`` and ``ENVFORGE_TEST_MAMBA`` may name others, and ``CONDA_SOLVER`` another solver of conda.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import replace

from envforge.export.conda import environment as export_environment
from envforge.export.source import read_source
from envforge.lock.lockfile import read_lockfile
from envforge.lock.locking import lock
from envforge.lock.request import LockRequest
from envforge.prefix.audit import AuditRequest, audit
from envforge.prefix.install import install
from envforge.prefix.values import InstallRequest
from tests.support.channel import (
    PLACEHOLDER,
    SITE_PACKAGES,
    SUBDIR,
    Channel,
    File,
    Package,
    python_package,
    repack,
    requested_closure,
    text_package,
)

CLIENTS = {
    "conda": shutil.which(os.environ.get("ENVFORGE_TEST_CONDA") or "conda"),
    "mamba": shutil.which(os.environ.get("ENVFORGE_TEST_MAMBA") or "mamba"),
}
only_conda = pytest.mark.parametrize("client", ["conda"], indirect=True)


class Project(Struct, frozen=True):
    """A project that is locked, with a conda or mamba that has a home, a cache, and settings of its own."""

    program: str
    folder: Path
    variables: Mapping[str, str]

    @property
    def request(self) -> LockRequest:
        return LockRequest(environment=self.folder / "environment.yml", lockfile=self.folder / "conda-lock.yml")

    @property
    def prefix(self) -> Path:
        return self.folder / "prefix"

    def conda(self, *words: str) -> str:
        """Return the output of the client; conda's exit code after a solve may be that of a crash in its threads."""
        run = subprocess.run(
            [self.program, *words], env=dict(self.variables), capture_output=True, text=True, check=False, timeout=120
        )
        assert not {"Error:", "error"} & set(run.stderr.split()), run.stderr
        return run.stdout

    def install(self, prefix: Path | None = None) -> None:
        lockfile = self.request.lockfile
        place = prefix or self.prefix
        install(InstallRequest(lockfile=lockfile, prefix=place, platform=SUBDIR, cache=self.folder.parent / "cache"))

    def create(self, prefix: Path) -> None:
        """Create a prefix from the lockfile with the client."""
        lines = [f"{p.url}#{p.md5}" for p in read_lockfile(self.request.lockfile).for_platform(SUBDIR)]
        explicit = self.folder / "explicit.txt"
        explicit.write_text("\n".join(["@EXPLICIT", *lines, ""]))
        self.conda("create", "--quiet", "--yes", "--prefix", str(prefix), "--file", str(explicit))

    def packages(self, prefix: Path) -> list[str]:
        return sorted(path.stem for path in (prefix / "conda-meta").glob("*.json"))


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Channel:
    """Python, pip, two noarch libraries (one with a program), and a package that needs another."""
    channel = Channel(tmp_path_factory.mktemp("channel") / "conda-forge")
    channel.add(python_package(), repack("pip"), repack("pygments"), *requested_closure("jinja2"))
    channel.add(text_package("greeting", "1.0", {"share/greeting.txt": f"hello from {PLACEHOLDER}\n"}))
    # a link to a directory, as ncurses has; and nothing needs pip, as conda-lock adds it for wheels
    links = (File(path="share/real/file", data=b"x\n"), File(path="share/link", link_to="real"))
    channel.add(Package(name="user", version="1.0", files=links, depends=("greeting",)))
    channel.index()
    return channel


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest) -> str:
    """The program of conda, then of mamba."""
    program = CLIENTS[request.param]
    if program is None:
        pytest.skip(f"needs {request.param}")
    return program


@pytest.fixture
def project(client: str, channel: Channel, tmp_path: Path) -> Project:
    home = tmp_path / "home"
    folder = tmp_path / "project"
    (home / ".conda").mkdir(parents=True)
    folder.mkdir()
    (home / "settings.yml").write_text("channels: []\ndefault_channels: []\n")
    text = f"channels: [{channel.folder.as_uri()}]\nplatforms: [{SUBDIR}]\n"
    text += "dependencies: [python, pip, jinja2, pygments, user]\nvariables: {GREETING: hello}\n"
    (folder / "environment.yml").write_text(text)
    variables = {
        **{name: os.environ[name] for name in ("CONDA_SOLVER",) if name in os.environ},
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "CONDARC": str(home / "settings.yml"),
        "CONDA_PKGS_DIRS": str(tmp_path / "packages"),
        "CONDA_ENVS_PATH": str(tmp_path / "environments"),
        "MAMBA_ROOT_PREFIX": str(tmp_path / "root"),
    }
    found = Project(program=client, folder=folder, variables=variables)
    lock(found.request)
    return found


@only_conda
def test_conda_as_solver_gives_the_same_lockfile(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONDARC", "CONDA_PKGS_DIRS"):
        monkeypatch.setenv(name, project.variables[name])
    own = project.request.lockfile.read_text()
    lock(replace(project.request, conda_exe=Path(project.program), upgrade=True))
    assert project.request.lockfile.read_text() == own


@only_conda
def test_conda_doctor_and_list_report_nothing_wrong(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", project.variables["HOME"])
    monkeypatch.delenv("CONDA_REGISTER_ENVS")
    project.install()
    report = project.conda("doctor", "--prefix", str(project.prefix))
    # the last one sends a request to a server
    assert [line for line in report.splitlines() if line.startswith("❌") and "CA_BUNDLE" not in line] == []
    listed = project.conda("list", "--explicit", "--md5", "--prefix", str(project.prefix))
    rows = [line for line in listed.splitlines() if "://" in line and not line.startswith("#")]
    assert sorted(rows) == sorted(f"{p.url}#{p.md5}" for p in read_lockfile(project.request.lockfile).packages)
    assert "+user-1.0" in project.conda("list", "--revisions", "--prefix", str(project.prefix))


def test_client_removes_a_package_and_what_needs_it(project: Project) -> None:
    project.install()
    before = project.packages(project.prefix)
    project.conda("remove", "--quiet", "--yes", "--prefix", str(project.prefix), "greeting")
    assert set(before) - set(project.packages(project.prefix)) == {"greeting-1.0-0", "user-1.0-0"}
    project.install()
    assert project.packages(project.prefix) == before


def test_prefix_of_client_matches_with_the_same_digest(project: Project) -> None:
    project.install()
    project.create(project.folder / "other")
    own = audit(AuditRequest(prefix=project.prefix, platform=SUBDIR))
    other = audit(AuditRequest(prefix=project.folder / "other", platform=SUBDIR, lockfile=project.request.lockfile))
    assert (own.drift, other.drift) == ((), ())
    assert own.digest == other.digest


def test_adopted_prefix_is_updated_without_leftovers(project: Project) -> None:
    project.create(project.prefix)
    request = AuditRequest(prefix=project.prefix, platform=SUBDIR, lockfile=project.request.lockfile, adopt=True)
    assert audit(request).drift == ()
    text = project.request.environment.read_text()
    project.request.environment.write_text(text.replace("pygments, ", ""))
    lock(project.request)
    project.install()
    left = [*project.prefix.glob("bin/pygment*"), *(project.prefix / SITE_PACKAGES).glob("pygment*")]
    assert left == []
    report = audit(AuditRequest(prefix=project.prefix, platform=SUBDIR))
    project.install(project.folder / "other")
    other = audit(AuditRequest(prefix=project.folder / "other", platform=SUBDIR))
    assert (report.drift, report.digest) == ((), other.digest)


@only_conda  # mamba 2.8.1 reinstalls only what its package cache has, even in a prefix of its own
def test_prefix_with_a_reinstalled_package_matches(project: Project) -> None:
    project.install()
    words = ["install", "--force-reinstall", "--no-deps", "--quiet", "--yes", "--prefix", str(project.prefix)]
    project.conda(*words, "--channel", read_lockfile(project.request.lockfile).channels[0], "pygments")
    assert audit(AuditRequest(prefix=project.prefix, platform=SUBDIR)).drift == ()


def test_client_creates_the_exported_environment(project: Project) -> None:
    lockfile = read_lockfile(project.request.lockfile)
    exported = export_environment(read_source(lockfile, project.request.lockfile, (SUBDIR,)))
    (project.folder / "exported.yml").write_text(exported.text)
    words = ["env", "create", "--quiet", "--prefix", str(project.prefix), "--file"]
    project.conda(*words, str(project.folder / "exported.yml"))
    lines = [p.file_name.removesuffix(".conda") for p in lockfile.packages]
    assert project.packages(project.prefix) == sorted(lines)
    state = (project.prefix / "conda-meta" / "state").read_text()
    assert '"GREETING": "hello"' in state
