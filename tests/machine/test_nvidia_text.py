"""Test the parsers for output of the NVIDIA driver, in every format of drivers 418 to 610."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.nvidia_text import (
    SmiReport,
    parse_compute_capabilities,
    parse_smi_table,
    parse_smi_xml,
    smi_failure,
)
from envforge.machine.values import (
    TextFormatError,
    clean,
    driver_text,
    parse_library_file,
    parse_nvml_version,
    parse_proc_version,
    parse_version,
)
from tests.support.captures import ROOT, captures, sections

MIB = 1024 * 1024
needs_captures = pytest.mark.skipif(not ROOT.is_dir(), reason="the real captures are not beside this checkout")

TABLE_610 = """\
| NVIDIA-SMI 610.57.04              KMD Version: 610.57.04     CUDA UMD Version: 13.3     |
|=========================================+========================+======================|
|   0  NVIDIA GeForce RTX 2080 ...    Off |   00000000:0C:00.0 Off |                  N/A |
| 38%   33C    P8             38W /  250W |     211MiB /   8192MiB |      0%      Default |
"""


@pytest.mark.parametrize(
    "text", ["535.216.01", "450.80.02", "580.65.06", "470.74", "516.01", "570.26", "540.4.0", "591.86", "595.71.05"]
)
def test_driver_versions_are_written_as_nvidia_writes_them(text: str) -> None:
    assert driver_text(Version(text)) == text


@pytest.mark.parametrize(
    ("text", "version"),
    [
        (
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.216.01  Tue Sep 17 16:54:04 UTC 2024\nGCC ...",
            "535.216.01",
        ),
        (
            "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder@U22)",
            "580.65.06",
        ),
        ("NVRM version: NVIDIA UNIX aarch64 Kernel Module  470.74  Mon Sep 13 23:09:15 UTC 2021", "470.74"),
    ],
)
def test_the_proc_file_of_both_kinds_of_module_is_read(text: str, version: str) -> None:
    assert parse_proc_version(text) == Version(version)


def test_an_unknown_proc_file_is_a_fault_that_shows_it() -> None:
    with pytest.raises(TextFormatError, match="found `something else`"):
        parse_proc_version("something else")


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.216.01", "535.216.01"),
        ("/usr/lib/libcuda.so.470.74", "470.74"),
        ("/usr/lib/wsl/lib/libnvidia-ml.so.1", None),
        ("/usr/lib/aarch64-linux-gnu/tegra/libcuda.so.1.1", None),
    ],
)
def test_the_driver_version_is_read_from_the_library_file(path: str, version: str | None) -> None:
    assert parse_library_file(path) == (Version(version) if version else None)


@pytest.mark.parametrize(
    ("text", "version"),
    [("12.535.216.01", "535.216.01"), ("590.48", "590.48"), ("11.450.51.06", "450.51.06"), ("", None)],
)
def test_the_cuda_major_before_nvmls_version_is_dropped(text: str, version: str | None) -> None:
    assert parse_nvml_version(text) == (Version(version) if version else None)


@pytest.mark.parametrize(
    ("text", "version"),
    [("12.2", "12.2"), ("13.3 [Deprecated; will be removed in CUDA 14.0]", "13.3"), ("N/A", None), ("ERR!", None)],
)
def test_a_version_that_is_not_available_is_none(text: str, version: str | None) -> None:
    assert parse_version(text) == (Version(version) if version else None)


def test_the_table_from_driver_610_on_has_other_words() -> None:
    report = parse_smi_table(TABLE_610)
    assert (report.driver_version, report.cuda) == (Version("610.57.04"), Version("13.3"))
    assert [(gpu.index, gpu.name, gpu.memory_bytes) for gpu in report.gpus] == [
        (0, "NVIDIA GeForce RTX 2080 ...", 8192 * MIB)
    ]


def test_the_words_of_driver_610_are_read_in_the_xml_too() -> None:
    xml = (
        "<nvidia_smi_log><kmd_version>610.57.04</kmd_version><cuda_umd_version>13.3</cuda_umd_version></nvidia_smi_log>"
    )
    assert parse_smi_xml(xml) == SmiReport(driver_version=Version("610.57.04"), cuda=Version("13.3"), gpus=())


def test_a_deprecation_note_behind_a_version_is_no_part_of_it() -> None:
    xml = "<nvidia_smi_log><driver_version>610.57.04 [Deprecated; use KMD]</driver_version></nvidia_smi_log>"
    assert parse_smi_xml(xml).driver_version == Version("610.57.04")


@pytest.mark.parametrize("text", ["", "not XML", "<html></html>", "<nvidia_smi_log>"])
def test_what_is_no_report_is_a_fault(text: str) -> None:
    with pytest.raises(TextFormatError):
        parse_smi_xml(text)
    with pytest.raises(TextFormatError):
        parse_smi_table(text)


def test_compute_capabilities_are_read_by_index() -> None:
    text = "0, 7.0\n1, 8.0\n2, [N/A]\n"
    assert parse_compute_capabilities(text) == {0: ComputeCapability(7, 0), 1: ComputeCapability(8, 0)}


@pytest.mark.parametrize(
    ("exit_code", "output", "failure"),
    [
        (0, TABLE_610, None),
        (
            18,
            "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 535.183",
            "driver-library-mismatch",
        ),
        (9, "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", "driver-not-loaded"),
        (6, "No devices were found", "no-devices"),
        (255, "Unable to determine the device handle for GPU0000:07:00.0: Unknown Error", "device-lost"),
        (255, "Failed to initialize NVML: Unknown Error", "nvml-failed"),
        (4, "Failed to initialize NVML: Insufficient Permissions", "no-permission"),
        (12, "", "library-not-found"),
        (18, "", "driver-library-mismatch"),
        (77, "", "failed"),
    ],
)
def test_failures_of_nvidia_smi_are_told_apart(exit_code: int, output: str, failure: str | None) -> None:
    assert smi_failure(exit_code, output) == failure


def test_control_characters_and_bidirectional_marks_are_removed() -> None:
    assert clean(" \x1b[31mA10G\x9b\u202e\n") == "A10G"


@needs_captures
@pytest.mark.parametrize("path", captures("telegraf", "*.xml"), ids=lambda path: path.stem)
def test_every_real_xml_gives_driver_and_gpus(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    report = parse_smi_xml(text)
    versions = re.findall(r"<driver_version>(.*?)<", text)
    assert report.driver_version == (Version(versions[0]) if versions else None)
    assert [gpu.name for gpu in report.gpus] == re.findall(r"<product_name>(.*?)<", text)
    assert all(gpu.memory_bytes and gpu.memory_bytes > 1024 * MIB for gpu in report.gpus)


def test_pci_device_id_of_the_xml_gives_the_capability() -> None:
    gpu = "<gpu id='1'><pci><pci_device_id>{}</pci_device_id></pci></gpu>"
    ids = ("1F0210DE", "0x223710DE", "000000DE")  # the last as in a virtual machine
    report = parse_smi_xml(f"<nvidia_smi_log>{''.join(map(gpu.format, ids))}</nvidia_smi_log>")
    assert [gpu.compute_capability for gpu in report.gpus] == [ComputeCapability(7, 5), ComputeCapability(8, 6), None]


@needs_captures
@pytest.mark.parametrize("path", captures("captures", "*.txt"), ids=lambda path: path.stem)
def test_every_real_table_agrees_with_the_name_of_its_capture(path: Path) -> None:
    driver = Version(path.stem.rpartition("__")[2])
    tables = sections(path, "nvidia-smi")
    assert len(tables) == 2
    for table in tables:
        report = parse_smi_table(table)
        assert report.driver_version == driver
        assert report.cuda is not None
        assert len(report.gpus) == 1
        assert report.gpus[0].memory_bytes


@needs_captures
@pytest.mark.parametrize("path", captures("captures", "*.txt"), ids=lambda path: path.stem)
def test_every_real_query_gives_its_compute_capability(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for part in re.findall(
        r"^# \$ nvidia-smi --query-gpu=\S+ --format=csv\n#+\n(.*?)\n\n", text, re.MULTILINE | re.DOTALL
    ):
        rows = list(csv.DictReader(part.splitlines(), skipinitialspace=True))
        line = "\n".join(f"{row['index']}, {row['compute_cap']}" for row in rows)
        (capability,) = parse_compute_capabilities(line).values()
        assert capability.major in {7, 8, 9}


@needs_captures
@pytest.mark.parametrize(
    ("name", "driver", "cuda", "gpus"),
    [
        ("a100-pcie-mig-535.161.08", "535.161.08", "12.2", ["NVIDIA A100-PCIE-40GB"]),
        ("a100-sxm4-mig-580.126.09", "580.126.09", "13.0", ["NVIDIA A100-SXM4-40GB"]),
        ("freebsd-rtx3060ti-580.126.09-cuda-na", "580.126.09", None, ["NVIDIA GeForce RTX 3060 Ti"]),
        ("jetson-orin-540.4.0-cuda12.6", "540.4.0", "12.6", ["Orin (nvgpu)"]),
        ("jetson-orin-595.78-cuda13.2", "595.78", "13.2", ["Orin (nvgpu)"]),
        ("v100-418.181.07-cuda-na-container", "418.181.07", None, ["Tesla V100-SXM2..."] * 2),
        ("windows-rtx2070-460.15-cuda11.1", "460.15", "11.1", ["GeForce RTX 207..."]),
        ("windows-wddm-2x-517.48-cuda11.7", "517.48", "11.7", ["NVIDIA GeForce ..."] * 2),
        ("wsl2-rtx4070-555.52.01-555.99", "555.99", "12.5", ["NVIDIA GeForce RTX 4070 ..."]),
    ],
)
def test_every_real_table_of_another_system_is_read(name: str, driver: str, cuda: str | None, gpus: list[str]) -> None:
    report = parse_smi_table((ROOT / "text" / f"{name}.txt").read_text(encoding="utf-8"))
    assert report.driver_version == Version(driver)
    assert report.cuda == (Version(cuda) if cuda else None)
    assert [gpu.name for gpu in report.gpus] == gpus


@needs_captures
@pytest.mark.parametrize("path", captures("gpud", "nvidia-smi.5*"), ids=lambda path: path.name)
def test_every_real_table_of_many_gpus_is_read(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    report = parse_smi_table(text)
    assert len(report.gpus) == len(re.findall(r"MiB /", text.split("Processes:")[0]))
    assert [gpu.index for gpu in report.gpus] == list(range(len(report.gpus)))


@needs_captures
@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("error-couldnt-communicate", "driver-not-loaded"),
        ("error-wsl-driver-not-loaded", "driver-not-loaded"),
        ("error-driver-library-mismatch-old", "driver-library-mismatch"),
        ("error-no-devices", "no-devices"),
        ("error-nvml-insufficient-permissions", "no-permission"),
        ("error-unknown-device-handle-new", "device-lost"),
        ("error-unknown-device-handle-old", "device-lost"),
    ],
)
def test_every_real_error_text_is_recognised(name: str, failure: str) -> None:
    assert smi_failure(255, (ROOT / "text" / f"{name}.txt").read_text(encoding="utf-8")) == failure
