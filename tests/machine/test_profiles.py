"""Test the bundled profiles and data tables, and the values that ``--machine`` accepts."""

from __future__ import annotations

from typing import Any

import pytest
from packaging.version import Version

from envforge.base.data_files import read_data
from envforge.base.terms import ComputeCapability
from envforge.errors import RequestError
from envforge.machine.gpu_tables import (
    branch_cuda,
    is_tegra,
    named_capability,
    nearest_branch_cuda,
    pci_gpu,
    tegra_capability,
)
from envforge.machine.record import MachineRecordError, load_machine
from envforge.machine.values import Machine

NAMES = [
    "t4",
    "v100",
    "a10g",
    "l4",
    "a100-40",
    "a100-80",
    "h100",
    "h200",
    "b200",
    "rtx-3090",
    "rtx-4090",
    "rtx-5090",
    "gh200",
    "cpu",
]
CAPABILITIES = ["7.5", "7.0", "8.6", "8.9", "8.0", "8.0", "9.0", "9.0", "10.0", "8.6", "8.9", "12.0", "9.0"]


def test_the_profiles_are_those_that_are_documented() -> None:
    assert list(read_data("profiles.toml", dict[str, Any])) == NAMES


@pytest.mark.parametrize(("name", "capability"), list(zip(NAMES, CAPABILITIES, strict=False)))
def test_a_gpu_profile_has_one_gpu_and_a_driver_with_its_source(name: str, capability: str) -> None:
    machine = load_machine(name, {})
    assert machine.capabilities == (ComputeCapability.parse(capability),)
    assert machine.platform == ("linux-aarch64" if name == "gh200" else "linux-64")
    assert machine.driver is not None
    assert machine.driver.version is not None
    assert machine.driver.cuda == branch_cuda(machine.driver.version)
    assert len(machine.source("driver.kernel_version") or "") > len(f"profile {name}: ")
    row = read_data("profiles.toml", dict[str, Any])[name]
    assert row["driver_source"]
    assert row["memory_source"]


def test_the_cpu_profile_has_no_sign_of_nvidia() -> None:
    machine = load_machine("cpu", {})
    assert (machine.has_nvidia, machine.capabilities, machine.glibc) == (False, (), Version("2.35"))


def test_a_profile_is_the_same_whatever_this_shell_states() -> None:
    stated = {"CONDA_OVERRIDE_CUDA": "11.8", "CUDA_VISIBLE_DEVICES": "-1"}
    assert load_machine("t4", stated) == load_machine("t4", {})


@pytest.mark.parametrize(("wrong", "nearest"), [("h10", "h100"), ("A10G", "a10g"), ("rtx4090", "rtx-4090")])
def test_an_unknown_machine_lists_the_profiles_and_suggests_the_nearest(wrong: str, nearest: str) -> None:
    with pytest.raises(RequestError) as caught:
        load_machine(wrong, {})
    assert f"`{wrong}`" in caught.value.message
    assert ", ".join(NAMES) in caught.value.message
    assert caught.value.hint == f"did you mean `--machine {nearest}`?"


@pytest.mark.parametrize("name", ["missing.json", "./missing", "there/t4"])
def test_a_file_that_is_missing_is_said_to_be_missing(name: str) -> None:
    with pytest.raises(MachineRecordError, match=f"cannot read the machine record `{name.removeprefix('./')}`"):
        load_machine(name, {})


def test_this_computer_is_probed_where_no_machine_is_named() -> None:
    machine = load_machine(None, {"PATH": "/nonexistent"})
    assert isinstance(machine, Machine)
    assert machine.source("python") == "this interpreter"


def test_every_pci_row_has_a_chip_with_a_compute_capability() -> None:
    table = read_data("nvidia-pci.toml", dict[str, Any])
    assert len(table["devices"]) > 800
    for device_id, (chip, _name) in table["devices"].items():
        gpu = pci_gpu(f"0x{device_id}")
        assert gpu is not None
        assert gpu.chip == chip
    assert set(table["chips"]) == {chip for chip, _ in table["devices"].values()}


@pytest.mark.parametrize(
    ("device_id", "capability"),
    [
        ("0x1eb8", "7.5"),
        ("0x1db1", "7.0"),
        ("0x2237", "8.6"),
        ("0x27B8", "8.9"),
        ("0x20b0", "8.0"),
        ("0x2330", "9.0"),
        ("0x2335", "9.0"),
        ("0x2901", "10.0"),
        ("0x2204", "8.6"),
        ("0x2684", "8.9"),
        ("0x2b85", "12.0"),
        ("0x2342", "9.0"),
    ],
)
def test_the_gpus_of_the_profiles_are_in_the_pci_table(device_id: str, capability: str) -> None:
    gpu = pci_gpu(device_id)
    assert gpu is not None
    assert gpu.compute_capability == ComputeCapability.parse(capability)


@pytest.mark.parametrize(
    ("driver", "exact", "nearest"),
    [("535.216.01", "12.2", "12.2"), ("540.4.0", None, "12.2"), ("588.10", None, "13.0"), ("340.108", None, None)],
)
def test_a_driver_between_two_branches_is_taken_for_the_older(
    driver: str, exact: str | None, nearest: str | None
) -> None:
    assert branch_cuda(Version(driver)) == (Version(exact) if exact else None)
    assert nearest_branch_cuda(Version(driver)) == (Version(nearest) if nearest else None)


def test_newer_branches_never_serve_an_older_cuda() -> None:
    branches = read_data("nvidia-drivers.json", dict[str, Any])["branches"]
    served = [Version(row["cuda"]) for row in sorted(branches, key=lambda row: row["driver"])]
    assert served == sorted(served)


def test_a_jetson_that_is_not_in_the_table_is_not_guessed() -> None:
    assert tegra_capability("nvidia,p3701\nnvidia,tegra234\n") == ComputeCapability(8, 7)
    assert tegra_capability("nvidia,tegra999\n") is None


@pytest.mark.parametrize(
    ("name", "capability"),
    [
        ("NVIDIA A100-SXM4-40GB", "8.0"),
        ("NVIDIA H100 80GB HBM3", "9.0"),
        ("NVIDIA GH200 480GB", "9.0"),
        ("NVIDIA B300 SXM6 AC", "10.3"),
        ("Tesla V100-SXM2...", "7.0"),
        ("GeForce RTX 207...", "7.5"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "8.9"),
        ("Quadro RTX 6000", "7.5"),
        ("NVIDIA RTX 6000 Ada Generation", "8.9"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "12.0"),
        ("NVIDIA TITAN X (Pascal)", "6.1"),
        ("GeForce GTX TITAN X", "5.2"),
        ("Tesla-T4-SHARED", "7.5"),
        ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "8.0"),
        ("gtx1080ti", "6.1"),
        ("rtx_4090", "8.9"),
        ("a100_1g.5gb", "8.0"),
        ("Orin (nvgpu)", "8.7"),
        ("NVIDIA Thor", "11.0"),
        # products of several chips, and unknown ones
        ("NVIDIA GeForce ...", None),
        ("NVIDIA GeForce GTX 860M", None),
        ("rtx_6000", None),
        ("NVIDIA Rubin", None),
        ("gpu", None),
        ("", None),
    ],
)
def test_name_in_any_spelling_gives_the_capability(name: str, capability: str | None) -> None:
    assert named_capability(name) == (ComputeCapability.parse(capability) if capability else None)


@pytest.mark.parametrize(("device_id", "capability"), [("0x2e03", "12.1"), ("2E06", "12.1"), ("0x2e13", "12.1")])
def test_rtx_spark_is_known_by_its_pci_id(device_id: str, capability: str) -> None:
    gpu = pci_gpu(device_id)
    assert gpu is not None
    assert gpu.compute_capability == ComputeCapability.parse(capability)


def test_each_architecture_has_its_driver_branches() -> None:
    rows = {str(row["capability"]): row for row in read_data("nvidia-drivers.json", dict[str, Any])["supports"]}
    last = {name: row["last"] for name, row in rows.items() if "last" in row}
    assert last == dict.fromkeys(["3.5", "3.7"], 470) | dict.fromkeys(["5.0", "5.2", "6.0", "6.1", "7.0"], 580)
    first = {name: row["first"] for name, row in rows.items() if "first" in row}
    assert (first["7.5"], first["8.0"], first["9.0"], first["10.0"], first["10.3"], first["12.1"]) == (
        410,
        450,
        520,
        570,
        575,
        575,
    )
    # Tegra drivers have numbers of their own
    assert {name for name in rows if is_tegra(ComputeCapability.parse(name))} == {"5.3", "6.2", "7.2", "8.7", "11.0"}
