"""``envforge diff`` reports which packages differ, and how the requirements for the machine change."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from envforge.cli import main
from envforge.lock.diff import LockComparison, compare, list_changes
from envforge.lock.lockfile import (
    CATEGORIES,
    EXCLUDE_NEWER,
    INPUT_SHA256,
    VARIABLES,
    LockedPackage,
    Lockfile,
    read_lockfile,
)
from envforge.pytorch.matrix import load_matrix
from tests.export.locks import CATALOGUE, CU118, CU126, JINJA2, NUMPY, PYTHON, conda, lock

MATRIX = load_matrix()
VALUE = json.dumps({"A": "\n`b`"})
CU118_LOCK = CATALOGUE / "image-classification" / "cu118-linux-64.conda-lock.yml"
CU126_LOCK = CATALOGUE / "image-classification" / "cu126-linux-64.conda-lock.yml"


def _compare(before: Lockfile, after: Lockfile) -> LockComparison:
    return compare(before, after, MATRIX)


def _kinds(comparison: LockComparison) -> dict[str, tuple[str, str]]:
    (one,) = comparison.platforms
    return {change.name: (change.kind, change.what) for change in one.changes}


def test_added_removed_and_changed_packages_are_told_apart() -> None:
    newer = conda("numpy", "2.4.6", "py310hefbff90_0")
    found = _compare(lock(PYTHON, NUMPY, CU118), lock(PYTHON, newer, JINJA2))
    assert _kinds(found) == {
        "jinja2": ("added", "added"),
        "numpy": ("changed", "version"),
        "torch": ("removed", "removed"),
    }


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        (conda("numpy", "2.2.6", "py310hefbff90_1"), "build"),
        (replace(NUMPY, sha256="cd" * 32), "file"),
        (replace(NUMPY, url=NUMPY.url.replace("conda.anaconda.org", "mirror.example")), "address"),
        (replace(NUMPY, category="dev"), "category"),
    ],
)
def test_what_differs_at_the_same_version_is_named(changed: LockedPackage, what: str) -> None:
    assert _kinds(_compare(lock(PYTHON, NUMPY), lock(PYTHON, changed))) == {"numpy": ("changed", what)}


def test_order_and_hashes_of_the_input_do_not_count() -> None:
    other = replace(lock(NUMPY, PYTHON), content_hash=(("linux-64", "1"),), custom_metadata=((INPUT_SHA256, "1"),))
    assert _compare(lock(PYTHON, NUMPY), other).is_same


SETTINGS = [
    ({"channels": ("other",)}, ("channels", "conda-forge", "other")),
    ({"custom_metadata": ((VARIABLES, '{"A": ""}'),)}, ("variable", "", "A=")),
    ({"custom_metadata": ((CATEGORIES, "main,docs"),)}, ("categories", "", "main docs")),
    ({"custom_metadata": ((EXCLUDE_NEWER, "2026-01-01T00:00:00Z"),)}, ("exclude-newer", "", "2026-01-01T00:00:00Z")),
    ({"sources": ("a.yml", "b.yml")}, ("environment files", "environment.yml", "a.yml b.yml")),
]


@pytest.mark.parametrize(("changed", "shift"), SETTINGS)
def test_each_setting_that_differs_is_named(changed: dict[str, Any], shift: tuple[str, str, str]) -> None:
    before = replace(lock(PYTHON), sources=("environment.yml",))
    after = replace(before, **changed)
    found = _compare(before, after)
    assert [(one.what, one.before, one.after) for one in found.settings] == [shift]
    assert (found.platforms, found.is_same) == ((), False)
    assert list_changes(before, after) == (f"~ {shift[0]} {shift[1] or 'none'} -> {shift[2]}",)
    explicit = replace(after, channels=(), sources=(), custom_metadata=())
    assert _compare(before, explicit).is_same
    variant = replace(after, sources=tuple(f"../../{source}" for source in after.sources))
    assert _compare(after, variant).is_same


def test_settings_are_in_every_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = tmp_path / "conda-lock.yml"
    text = CU118_LOCK.read_text(encoding="utf-8")
    hostile.write_text(text.replace("  custom_metadata:\n", f"  custom_metadata:\n    {VARIABLES}: '{VALUE}'\n", 1))
    words = ["diff", str(CU118_LOCK), str(hostile)]
    assert main(words) == 1
    assert "\nsettings:\n  variable: none → A=\N{REPLACEMENT CHARACTER}`b`" in capsys.readouterr().out
    assert main([*words, "--markdown"]) == 1
    assert "\n- **variable**: none → `A=\N{REPLACEMENT CHARACTER}'b'`" in capsys.readouterr().out
    assert main([*words, "--json"]) == 1
    result = json.loads(capsys.readouterr().out)["result"]
    assert result == {"platforms": [], "settings": [{"what": "variable", "before": "", "after": "A=\n`b`"}]}


def test_second_category_of_a_package_is_a_difference() -> None:
    found = _compare(lock(PYTHON), lock(PYTHON, replace(PYTHON, category="dev")))
    assert _kinds(found) == {"python": ("changed", "category")}
    assert [one.after and one.after.category for one in found.platforms[0].changes] == ["dev, main"]


def test_a_checksum_that_only_one_lock_has_is_no_other_file() -> None:
    assert _compare(lock(replace(NUMPY, sha256=None, md5="ef" * 16)), lock(NUMPY)).is_same


def test_python_names_are_compared_as_pip_compares_them() -> None:
    wheel = replace(CU118, name="Typing_Extensions")
    assert _compare(lock(wheel), lock(replace(wheel, name="typing-extensions"))).is_same


def test_another_cuda_shows_driver_and_compute_capability_before_and_after() -> None:
    (one,) = _compare(lock(PYTHON, CU118), lock(PYTHON, CU126)).platforms
    shifts = {shift.what: (shift.before, shift.after) for shift in one.machine}
    assert shifts["NVIDIA driver"] == ("520.61.05 or newer", "560.28.03 or newer")
    assert shifts["driver by CUDA minor-version compatibility"] == ("450.80.02", "525.60.13")
    assert shifts["compute capability"][0].startswith("3.7, 5.0")
    assert "glibc" not in shifts


def test_a_newer_glibc_is_a_change_for_the_machine() -> None:
    newer = replace(NUMPY, sha256="cd" * 32, dependencies=(("__glibc", ">=2.34,<3.0.a0"),))
    (one,) = _compare(lock(PYTHON, NUMPY), lock(PYTHON, newer)).platforms
    assert [(s.what, s.before, s.after) for s in one.machine] == [("glibc", "2.17 or newer", "2.34 or newer")]


def test_a_platform_that_comes_or_goes_is_a_difference() -> None:
    mac = conda("python", "3.10.20", "h1_cpython", platform="osx-arm64")
    both = lock(PYTHON, mac, platforms=("linux-64", "osx-arm64"))
    assert [(one.platform, one.kind) for one in _compare(lock(PYTHON), both).platforms] == [("osx-arm64", "added")]
    assert [(one.platform, one.kind) for one in _compare(both, lock(PYTHON)).platforms] == [("osx-arm64", "removed")]


def test_sizes_are_counted_for_new_files_whose_size_is_known() -> None:
    newer = replace(NUMPY, version="2.4.6", sha256="cd" * 32)
    moved = replace(PYTHON, url=PYTHON.url.replace("conda.anaconda.org", "mirror.example"))
    sizes = {"cd" * 32: 7_000_000, "ab" * 32: 1}
    (one,) = compare(lock(PYTHON, NUMPY), lock(moved, newer), MATRIX, sizes).platforms
    assert (one.new_files, one.sized, one.fetch_bytes) == (1, 1, 7_000_000)


def test_equal_locks_end_with_0_and_different_ones_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(CU118_LOCK), str(CU118_LOCK)]) == 0
    assert "installs the same files as" in capsys.readouterr().out
    assert main(["diff", str(CU118_LOCK), str(CU126_LOCK)]) == 1
    said = capsys.readouterr().out
    assert "NVIDIA driver: 520.61.05 or newer → 560.28.03 or newer" in said
    assert "~ torch                     2.7.1+cu118 → 2.14.0+cu126 (pip)" in said


def test_json_names_both_sides_of_each_change(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(CU118_LOCK), str(CU126_LOCK), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert (document["command"], document["ok"]) == ("diff", False)
    (one,) = document["result"]["platforms"]
    python = next(change for change in one["changes"] if change["name"] == "python")
    assert (python["before"]["version"], python["before"]["build"]) == ("3.10.20", "h267e890_1_cpython")
    assert len(python["after"]["sha256"]) == 64
    assert main(["diff", str(CU118_LOCK), str(CU118_LOCK), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "schema_version": 1,
        "command": "diff",
        "ok": True,
        "result": {"platforms": [], "settings": []},
    }


def test_markdown_of_a_hostile_lock_stays_in_its_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hostile = "x`|</details>\\n# owned\\e[31m"
    text = CU118_LOCK.read_text(encoding="utf-8").replace("- name: brotli\n", f'- name: "{hostile}"\n', 1)
    changed = tmp_path / "conda-lock.yml"
    changed.write_text(text, encoding="utf-8")
    assert main(["diff", str(CU118_LOCK), str(changed), "--markdown"]) == 1
    lines = capsys.readouterr().out.splitlines()
    (row,) = [line for line in lines if "owned" in line]
    assert row.startswith("| added | `x'\\|</details>")
    assert "\x1b" not in row
    assert [line for line in lines if line == "</details>"] == ["</details>"]


def test_words_of_a_hostile_lock_do_not_steer_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = CU118_LOCK.read_text(encoding="utf-8").replace("- name: brotli\n", '- name: "x\\e[2J\\nok"\n', 1)
    changed = tmp_path / "conda-lock.yml"
    changed.write_text(text, encoding="utf-8")
    assert main(["diff", str(CU118_LOCK), str(changed)]) == 1
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\nok" not in said


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not here")
def test_a_lock_is_read_from_a_revision_of_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lockfile = tmp_path / "conda-lock.yml"
    lockfile.write_bytes(CU118_LOCK.read_bytes())
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.example", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    lockfile.write_bytes(CU126_LOCK.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert main(["diff", "git:HEAD"]) == 1
    assert "from git:HEAD to conda-lock.yml" in capsys.readouterr().out
    assert main(["diff", "git:HEAD", "git:HEAD:conda-lock.yml"]) == 0
    assert main(["diff", "git:nowhere"]) == 1
    assert "git can't read `git:nowhere`" in capsys.readouterr().err


@pytest.mark.parametrize("spec", ["git:", "git:--output=x", "git:HEAD:/etc/passwd"])
def test_what_is_no_revision_is_refused(spec: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", spec]) == 2
    assert "is not a file at a git revision" in capsys.readouterr().err


def test_a_missing_or_damaged_lock_is_an_error_with_its_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = tmp_path / "damaged.yml"
    damaged.write_text("version: 2\n", encoding="utf-8")
    assert main(["diff", str(damaged), str(CU118_LOCK), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["error"]["code"] == "lockfile-damaged"
    assert str(damaged) in document["error"]["message"]


def test_sizes_come_from_the_package_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch = next(p for p in read_lockfile(CU126_LOCK).packages if p.name == "torch")
    assert torch.sha256 is not None
    folder = tmp_path / "files" / torch.sha256[:2] / torch.sha256
    folder.mkdir(parents=True)
    (folder / torch.file_name.replace("%2B", "+")).write_bytes(b"0" * 2_500_000)
    monkeypatch.setenv("ENVFORGE_CACHE", str(tmp_path))
    assert main(["diff", str(CU118_LOCK), str(CU126_LOCK)]) == 1
    assert "to download: 39 files, 2.5 MB plus 38 files of unknown size" in capsys.readouterr().out
