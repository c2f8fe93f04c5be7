"""Test that GPUs of AMD and Intel are recognized and named, and that no CPU build is selected for one silently."""

from __future__ import annotations

from pathlib import Path

import pytest

from envforge.base.terms import CPU
from envforge.cli import main
from envforge.machine.gpu_tables import _pci, named_other, other_vendors, read_other_gpus
from envforge.machine.probe import probe
from envforge.machine.record import parse_machine
from envforge.machine.values import Machine
from envforge.pytorch.matrix import Grade, Request
from envforge.pytorch.reasons import NoBuildError
from envforge.pytorch.select import select
from tests.pytorch.machines import MATRIX
from tests.support.recorded import A10G, Recorded, pci_gpu_files

KFD = "/sys/class/kfd/kfd/topology/nodes"


def device(vendor: str, device_id: str, kind: str, bus_id: str = "0000:c1:00.0") -> dict[str, str]:
    folder = f"/sys/bus/pci/devices/{bus_id}"
    return {f"{folder}/vendor": f"{vendor}\n", f"{folder}/device": f"{device_id}\n", f"{folder}/class": f"{kind}\n"}


MI300X = device("0x1002", "0x74a1", "0x120000")


def names(files: dict[str, str], root: Path) -> list[str]:
    return [gpu.name for gpu in read_other_gpus(Recorded(files=files).world(root))]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (MI300X, ["AMD Instinct MI300X"]),
        (device("0x1002", "0x7550", "0x030000"), ["AMD Radeon RX 9070/9070 XT/9070 GRE"]),
        (device("0x8086", "0x0bd5", "0x038000"), ["Intel Data Center GPU Max 1550"]),
        (device("0x8086", "0xe20b", "0x030000", "0000:03:00.0"), ["Intel Arc B580"]),
        (device("0x8086", "0xffff", "0x030000", "0000:03:00.0"), ["Intel GPU (PCI ID 8086:ffff)"]),
        (device("0x1002", "0xffff", "0x120000"), ["AMD GPU (PCI ID 1002:ffff)"]),
        # integrated GPUs, and what is no GPU
        (device("0x8086", "0xa780", "0x030000", "0000:00:02.0"), []),
        (device("0x1002", "0x1638", "0x030000"), []),
        (device("0x8086", "0x56c0", "0x020000"), []),
        (
            {"/sys/class/drm/card1/device/vendor": "0x1002", "/sys/class/drm/card1/device/device": "0x740f"},
            ["AMD Instinct MI210"],
        ),
        (
            {
                f"{KFD}/0/properties": "cpu_cores_count 64\nsimd_count 0\nvendor_id 0\ndevice_id 0\n",
                f"{KFD}/1/properties": "cpu_cores_count 0\nsimd_count 1216\nvendor_id 4098\ndevice_id 29857\n",
                f"{KFD}/2/properties": "simd_count 1216\nvendor_id 4098\ndevice_id 29857\n",
            },
            ["AMD Instinct MI300X"] * 2,
        ),
        ({f"{KFD}/1/properties": "simd_count many\n"}, []),
    ],
)
def test_gpu_is_named_from_the_bus_or_the_drivers_files(
    tmp_path: Path, files: dict[str, str], expected: list[str]
) -> None:
    assert names(files, tmp_path) == expected


@pytest.fixture
def mi300x(tmp_path: Path) -> Machine:
    return probe(Recorded(files=MI300X | device("0x1002", "0x74a1", "0x120000", "0000:c2:00.0")).world(tmp_path))


def test_machine_says_what_it_has_and_which_index_has_builds(mi300x: Machine) -> None:
    (condition,) = mi300x.conditions
    assert condition.symptom == "this is 2 x AMD Instinct MI300X; envforge selects builds for NVIDIA and CPU"
    assert "https://download.pytorch.org/whl/rocm7.2" in condition.remedy


def test_cpu_build_is_selected_only_by_name(mi300x: Machine) -> None:
    with pytest.raises(
        NoBuildError, match=r"^this is 2 x AMD Instinct MI300X; envforge selects builds for NVIDIA"
    ) as caught:
        select(mi300x, Request(), MATRIX)
    assert caught.value.hint.startswith(
        "to use the CPU build, pass `--cuda cpu`; to use the GPU, install PyTorch from the"
    )
    assert {refusal.code for refusal in caught.value.refused if refusal.build.tag.is_cpu} >= {"other-gpu"}

    selection = select(mi300x, Request(cuda=CPU), MATRIX)
    assert selection.grade is Grade.CPU
    assert selection.warnings[0].startswith("this is 2 x AMD Instinct MI300X; ")


def test_gpu_of_nvidia_is_used_and_the_other_is_not(tmp_path: Path) -> None:
    machine = probe(A10G.with_files(device("0x1002", "0x74a1", "0x120000")).world(tmp_path))
    assert "other-gpu" not in [condition.code for condition in machine.conditions]
    without_driver = probe(Recorded(files=pci_gpu_files("0x2237") | MI300X).world(tmp_path / "b"))
    assert [condition.code for condition in without_driver.conditions] == ["no-kernel-module"]


def test_explain_detect_and_new_say_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("node.txt").write_text("g1 gpu:mi300x:1\n", encoding="utf-8")
    said = "this is an AMD Instinct MI300X; envforge selects builds for NVIDIA and CPU"

    assert main(["explain", "--machine", "node.txt"]) == 1
    assert said in capsys.readouterr().err
    assert main(["new", "image-classification", "demo", "--machine", "node.txt", "--no-lock"]) == 1
    assert said in capsys.readouterr().err
    assert not Path("demo").exists()
    assert main(["detect", "--machine", "node.txt"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())
    assert main(["explain", "--machine", "node.txt", "--cuda", "cpu"]) == 0
    assert said in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mi300x", "AMD Instinct MI300X"),
        ("amd_instinct_mi250x", "AMD Instinct MI250X"),
        ("amd.com/gpu", "AMD GPU"),
        ("intel", "Intel GPU"),
        ("a100", None),
        ("NVIDIA-A100-SXM4-40GB", None),
        ("", None),
    ],
)
def test_name_of_a_cluster_is_recognized(name: str, expected: str | None) -> None:
    found = named_other(name)
    assert (found.name if found else None) == expected


@pytest.mark.parametrize(
    ("vendor", "builds", "types"),
    [
        (
            "AMD",
            "ROCm",
            "mi250 instinct_mi250 mi50 mi100 mi210 mi300a gfx942 rx7900xtx rx_7900_xt w7900 radeon amdgpu navi31",
        ),
        (
            "Intel",
            "XPU",
            "max1550 pvc flex170 arc_a770 arc a770 b580 ponte_vecchio data_center_gpu_max_1550 xpu intelgpu",
        ),
        ("Intel", "Gaudi", "gaudi gaudi2 habana hpu intel_gaudi3"),
    ],
)
def test_type_in_slurm_is_a_gpu_of_its_vendor(vendor: str, builds: str, types: str) -> None:
    for each in types.split():
        machine = parse_machine(f"g1 gpu:{each}:8\n".encode(), "box")
        assert (machine.driver, machine.gpus) == (None, ()), each
        (condition,) = machine.conditions
        assert condition.symptom.startswith(f"this is 8 x {vendor} "), each
        assert (f"for {builds}:" in condition.remedy) == (builds != "Gaudi")
        assert ("docs.habana.ai" in condition.remedy) == (builds == "Gaudi")


def test_names_of_nvidia_are_not_other_gpus() -> None:
    names = {name for _, name in _pci().devices.values()}
    assert [
        name for name in names if named_other(f"NVIDIA {name}") or named_other(name.replace(" ", "_").lower())
    ] == []


def test_every_device_has_a_name_and_each_vendor_an_index() -> None:
    assert [vendor.name for vendor in other_vendors()] == ["AMD", "Intel"]
    for vendor in other_vendors():
        assert vendor.index.startswith("https://download.pytorch.org/whl/")
        assert len(vendor.devices) > 40
        assert all(len(device_id) == 4 and name for device_id, name in vendor.devices.items())
