"""A pylock.toml is installed into a virtual environment, which every command treats as a prefix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from uv import find_uv_bin

from envforge.cli import main
from envforge.errors import EnvforgeError
from envforge.lock.lockfile import read_lockfile
from envforge.lock.plan import make_plan
from envforge.lock.project import prefix_in
from envforge.lock.pylock import parse_pylock, render_pylock
from envforge.prefix.activation import activation, bin_folders
from envforge.prefix.audit import AuditReport, AuditRequest, audit
from envforge.prefix.journal import read_journal, write_journal
from envforge.prefix.venv import python_program, venv_site_packages
from tests.prefix.install.support import LockWriter, Place
from tests.support.channel import PYTHON, SUBDIR, Channel
from tests.support.loopback import Loopback
from tests.support.transcripts import ROOT


def pylock(
    path: Path,
    server: Loopback,
    channel: Channel,
    *names: str,
    python: str = PYTHON,
    own: Mapping[str, Any] | None = None,
) -> Path:
    """Write a pylock.toml with wheels of the channel, such as ``tool-1.0``."""
    wheels = [wheel for name in names for wheel in (channel.folder / "wheels").glob(f"{name}*.whl")]
    writer = LockWriter(server.url).conda(channel.packages["python"]).wheel(*wheels)
    plan = make_plan(read_lockfile(writer.write(path.with_suffix(".yml"))), SUBDIR, path)
    path.write_text(render_pylock({SUBDIR: plan.wheels}, Version(python), own), encoding="utf-8")
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


def test_moved_virtual_environment_is_rejected_with_its_own_lockfile(
    server: Loopback, channel: Channel, tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "locks").mkdir()
    place.install(pylock(tmp_path / "locks" / "pylock.gpu.toml", server, channel, "tool-1.0"))
    moved = place.prefix.rename(place.folder / "moved")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EnvforgeError, match="then moved or copied") as caught:
        audit(AuditRequest(prefix=moved, platform=SUBDIR))
    assert caught.value.commands == (f"envforge install locks/pylock.gpu.toml --prefix {moved}",)


def test_virtual_environment_whose_python_is_gone_is_named_and_created_again(
    lockfile: Path, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    place.install(lockfile)
    program = place.prefix / "bin" / "python"
    program.unlink()
    program.symlink_to("/opt/no-such-python")
    for words in (["run", "--prefix", str(place.prefix), "python", "-V"], ["audit", "--prefix", str(place.prefix)]):
        assert main(words) == 1
        assert "has no Python: the Python that it was created from, `/opt/no-such-python`" in capfd.readouterr().err
    assert len(place.install(lockfile).linked) == 2
    assert audited(place).drift == ()


def test_wheel_with_another_hash_is_rejected(lockfile: Path, place: Place) -> None:
    text = lockfile.read_text(encoding="utf-8")
    digest = text.split('sha256 = "')[1][:64]
    lockfile.write_text(text.replace(digest, "0" * 64), encoding="utf-8")
    with pytest.raises(EnvforgeError, match="checksum mismatch"):
        place.install(lockfile)
    assert not place.prefix.exists()


def test_editable_install_is_kept_and_named(lockfile: Path, place: Place, tmp_path: Path) -> None:
    place.install(lockfile)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "1"\n[build-system]\nrequires = []\n'
        'build-backend = "backend"\nbackend-path = ["."]\n',
        encoding="utf-8",
    )
    (tmp_path / "mine" / "backend.py").write_text(BACKEND, encoding="utf-8")
    words = [
        "pip",
        "install",
        "--offline",
        "--python",
        str(place.prefix / "bin" / "python"),
        "-e",
        str(tmp_path / "mine"),
    ]
    subprocess.run([find_uv_bin(), *words], check=True, capture_output=True)
    assert [(found.kind, found.package) for found in audited(place).drift if found.kind != "file-stray"] == [
        ("package-editable", "mine")
    ]
    assert place.install(lockfile).outcome == "unchanged"


BACKEND = """
import zipfile
def get_requires_for_build_editable(config_settings=None): return []
def build_editable(folder, config_settings=None, metadata_directory=None):
    info = "mine-1.dist-info"
    files = {"mine.pth": ".\\n", f"{info}/METADATA": "Metadata-Version: 2.1\\nName: mine\\nVersion: 1\\n"}
    files[f"{info}/WHEEL"] = "Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    files[f"{info}/RECORD"] = "".join(f"{name},,\\n" for name in [*files, f"{info}/RECORD"])
    with zipfile.ZipFile(f"{folder}/mine-1-py3-none-any.whl", "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return "mine-1-py3-none-any.whl"
"""


def test_two_installs_at_once_leave_one_intact_environment(lockfile: Path, place: Place) -> None:
    outcomes: list[str] = []

    def one() -> None:
        try:
            outcomes.append(place.install(lockfile).outcome)
        except EnvforgeError as error:
            outcomes.append(error.code)

    threads = [threading.Thread(target=one) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(outcomes) <= {"installed", "unchanged", "prefix-busy"}
    assert "installed" in outcomes
    assert audited(place).drift == ()


def created_by_uv(prefix: Path, lockfile: Path) -> None:
    subprocess.run([find_uv_bin(), "venv", "--offline", "--python", sys.executable, prefix], check=True)
    words = ["pip", "sync", "--no-config", "--python", str(prefix / "bin" / "python"), str(lockfile)]
    subprocess.run([find_uv_bin(), *words], check=True, cwd=lockfile.parent)
    (site_packages,) = prefix.glob("lib/python*/site-packages")
    for end in ("py", "pth"):  # uv 0.9 and virtualenv write them, newer versions of uv don't
        (site_packages / f"_virtualenv.{end}").touch()


def created_by_venv(prefix: Path, lockfile: Path) -> None:
    """As `python -m venv` with pip, which installs the file; the pip of the tests may be too old to read it."""
    subprocess.run([sys.executable, "-I", "-m", "venv", prefix], check=True)
    created = [info.name for info in prefix.glob("lib/python*/site-packages/pip-*.dist-info")]
    assert created
    words = ["pip", "sync", "--no-config", "--python", str(prefix / "bin" / "python"), str(lockfile)]
    subprocess.run([find_uv_bin(), *words], check=True, cwd=lockfile.parent)
    assert [info.name for info in prefix.glob("lib/python*/site-packages/pip-*.dist-info")] == created


@pytest.mark.parametrize("create", [created_by_uv, created_by_venv])
def test_virtual_environment_of_another_tool_is_audited_and_adopted(
    lockfile: Path,
    place: Place,
    create: Any,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    project = lockfile.parent
    create(project / ".venv", lockfile)
    (project / "envforge.toml").touch()
    monkeypatch.chdir(project)
    assert main(["audit"]) == 0
    captured = capfd.readouterr()
    assert f"{project / '.venv'} matches {lockfile} (" in captured.out
    assert ("_virtualenv.pth" if create is created_by_uv else "virtual environment itself: pip ") in captured.err
    words = [sys.executable, "-m", "envforge", "run", "tool"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "tool at work\n"
    assert main(["install", "pylock.toml"]) == 1
    adopt = f"envforge audit pylock.toml --adopt --prefix {project / '.venv'}"
    assert adopt in capfd.readouterr().err
    assert main(adopt.split()[1:]) == 0
    assert place.install(lockfile, prefix=project / ".venv").outcome == "unchanged"
    (library,) = (project / ".venv").glob("lib/python*/site-packages/tool")
    (library / "__init__.py").write_text("changed = 1\n", encoding="utf-8")
    capfd.readouterr()
    assert main(["audit", "--json"]) == 1
    drift = json.loads(capfd.readouterr().out)["result"]["drift"]
    assert [(found["kind"], found["package"]) for found in drift] == [("file-changed", "tool")]


def test_digest_is_the_same_whoever_created_the_virtual_environment(lockfile: Path, place: Place) -> None:
    place.install(lockfile)
    other = place.folder / "of-uv"
    created_by_uv(other, lockfile)
    report = audit(AuditRequest(prefix=other, platform=SUBDIR, lockfile=lockfile))
    assert report.digest == audited(place).digest


def test_virtual_environment_of_another_tool_can_be_taken_over(lockfile: Path, place: Place) -> None:
    subprocess.run([sys.executable, "-I", "-m", "venv", place.prefix], check=True)
    report = place.install(lockfile, force=True)
    assert (report.outcome, report.removed) == ("updated", ())
    assert audited(place).drift == ()
    assert place.install(lockfile).outcome == "unchanged"


def test_variables_of_the_project_are_set_in_its_virtual_environment(
    server: Loopback, channel: Channel, tmp_path: Path, place: Place
) -> None:
    own = {"variables": {"MODE": 'a "b"', "HOME_OF": "$HOME"}}
    place.install(pylock(tmp_path / "pylock.toml", server, channel, "tool-1.0", own=own))
    program = "import os; print(os.environ['MODE'], os.environ['HOME_OF'])"
    words = ["run", "--prefix", str(place.prefix), "python", "-c", program]
    done = subprocess.run([sys.executable, "-m", "envforge", *words], capture_output=True, text=True, check=True)
    assert done.stdout == 'a "b" $HOME\n'
    words = ["shell", "--print", "--shell", "bash", "--prefix", str(place.prefix)]
    done = subprocess.run([sys.executable, "-m", "envforge", *words], capture_output=True, text=True, check=True)
    assert "export MODE='a \"b\"'\n" in done.stdout


def test_missing_python_is_named(tmp_path: Path, server: Loopback, channel: Channel, place: Place) -> None:
    lockfile = pylock(tmp_path / "pylock.toml", server, channel, "tool-1.0", python="3.99")
    with pytest.raises(EnvforgeError, match=r"requires Python 3\.99, which is not installed") as caught:
        place.install(lockfile)
    assert caught.value.code == "no-interpreter"
    assert not place.prefix.exists()


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


def test_bundle_of_a_pylock_is_installed_without_a_network(
    lockfile: Path, place: Place, server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "target").mkdir()
    bundle, cache = tmp_path / "bundle.tar", str(place.cache)
    assert main(["bundle", str(lockfile), "-o", str(bundle), "--cache", cache]) == 0
    lockfile.unlink()
    monkeypatch.chdir(tmp_path / "target")
    before = len(server.requests)
    assert main(["install", "--bundle", str(bundle), "--cache", cache]) == 0
    assert len(server.requests) == before
    report = audit(AuditRequest(prefix=tmp_path / "target" / ".venv", platform=SUBDIR))
    assert (report.drift, report.counts.packages) == ((), 2)


def test_invalid_lockfile_beside_a_pylock_is_only_a_warning(
    server: Loopback, channel: Channel, tmp_path: Path, place: Place, capfd: pytest.CaptureFixture[str]
) -> None:
    path = pylock(tmp_path / "pylock.toml", server, channel, "tool-1.0", own={"sha256": "0" * 64})
    (tmp_path / "conda-lock.yml").write_text("no: lockfile\n", encoding="utf-8")
    assert main(["install", str(path), "--prefix", str(place.prefix), "--cache", str(place.cache)]) == 0
    assert "can't be compared with it, and is installed as it is" in capfd.readouterr().err


def test_virtual_environment_has_its_layout_of_windows(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.prefix.mkdir(parents=True)
    conda = (bin_folders(place.prefix), python_program(place.prefix))
    (place.prefix / "pyvenv.cfg").write_text("version = 3.11.7\n", encoding="utf-8")
    with monkeypatch.context() as patch:
        patch.setattr("envforge.prefix.venv.WINDOWS", True)
        found = (bin_folders(place.prefix), python_program(place.prefix), venv_site_packages(place.prefix))
    scripts = place.prefix / "Scripts"
    assert found == ((scripts,), scripts / "python.exe", "Lib/site-packages")
    assert conda == ((place.prefix / "bin",), place.prefix / "bin" / "python")


ROW = '[[packages]]\nname = "x"\nversion = "1.0"\n'
WHEEL = 'wheels = [{url = "https://x/x-1.0-py3-none-any.whl", hashes = {sha256 = "%s"}}]\n' % ("0" * 64)
HEAD = 'lock-version = "1.0"\nrequires-python = "==3.11.*"\ncreated-by = "envforge"\n'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (HEAD.replace("==3.11.*", ">=3.9") + ROW + WHEEL, "requires-python"),
        (HEAD.replace('"1.0"', '"2.0"') + ROW + WHEEL, "lock-version"),
        (HEAD.replace('lock-version = "1.0"\n', "") + ROW + WHEEL, "lock-version"),
        (HEAD.replace('created-by = "envforge"\n', "") + ROW + WHEEL, "created-by"),
        (HEAD + 'extras = ["gpu"]\n' + ROW + WHEEL, "extras"),
        (HEAD + 'default-groups = ["dev"]\n' + ROW + WHEEL, "default-groups"),
        (HEAD + ROW + "requires-python = '>=3.9'\n" + WHEEL, r"packages\[0\].requires-python"),
        (HEAD + ROW + 'vcs = {type = "git", url = "https://x/x", commit-id = "0"}\n', r"packages\[0\].vcs"),
        (HEAD + ROW + 'directory = {path = "."}\n', r"packages\[0\].directory"),
        (HEAD + ROW + 'archive = {url = "https://x/x.zip"}\n', r"packages\[0\].archive"),
        (HEAD + ROW + WHEEL + ROW + WHEEL, "expected one package `x` for linux-64"),
        (HEAD + ROW + WHEEL.replace("x-1.0", "y-1.0"), "expected a wheel of `x 1.0`"),
        (HEAD + ROW + WHEEL.replace("x-1.0", "x-2.0"), "expected a wheel of `x 1.0`"),
        (HEAD + ROW + WHEEL.replace("{url", '{name = "y-1.0-py3-none-any.whl", url'), r"wheels\[0\].name"),
        (HEAD + ROW + WHEEL.replace("https://x/", ""), r"wheels\[0\].url"),
        (HEAD + ROW + WHEEL.replace("sha256", "sha512"), r"wheels\[0\].hashes.sha256"),
        (HEAD + ROW + "marker = \"'gpu' in extras\"\n" + WHEEL, r"packages\[0\].marker"),
        (HEAD + ROW + WHEEL + "[tool]\nenvforge = 1\n", "tool.envforge"),
        (HEAD + ROW + WHEEL + '[tool.envforge.variables]\n"A=B" = "1"\n', "tool.envforge.variables"),
        (HEAD + 'packages = "x"\n', "packages"),
        ("[[packages]]\n", "created-by"),
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


def test_pylock_of_another_tool_is_rejected_with_the_commands_that_install_it() -> None:
    for creator in ("uv", "pip", "pdm"):
        with pytest.raises(EnvforgeError, match=f"was created by `{creator}`") as caught:
            parse_pylock(HEAD.replace("envforge", creator) + ROW + WHEEL, "pylock.my.toml")
        assert caught.value.code == "lockfile-foreign"
        assert caught.value.commands == ("uv pip sync pylock.my.toml", "python -m pip install -r pylock.my.toml")


def test_source_distribution_is_installed_only_on_request(tmp_path: Path, place: Place) -> None:
    source = 'sdist = {url = "https://x.invalid/x-1.0.tar.gz", hashes = {sha256 = "%s"}}\n' % ("0" * 64)
    lockfile = tmp_path / "pylock.toml"
    lockfile.write_text(HEAD + ROW + source, encoding="utf-8")
    with pytest.raises(EnvforgeError, match=r"found the source distribution `x-1\.0\.tar\.gz`"):
        place.install(lockfile)


def test_pylock_chooses_the_wheel_of_each_platform() -> None:
    files = [f'{{url = "https://x/x-1.0-cp311-cp311-{tag}.whl", hashes = {{sha256 = "{"0" * 64}"}}}}' for tag in TAGS]
    found = parse_pylock(f"{HEAD}{ENVIRONMENTS}{ROW}wheels = [{', '.join(files)}]\n", "pylock.toml")
    names = {package.platform: package.file_name.removeprefix("x-1.0-cp311-cp311-") for package in found.packages}
    assert names == {"linux-64": f"{TAGS[1]}.whl", "win-64": f"{TAGS[2]}.whl"}


TAGS = ("manylinux_2_17_x86_64", "manylinux_2_28_x86_64", "win_amd64")
ENVIRONMENTS = """environments = ["sys_platform == 'linux' and platform_machine == 'x86_64'", "sys_platform == 'win32'"]
"""
