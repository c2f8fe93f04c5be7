"""The packages of a prefix are compared with its lockfile."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import yaml
from uv import find_uv_bin

from envforge.prefix.audit import AuditRequest, audit
from tests.prefix.audit.support import Audited, edit
from tests.prefix.install.support import LockWriter
from tests.support.channel import SUBDIR, Channel


def _relocked(audited: Audited, tmp_path: Path, package: str, /, **changes: object) -> Path:
    document = yaml.safe_load(audited.lockfile.read_text())
    row = next(row for row in document["package"] if row["name"] == package)
    row |= changes
    path = tmp_path / "other.yml"
    path.write_text(yaml.safe_dump(document))
    return path


def _found(audited: Audited, lockfile: Path) -> list[tuple[str, str, str, str]]:
    drift = audited.audit(lockfile=lockfile).drift
    return [(found.kind, found.package, found.wanted, found.found) for found in drift]


def test_a_fresh_prefix_is_what_its_lock_says(audited: Audited) -> None:
    report = audited.audit()
    assert report.drift == ()
    assert report.warnings == ()
    assert report.counts.packages == 8
    assert report.counts.files > 500


def test_python_at_work_is_no_drift(audited: Audited) -> None:
    before = audited.audit().digest
    audited.run_python("-c", "import jinja2, tool, json, typing_extensions")
    report = audited.audit()
    assert list(audited.site.rglob("*.pyc"))
    assert report.drift == ()
    assert report.digest == before


def test_another_version_build_and_origin_are_told_apart(audited: Audited, tmp_path: Path) -> None:
    url = f"{audited.base}/{SUBDIR}/greeting-1.0-1.conda"
    assert _found(audited, _relocked(audited, tmp_path, "greeting", url=url)) == [
        ("package-build", "greeting", "1", "0")
    ]
    newer = {"url": url.replace("-1.0-1", "-2.0-0"), "version": "2.0"}
    assert _found(audited, _relocked(audited, tmp_path, "greeting", **newer)) == [
        ("package-version", "greeting", "2.0", "1.0")
    ]
    other = {"hash": {"sha256": "0" * 64}}
    record = json.loads((audited.prefix / "conda-meta" / "greeting-1.0-0.json").read_text())
    assert _found(audited, _relocked(audited, tmp_path, "greeting", **other)) == [
        ("package-origin", "greeting", f"sha256:{'0' * 64}", f"sha256:{record['sha256']}")
    ]


def test_an_address_counts_where_no_checksum_can_be_compared(audited: Audited, tmp_path: Path) -> None:
    elsewhere = {"hash": {"md5": "0" * 32}, "url": f"https://elsewhere.example/{SUBDIR}/greeting-1.0-0.conda"}
    kinds = [found[0] for found in _found(audited, _relocked(audited, tmp_path, "greeting", **elsewhere))]
    assert kinds == ["package-origin"]


def test_a_wheel_of_another_version_or_file_differs(audited: Audited, channel: Channel, tmp_path: Path) -> None:
    wheel = channel.folder / "wheels" / "tool-2.0-py3-none-any.whl"
    newer = LockWriter(audited.base).wheel(wheel).rows[0]
    assert _found(audited, _relocked(audited, tmp_path, "tool", **newer)) == [("package-version", "tool", "2.0", "1.0")]
    other = _relocked(audited, tmp_path, "tool", hash={"sha256": "0" * 64})
    assert [found[:2] for found in _found(audited, other)] == [("package-origin", "tool")]


def test_missing_and_extra_packages_are_named(audited: Audited, channel: Channel, tmp_path: Path) -> None:
    lock = LockWriter(audited.base).conda(channel.packages["python"], channel.packages["launched"])
    kinds = {(kind, name) for kind, name, _, _ in _found(audited, lock.write(tmp_path / "small.yml"))}
    assert ("package-missing", "launched") in kinds
    assert ("package-extra", "jinja2") in kinds
    assert ("package-extra", "tool") in kinds
    assert not any(name == "python" for _, name in kinds)


def _uv(audited: Audited, *words: str) -> None:
    command = [find_uv_bin(), "pip", *words, "--offline", "--no-config", "--python", str(audited.prefix / "bin/python")]
    subprocess.run([*command, "--cache-dir", str(audited.place.folder / "uv")], check=True, capture_output=True)


def test_a_wheel_that_somebody_installed_over_ours_is_of_another_origin(audited: Audited, channel: Channel) -> None:
    wheel = channel.folder / "wheels" / "tool-1.0-py3-none-any.whl"
    _uv(audited, "install", "--break-system-packages", "--no-deps", "--reinstall", str(wheel))
    (found,) = audited.audit().drift
    assert (found.kind, found.package, found.found) == ("package-origin", "tool", f"uv from {wheel.as_uri()}")
    audited.repair()
    assert audited.drift() == []
    edit(audited.site / "tool-1.0.dist-info" / "INSTALLER", b"pip\n")
    assert audited.drift() == [("package-origin", "tool")]


def test_an_editable_install_is_named_with_its_folder(audited: Audited, tmp_path: Path) -> None:
    project = tmp_path / "mine"
    project.mkdir()
    (project / "mine.py").write_text("")
    backend = "import pathlib, zipfile\n" + EDITABLE_BACKEND
    (project / "backend.py").write_text(backend)
    (project / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "mine"\nversion = "0.1"\n'
    )
    _uv(audited, "install", "--break-system-packages", "--no-deps", "--no-build-isolation", "-e", str(project))
    (found,) = audited.audit().drift
    assert (found.kind, found.package) == ("package-editable", "mine")
    assert str(project) in found.text
    audited.repair()
    assert audited.drift() == []
    assert not (audited.site / "mine.pth").exists()
    assert (project / "mine.py").exists()


EDITABLE_BACKEND = """
def build_editable(folder, settings=None, metadata=None):
    info, name = "mine-0.1.dist-info", "mine-0.1-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(folder) / name, "w") as wheel:
        wheel.writestr("mine.pth", str(pathlib.Path.cwd()))
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: mine\\nVersion: 0.1\\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        names = ("mine.pth", f"{info}/METADATA", f"{info}/WHEEL")
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\\n" for name in names))
    return name
"""


def test_a_library_of_both_conda_and_pip_is_drift_where_pip_s_is_not_locked(audited: Audited, channel: Channel) -> None:
    wheel = next((channel.folder / "wheels").glob("markupsafe-*.whl"))
    _uv(audited, "install", "--break-system-packages", "--no-deps", "--target", str(audited.site), str(wheel))
    assert {("owned-twice", "markupsafe"), ("package-extra", "markupsafe")} <= set(audited.drift())
    audited.repair()
    assert audited.drift() == []


def test_a_library_of_both_conda_and_pip_is_a_warning_where_the_lock_has_both(
    audited: Audited, channel: Channel, tmp_path: Path
) -> None:
    document = yaml.safe_load(audited.lockfile.read_text())
    wheel = next((channel.folder / "wheels").glob("markupsafe-*.whl"))
    document["package"] += LockWriter(audited.base).wheel(wheel).rows
    both = tmp_path / "both.yml"
    both.write_text(yaml.safe_dump(document))
    audited.place.install(both, prefix=tmp_path / "both")
    report = audit(AuditRequest(prefix=tmp_path / "both", platform=SUBDIR))
    assert [(found.kind, found.package) for found in report.warnings] == [("owned-twice", "markupsafe")]
    assert report.drift == ()


def test_several_openmp_runtimes_are_a_warning(audited: Audited) -> None:
    for path, data in (("lib/libgomp.so.1.0.0", b"gnu"), ("lib/libomp.so", b"llvm"), ("lib/libiomp5.so", b"intel")):
        (audited.prefix / path).write_bytes(data)
    (audited.prefix / "lib" / "libgomp.so.1").symlink_to("libgomp.so.1.0.0")
    report = audited.audit()
    (found,) = report.warnings
    assert found.kind == "openmp"
    assert found.text.startswith("3 OpenMP runtimes")
    assert "libgomp.so.1`" not in found.text
    assert report.drift == ()
