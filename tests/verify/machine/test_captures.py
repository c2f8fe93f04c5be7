"""Test the observer on real output of nvidia-smi and real error messages, without a working NVML."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from envforge.verify.checks import judge
from envforge.verify.record import Record
from envforge.verify.values import Verdict
from tests.verify.machine.scenes import CHECKS, CUDA_LOCK, MODULE, Scene, pci

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "nvidia-smi"
Programs = dict[tuple[str, ...], tuple[int, str]]
XML = sorted((DATA / "telegraf").glob("*.xml"))
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the captures of nvidia-smi are not here")


def _scene(programs: Programs, *, with_module: bool = True) -> Scene:
    files, links = pci(1)
    return Scene(lock=CUDA_LOCK, files=files | (MODULE if with_module else {}), links=links, programs=programs)


def _failures(record: Record) -> set[str]:
    return {finding.check for finding in judge(record, CHECKS).findings if finding.verdict is Verdict.FAIL}


def _error(name: str, exit_code: int) -> dict[tuple[str, ...], tuple[int, str]]:
    text = (DATA / "text" / name).read_text(encoding="utf-8")
    return {("nvidia-smi", "-q", "-x"): (exit_code, text), ("nvidia-smi",): (exit_code, text)}


@pytest.mark.parametrize("path", XML, ids=[path.stem for path in XML])
def test_the_gpus_of_a_real_capture_are_judged_against_the_lock(path: Path, tmp_path: Path, stub: Path) -> None:
    programs: Programs = {("nvidia-smi", "-q", "-x"): (0, path.read_text(encoding="utf-8", errors="replace"))}
    record = _scene(programs).record(tmp_path, stub)
    report = judge(record, CHECKS)
    assert record.machine is not None
    assert record.machine.machine.gpus
    assert not [f.observed for f in report.findings if "the check broke" in f.observed]
    # NVML said nothing, so that no signal of a GPU may pass.
    signals = {f.verdict for f in report.findings if f.check in ("ecc-uncorrectable", "row-remap", "throttled")}
    assert signals == {Verdict.SKIP}


@pytest.mark.parametrize(
    ("name", "exit_code", "with_module", "check"),
    [
        ("error-driver-library-mismatch-old.txt", 18, True, "driver-library-mismatch"),
        ("error-couldnt-communicate.txt", 9, False, "driver-not-loaded"),
        ("error-command-not-found-bash.txt", 127, True, "driver-silent"),
        ("error-nvml-insufficient-permissions.txt", 4, True, "driver-silent"),
    ],
)
def test_a_real_error_text_leads_to_its_check(
    name: str, exit_code: int, with_module: bool, check: str, tmp_path: Path, stub: Path
) -> None:
    record = _scene(_error(name, exit_code), with_module=with_module).record(tmp_path, stub)
    assert check in _failures(record)


def test_the_error_of_a_wsl_without_driver(tmp_path: Path, stub: Path) -> None:
    files = {"/proc/sys/kernel/osrelease": "5.15.0-microsoft-standard-WSL2\n", "/dev/dxg": ""}
    scene = Scene(lock=CUDA_LOCK, files=files, programs=_error("error-wsl-driver-not-loaded.txt", 9))
    assert _failures(scene.record(tmp_path, stub)) >= {"wsl-driver"}
    no_lock = replace(scene, lock=None).record(tmp_path / "again", stub)
    assert _failures(no_lock) == set()
