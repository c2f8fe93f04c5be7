"""A pylock.toml is installed into a virtual environment, which every command treats as a prefix."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from packaging.version import Version

from envforge.cli import main
from envforge.errors import EnvforgeError
from envforge.lock.lockfile import read_lockfile
from envforge.lock.plan import make_plan
from envforge.lock.project import prefix_in
from envforge.lock.pylock import parse_pylock, render_pylock
from envforge.prefix.activation import activation
from envforge.prefix.audit import AuditReport, AuditRequest, audit
from envforge.prefix.journal import read_journal, write_journal
from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import PYTHON, SUBDIR, Channel
from tests.support.loopback import Loopback


def pylock(path: Path, server: Loopback, channel: Channel, *names: str, python: str = PYTHON) -> Path:
    """Write a pylock.toml with wheels of the channel, such as ``tool-1.0``."""
    wheels = [wheel for name in names for wheel in (channel.folder / "wheels").glob(f"{name}*.whl")]
    writer = LockWriter(server.url).conda(channel.packages["python"]).wheel(*wheels)
    plan = make_plan(read_lockfile(writer.write(path.with_suffix(".yml"))), SUBDIR, path)
    path.write_text(render_pylock({SUBDIR: plan.wheels}, Version(python)), encoding="utf-8")
    path.with_suffix(".yml").unlink()
    return path


@pytest.fixture
def lockfile(tmp_path: Path, server: Loopback, channel: Channel) -> Path:
    return pylock(tmp_path / "pylock.toml", server, channel, "tool-1.0", "typing_extensions")


def audited(place: Place) -> AuditReport:
    return audit(AuditRequest(prefix=place.prefix, platform=SUBDIR))


def test_pylock_becomes_a_virtual_environment(lockfile: Path, place: Place) -> None:
    report = place.install(lockfile)
    assert (report.outcome, len(report.linked)) == ("installed", 2)
    done = subprocess.run([place.prefix / "bin" / "tool"], capture_output=True, text=True, check=True)
    assert done.stdout == "tool at work\n"
    assert place.install(lockfile).outcome == "unchanged"
    assert audited(place).drift == ()


def test_audit_finds_changes_in_a_virtual_environment(lockfile: Path, place: Place) -> None:
    place.install(lockfile)
    (library,) = place.prefix.glob("lib/python*/site-packages")
    (library / "tool" / "__init__.py").write_text("changed = True\n", encoding="utf-8")
    (library / "sitecustomize.py").write_text("", encoding="utf-8")
    assert {found.kind for found in audited(place).drift} == {"file-changed", "file-stray"}


def test_changed_pylock_replaces_only_what_differs(
    lockfile: Path, place: Place, server: Loopback, channel: Channel
) -> None:
    place.install(lockfile)
    kept = (place.prefix / "pyvenv.cfg").stat().st_ino
    report = place.install(pylock(lockfile, server, channel, "tool-2.0", "typing_extensions"))
    assert (report.outcome, report.linked, report.unchanged) == ("updated", ("tool 2.0",), 1)
    assert place.install(pylock(lockfile, server, channel, "tool-2.0")).removed == ("typing-extensions",)
    assert (place.prefix / "pyvenv.cfg").stat().st_ino == kept
    assert audited(place).drift == ()


def test_virtual_environment_becomes_a_conda_environment(
    lockfile: Path, place: Place, lock: LockWriter, channel: Channel, tmp_path: Path
) -> None:
    place.install(lockfile)
    place.install(lock.conda(channel.packages["python"]).write(tmp_path / "conda-lock.yml"))
    assert not (place.prefix / "pyvenv.cfg").exists()
    place.install(lockfile)
    assert not (place.prefix / "conda-meta").exists()
    assert audited(place).drift == ()


def test_interrupted_install_creates_the_environment_again(lockfile: Path, place: Place) -> None:
    place.install(lockfile)
    journal = read_journal(place.prefix)
    assert journal is not None
    write_journal(place.prefix, journal.at("planned"))
    (place.prefix / "bin" / "tool").unlink()
    report = place.install(lockfile)
    assert (report.outcome, len(report.linked)) == ("completed", 2)
    assert audited(place).drift == ()


def test_moved_virtual_environment_is_created_again(lockfile: Path, place: Place) -> None:
    place.install(lockfile)
    moved = place.prefix.rename(place.folder / "moved")
    assert len(place.install(lockfile, prefix=moved).linked) == 2
    assert str(moved) in (moved / "bin" / "tool").read_text(encoding="utf-8")


def test_missing_python_is_named(tmp_path: Path, server: Loopback, channel: Channel, place: Place) -> None:
    lockfile = pylock(tmp_path / "pylock.toml", server, channel, "tool-1.0", python="3.99")
    with pytest.raises(EnvforgeError, match=r"requires Python 3\.99, which is not installed") as caught:
        place.install(lockfile)
    assert caught.value.code == "no-interpreter"


def test_virtual_environment_of_another_tool_is_rejected(lockfile: Path, place: Place) -> None:
    place.prefix.mkdir(parents=True)
    (place.prefix / "pyvenv.cfg").write_text("version = 3.8.1\n", encoding="utf-8")
    with pytest.raises(EnvforgeError, match="is not empty, and envforge did not create it"):
        place.install(lockfile)
    with pytest.raises(EnvforgeError, match="is not a virtual environment of Python"):
        place.install(lockfile, force=True)
    assert (place.prefix / "pyvenv.cfg").read_text(encoding="utf-8") == "version = 3.8.1\n"


def test_activation_sets_virtual_env_and_leaves_conda(lockfile: Path, place: Place) -> None:
    place.install(lockfile)
    before = {"PATH": f"/opt/conda/bin{os.pathsep}/usr/bin", "CONDA_PREFIX": "/opt/conda", "CONDA_SHLVL": "1"}
    found = activation(place.prefix, "digits", before).applied(before)
    assert found["PATH"] == f"{place.prefix}/bin{os.pathsep}/usr/bin"
    assert found["VIRTUAL_ENV"] == str(place.prefix)
    assert "CONDA_PREFIX" not in found


def test_commands_use_the_virtual_environment_of_a_project(
    lockfile: Path, place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(lockfile.parent)
    assert main(["install", "pylock.toml", "--cache", str(place.cache)]) == 0
    assert prefix_in(lockfile.parent) == lockfile.parent / ".venv"
    capfd.readouterr()
    assert main(["audit", "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["result"]["prefix"] == str(lockfile.parent / ".venv")


ROW = '[[packages]]\nname = "x"\nversion = "1.0"\n'
WHEEL = 'wheels = [{url = "https://x/x-1.0-py3-none-any.whl", hashes = {sha256 = "%s"}}]\n' % ("0" * 64)
HEAD = 'lock-version = "1.0"\nrequires-python = "==3.11.*"\ncreated-by = "envforge"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD.replace("==3.11.*", ">=3.9") + ROW + WHEEL, "requires-python"),
        (HEAD + ROW, r"packages\[0\].wheels"),
        (HEAD + ROW + WHEEL.replace("0" * 64, "f"), r"packages\[0\].wheels\[0\].hashes.sha256"),
        (HEAD + ROW + WHEEL.replace("py3-none-any", "py3-none-win32"), r"packages\[0\].wheels"),
        (HEAD + ROW + 'marker = "no"\n' + WHEEL, r"packages\[0\].marker"),
        ("= nothing", "expected TOML"),
    ],
)
def test_invalid_pylock_is_rejected_with_its_place(text: str, expected: str) -> None:
    with pytest.raises(EnvforgeError, match=expected):
        parse_pylock(text, "pylock.toml")


def test_pylock_chooses_the_wheel_of_each_platform() -> None:
    files = [f'{{url = "https://x/x-1.0-cp311-cp311-{tag}.whl", hashes = {{sha256 = "{"0" * 64}"}}}}' for tag in TAGS]
    found = parse_pylock(f"{HEAD}{ENVIRONMENTS}{ROW}wheels = [{', '.join(files)}]\n", "pylock.toml")
    names = {package.platform: package.file_name.removeprefix("x-1.0-cp311-cp311-") for package in found.packages}
    assert names == {"linux-64": f"{TAGS[1]}.whl", "win-64": f"{TAGS[2]}.whl"}


TAGS = ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "win_amd64")
ENVIRONMENTS = """environments = ["sys_platform == 'linux' and platform_machine == 'x86_64'", "sys_platform == 'win32'"]
"""
