"""Test that a machine is read from what people have of it: output of nvidia-smi, Slurm, and Kubernetes."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.version import Version

from envforge.errors import RequestError
from envforge.machine.nvidia_text import parse_smi_query, parse_smi_table
from envforge.machine.record import MachineRecordError, load_machine, parse_machine
from envforge.machine.values import Machine, TextFormatError
from tests.support.captures import ROOT, captures, sections

needs_captures = pytest.mark.skipif(not ROOT.is_dir(), reason="the real captures are not beside this checkout")

TABLE = """\
Mon Nov 30 10:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 580.126.09             Driver Version: 580.126.09     CUDA Version: 13.0     |
+-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|                                         |                        |               MIG M. |
|=========================================+========================+======================|
|   0  NVIDIA A100-SXM4-40GB          On  |   00000000:10:1C.0 Off |                   On |
| N/A   40C    P0             43W /  400W |     249MiB /  40960MiB |     N/A      Default |
|                                         |                        |              Enabled |
+-----------------------------------------+------------------------+----------------------+
|   1  NVIDIA GeForce RTX 2080 ...    Off |   00000000:11:1C.0 Off |                  N/A |
| N/A   40C    P0             43W /  400W | Not Supported          |     N/A      Default |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+
| MIG devices:                                                                            |
|  0    2   0   0  |             142MiB / 20096MiB    | 56      0 |  4   0    2    0    0 |
|                  |               0MiB / 12211MiB    |           |                       |
+------------------+----------------------------------+-----------+-----------------------+
"""
OLD_TABLE = """\
+------------------------------------------------------+
| NVIDIA-SMI 331.62     Driver Version: 331.62         |
|-------------------------------+----------------------+----------------------+
| GPU  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncorr. ECC |
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | GPU-Util  Compute M. |
|===============================+======================+======================|
|   0  Tesla K20m          Off  | 0000:03:00.0     Off |                    0 |
| N/A   28C    P8    17W / 225W |     11MiB /  4799MiB |      0%      Default |
+-------------------------------+----------------------+----------------------+
"""
WINDOWS_TABLE = """\
| NVIDIA-SMI 591.86                 Driver Version: 591.86         CUDA Version: 13.1     |
|   0  NVIDIA GeForce RTX 3090      WDDM  |   00000000:0C:00.0  On |                  N/A |
| 30%   33C    P8             38W /  250W |    1211MiB /  24576MiB |      0%      Default |
"""
WSL_TABLE = """\
| NVIDIA-SMI 555.52.01              Driver Version: 555.99         CUDA Version: 12.5     |
|   0  NVIDIA GeForce RTX 4070 ...    On  |   00000000:01:00.0  On |                  N/A |
|  0%   43C    P8              3W /  220W |     576MiB /  12282MiB |      0%      Default |
"""
ORIN_TABLE = """\
| NVIDIA-SMI 595.78                 Driver Version: 595.78         CUDA Version: 13.2     |
|   0  Orin (nvgpu)                  N/A  |   N/A              N/A |                  N/A |
| N/A   N/A  N/A             N/A  /  N/A  | Not Supported          |     N/A          N/A |
"""
QUERY = """\
==============NVSMI LOG==============

Timestamp                                 : Mon Nov 30 10:00:00 2026
Driver Version                            : 535.161.08
CUDA Version                              : 12.2

Attached GPUs                             : 1
GPU 00000000:18:00.0
    Product Name                          : NVIDIA A100-PCIE-40GB
    MIG Mode
        Current                           : Enabled
        Pending                           : Enabled
    MIG Device
        Index                             : 0
        FB Memory Usage
            Total                         : 4864 MiB
    MIG Device
        Index                             : 1
        Shared FB Memory Usage
            Total                         : 9984 MiB
    Driver Model
        Current                           : N/A
    GPU UUID                              : GPU-11111111-2222-3333-4444-555555555555
    PCI
        Device Id                         : 0x20F110DE
    FB Memory Usage
        Total                             : 40960 MiB
        Used                              : 38 MiB
"""
XML = """\
<?xml version="1.0" ?>
<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v12.dtd">
<nvidia_smi_log>
  <driver_version>536.40</driver_version>
  <cuda_version>12.2</cuda_version>
  <gpu id="00000000:01:00.0">
    <product_name>NVIDIA GeForce RTX 3080</product_name>
    <driver_model><current_dm>WDDM</current_dm></driver_model>
    <fb_memory_usage><total>10240 MiB</total></fb_memory_usage>
    <pci><pci_device_id>220610DE</pci_device_id></pci>
  </gpu>
</nvidia_smi_log>
"""
CSV = "name, driver_version, memory.total [MiB], compute_cap\nNVIDIA A100-SXM4-40GB, 535.216.01, 40960 MiB, 8.0\n"
LIST = """\
GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-11111111-2222-3333-4444-555555555555)
  MIG 3g.40gb     Device  0: (UUID: MIG-11111111-2222-3333-4444-555555555555)
  MIG 2g.20gb     Device  1: (UUID: MIG-21111111-2222-3333-4444-555555555555)
GPU 1: Tesla K20m (S/N: 0324612033969)
"""
VERSIONS = "NVIDIA-SMI version  : 610.57.04\nKMD version         : 610.57.04\nCUDA UMD version    : 13.3\n"
SCONTROL = """\
NodeName=gpu01 Arch=x86_64 CoresPerSocket=32
   AvailableFeatures=ib,a100 ActiveFeatures=ib,a100
   Gres=gpu:a100:4(S:0-1)
   OS=Linux 5.14.0 CfgTRES=cpu=64,mem=500G,gres/gpu=4
"""
DESCRIBE = """\
Name:               node-1
Labels:             kubernetes.io/arch=amd64
                    kubernetes.io/hostname=node-1
                    nvidia.com/cuda.driver.major=535
                    nvidia.com/cuda.driver.minor=104
                    nvidia.com/cuda.driver.rev=05
                    nvidia.com/cuda.runtime.major=12
                    nvidia.com/cuda.runtime.minor=2
                    nvidia.com/gpu.compute.major=8
                    nvidia.com/gpu.compute.minor=0
                    nvidia.com/gpu.memory=40960
                    nvidia.com/gpu.product=NVIDIA-A100-SXM4-40GB
Capacity:
  nvidia.com/gpu:     8
Allocatable:
  nvidia.com/gpu:     8
"""
NODE_YAML = """\
apiVersion: v1
kind: Node
metadata:
  labels:
    kubernetes.io/arch: arm64
    nvidia.com/gpu.product: NVIDIA-GH200-480GB
    nvidia.com/cuda.driver-version.full: 570.124.06
    nvidia.com/cuda.runtime-version.full: "12.8"
status:
  allocatable: {nvidia.com/gpu: "1"}
"""


def read(text: str | bytes) -> Machine:
    machine = parse_machine(text.encode() if isinstance(text, str) else text, "box")
    assert machine.source("gpus") in ("nvidia-smi", "Slurm", "Kubernetes")
    return machine


def facts(machine: Machine) -> tuple[object, ...]:
    """The platform, the driver, its CUDA, and each GPU with its compute capability."""
    driver = machine.driver
    known = (str(driver.version) if driver.version else None, driver.cuda and str(driver.cuda)) if driver else None
    return machine.platform, known, *((gpu.name, str(gpu.compute_capability)) for gpu in machine.gpus)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            TABLE,
            (
                "linux-64",
                ("580.126.9", "13.0"),
                ("NVIDIA A100-SXM4-40GB", "8.0"),
                ("NVIDIA GeForce RTX 2080 ...", "7.5"),
            ),
        ),
        (OLD_TABLE, ("linux-64", ("331.62", None), ("Tesla K20m", "3.5"))),
        (WINDOWS_TABLE, ("win-64", ("591.86", "13.1"), ("NVIDIA GeForce RTX 3090", "8.6"))),
        (WSL_TABLE, ("linux-64", ("555.99", "12.5"), ("NVIDIA GeForce RTX 4070 ...", "8.9"))),
        (ORIN_TABLE, ("linux-aarch64", ("595.78", "13.2"), ("Orin (nvgpu)", "8.7"))),
        (QUERY, ("linux-64", ("535.161.8", "12.2"), ("NVIDIA A100-PCIE-40GB", "8.0"))),
        (XML, ("win-64", ("536.40", "12.2"), ("NVIDIA GeForce RTX 3080", "8.6"))),
        (CSV, ("linux-64", ("535.216.1", "12.2"), ("NVIDIA A100-SXM4-40GB", "8.0"))),
        (LIST, ("linux-64", (None, None), ("NVIDIA H100 80GB HBM3", "9.0"), ("Tesla K20m", "3.5"))),
        (SCONTROL, ("linux-64", (None, None), *[("a100", "8.0")] * 4)),
        (DESCRIBE, ("linux-64", ("535.104.5", "12.2"), *[("NVIDIA-A100-SXM4-40GB", "8.0")] * 8)),
        (NODE_YAML, ("linux-aarch64", ("570.124.6", "12.8"), ("NVIDIA-GH200-480GB", "9.0"))),
    ],
)
def test_description_is_read_as_machine(text: str, expected: tuple[object, ...]) -> None:
    assert facts(read(text)) == expected


@pytest.mark.parametrize("text", [TABLE, QUERY, XML, CSV, LIST, SCONTROL, DESCRIBE])
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n").encode(),
        lambda text: b"\xff\xfe" + text.encode("utf-16-le"),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: f"\x1b[1m\x1b[32m{text}\x1b[0m".encode(),
        lambda text: f"Welcome to Ubuntu\n * https://docs.nvidia.com/dgx\nLast login: Mon, 3\n\n{text}".encode(),
        lambda text: "Mo, 30. M\xe4rz 2026\n".encode("cp1252") + text.encode(),
        lambda text: text.encode() + b"Connection to box closed.\n",
    ],
)
def test_way_through_a_terminal_changes_nothing(text: str, change: object) -> None:
    assert facts(read(change(text))) == facts(read(text))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("NVIDIA GeForce RTX 3090, 550.54.14, 8.6\n", ("550.54.14", "NVIDIA GeForce RTX 3090", "8.6")),
        ("8.6, NVIDIA GeForce RTX 3090, 550.54.14\n", ("550.54.14", "NVIDIA GeForce RTX 3090", "8.6")),
        ("550.54.14, 24576 MiB, 12 MiB, 450.00 W, NVIDIA A10G\n", ("550.54.14", "NVIDIA A10G", "8.6")),
        ("NVIDIA H200, 700.00, 143771, 0, 38, P0\n", (None, "NVIDIA H200", "9.0")),
        ('"NVIDIA H200","570.86.10"\n', ("570.86.10", "NVIDIA H200", "9.0")),
        ('"name","driver_version"\n"NVIDIA H200","570.86.10"\n', ("570.86.10", "NVIDIA H200", "9.0")),
        ('name, driver_version\n"NVIDIA H200", "570.86.10"\n', ("570.86.10", "NVIDIA H200", "9.0")),
        ('"memory.total [MiB]", "name"\n"143771 MiB", "NVIDIA H200"\n', (None, "NVIDIA H200", "9.0")),
        ("compute_cap\n12.0\n", (None, "unknown", "12.0")),
        ("driver_version, name\n[N/A], [Not Supported]\n", None),
        ("uuid, name, kmd_version\nGPU-1, NVIDIA L4, 610.57.04\n", ("610.57.4", "NVIDIA L4", "8.9")),
        ("NVIDIA H200, 1.1, 2.0\n", (None, "NVIDIA H200", "9.0")),
    ],
)
def test_csv_is_read_with_and_without_header(text: str, expected: tuple[object, ...] | None) -> None:
    if expected is None:
        with pytest.raises(MachineRecordError, match="expected the name or the compute capability of a GPU"):
            read(text)
        return
    machine = read(text)
    assert machine.driver is not None
    version = machine.driver.version
    assert (version and str(version), machine.gpus[0].name, str(machine.gpus[0].compute_capability)) == expected


def test_banner_with_a_number_is_no_gpu() -> None:
    machine = read("Debian, 6.1\nNVIDIA A100-SXM4-40GB, 535.216.01, 8.0\nNVIDIA L4, 535.216.01, 8.9\n")
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA A100-SXM4-40GB", "NVIDIA L4"]


def test_reports_of_one_machine_complete_each_other() -> None:
    machine = read(LIST.splitlines()[0] + "\n" + VERSIONS)
    assert facts(machine) == ("linux-64", ("610.57.4", "13.3"), ("NVIDIA H100 80GB HBM3", "9.0"))
    truncated = WSL_TABLE + "GPU 0: NVIDIA GeForce RTX 4070 SUPER (UUID: GPU-1)\n"
    assert (read(truncated).gpus[0].name, read(truncated).gpus[0].uuid) == ("NVIDIA GeForce RTX 4070 SUPER", "GPU-1")


def test_output_of_two_machines_is_an_error() -> None:
    with pytest.raises(MachineRecordError, match="expected the output of one machine, found `2 different ones`"):
        read(OLD_TABLE + WINDOWS_TABLE)
    assert read(OLD_TABLE * 3) == read(OLD_TABLE)  # nvidia-smi --loop


@pytest.mark.parametrize("header", ["", "name, driver_version\n", "driver_model.current, name, driver_version\n"])
def test_csv_of_two_drivers_is_an_error(header: str) -> None:
    first = "N/A, " if "model" in header else ""
    rows = [f"{first}{row}\n" for row in ("NVIDIA H200, 610.10.05", "NVIDIA A100-SXM4-40GB, 470.82.01")]
    for text in (header + "".join(rows), "".join(header + row for row in rows)):
        with pytest.raises(
            MachineRecordError, match=r"output of one machine, found `drivers 610\.10\.05 and 470\.82\.01`"
        ):
            read(text)


def test_repeated_header_of_csv_is_no_gpu() -> None:
    machine = read(CSV * 3)
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA A100-SXM4-40GB"] * 3
    assert facts(machine)[1] == ("535.216.1", "12.2")


def test_mig_is_read_in_each_layout() -> None:
    mib = 1024 * 1024
    table, query, listed = read(TABLE).gpus[0], read(QUERY).gpus[0], read(LIST).gpus[0]
    assert (table.mig_enabled, [each.memory_bytes for each in table.mig_devices]) == (True, [20096 * mib])
    assert (query.mig_enabled, [each.memory_bytes for each in query.mig_devices]) == (True, [4864 * mib, 9984 * mib])
    assert (listed.mig_enabled, [each.name for each in listed.mig_devices]) == (True, ["MIG 3g.40gb", "MIG 2g.20gb"])
    assert (read(TABLE).gpus[1].mig_enabled, read(TABLE).gpus[1].memory_bytes) == (None, None)


def test_cuda_of_a_compatibility_library_is_not_the_drivers() -> None:
    machine = read(TABLE.replace("580.126.09", "535.274.02"))
    assert facts(machine)[1] == ("535.274.2", "12.2")
    assert machine.source("driver.cuda") == "table of driver branches"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("gpu[01-04] gpu:v100:2(S:0)\n", ("v100", "v100")),
        ("NODELIST GRES\ng1 gpu:2\ncpu1 (null)\n", ("a GPU of unknown type",) * 2),
        ("g1 gpu:a100:1\ng2 gpu:v100:2,shard:8\n", ("a100", "v100")),
        ("g1 gres/gpu:gtx_1080_ti:1\n", ("gtx_1080_ti",)),
        ("g1 gpu:a100_1g.5gb:2\n", ("a100_1g.5gb",) * 2),
        ("g1 gpu:1g.5gb:2\n", ("1g.5gb",) * 2),
        (SCONTROL.replace("gpu:a100:4", "gpu:4"), ("a100",) * 4),
        (SCONTROL.replace("Gres=gpu:a100:4(S:0-1)", "Gres=(null)"), ("a100",) * 4),
        (json.dumps({"nodes": [{"name": "g1", "architecture": "x86_64", "gres": "gpu:h100:2"}]}), ("h100", "h100")),
    ],
)
def test_slurm_names_gpus(text: str, expected: tuple[str, ...]) -> None:
    machine = read(text)
    assert tuple(gpu.name for gpu in machine.gpus) == expected
    assert machine.driver is not None
    assert machine.driver.version is None


@pytest.mark.parametrize(
    ("kind", "capability"),
    [("1080ti", "6.1"), ("2080ti", "7.5"), ("3090", "8.6"), ("980", "5.2"), ("4000", "None")],
)
@pytest.mark.parametrize("text", ["g1 gpu:{}:2(S:0)\n", SCONTROL.replace("gpu:a100:4", "gpu:{}:2")])
def test_type_in_slurm_may_be_a_number(text: str, kind: str, capability: str) -> None:
    assert facts(read(text.format(kind)))[2:] == ((kind, capability),) * 2


@pytest.mark.parametrize("text", ["c1 gpu:0\ng1 gpu:{}:2\n", "NodeName=c1 Gres=gpu:0\nNodeName=g1 Gres=gpu:{}:2\n"])
def test_node_with_zero_gpus_has_none(text: str) -> None:
    assert [gpu.name for gpu in read(text.format("a100")).gpus] == ["a100"] * 2
    for kind in ("mi300x", "7900xtx"):
        assert parse_machine(text.format(kind).encode(), "box").gpus == ()
    with pytest.raises(MachineRecordError, match="found `none in c1, g1`"):
        read(text.replace("{}:2", "0"))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({"cloud.google.com/gke-accelerator": "nvidia-tesla-t4"}, ("nvidia-tesla-t4", "7.5")),
        ({"k8s.amazonaws.com/accelerator": "nvidia-l4"}, ("nvidia-l4", "8.9")),
        ({"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB-MIG-1g.10gb"}, ("NVIDIA-A100-SXM4-80GB-MIG-1g.10gb", "8.0")),
        ({}, ("a GPU of unknown type", "None")),
    ],
)
def test_kubernetes_node_is_read_from_its_labels(labels: dict[str, str], expected: tuple[str, str]) -> None:
    node = {"kind": "Node", "apiVersion": "v1", "metadata": {"labels": labels}}
    node["status"] = {"allocatable": {"nvidia.com/gpu": "1"}}
    for document in (node, {"kind": "List", "apiVersion": "v1", "items": [node]}):
        assert facts(read(json.dumps(document)))[2] == expected


def node_list(*nodes: str) -> str:
    items = "".join(f"- {node.strip()}\n".replace("\n", "\n  ").rstrip() + "\n" for node in nodes)
    return f"apiVersion: v1\nkind: List\nitems:\n{items}"


def test_kubernetes_yaml_may_be_several_documents() -> None:
    other = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
    second = NODE_YAML.replace("NVIDIA-GH200-480GB", "NVIDIA-GB200")
    machine = read(f"---\n{other}---\n{NODE_YAML}---\n# a comment\n---\n{second}--- # end\n")
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA-GH200-480GB", "NVIDIA-GB200"]
    assert facts(machine)[1] == ("570.124.6", "12.8")


def test_nodes_with_different_drivers_are_an_error() -> None:
    newer = NODE_YAML.replace("570.124.06", "580.65.06")
    with pytest.raises(MachineRecordError, match=r"nodes with one driver, found `drivers 570\.124\.06, 580\.65\.06`"):
        read(node_list(newer, NODE_YAML))
    with pytest.raises(MachineRecordError, match=r"found `drivers 535\.104\.05, 550\.54\.14`"):
        read(DESCRIBE + DESCRIBE.replace("major=535", "major=550").replace("=104", "=54").replace("=05", "=14"))
    assert facts(read(node_list(NODE_YAML, NODE_YAML)))[1] == ("570.124.6", "12.8")
    unknown = NODE_YAML.replace("nvidia.com/cuda.driver-version.full: 570.124.06", "a: b")
    assert facts(read(node_list(NODE_YAML, unknown)))[1] == (None, "12.8")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "found ``"),
        (
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n",
            "found `NVIDIA-SMI has f",
        ),
        ("No devices were found\n", "expected a GPU, found `No devices were found`"),
        ("bash: nvidia-smi: command not found\n", "found `bash: nvidia-smi: command not found`"),
        ("NodeName=cpu01 Arch=x86_64 Gres=(null)\n", "found `none in cpu01`"),
        ("NodeName=cpu01 Arch=x86_64 Gres=gpu:0\n", "found `none in cpu01`"),
        ("HOSTNAMES GRES\ncpu01 (null)\n", "expected a node with `gpu` in its generic resources"),
        ('{"kind": "Node", "apiVersion": "v1"}', "found `no label or resource of one`"),
        ("kind: Node\napiVersion: v1\nstatus: {capacity: {cpu: 4}}\n", "found `no label or resource of one`"),
        ("kind: Node\napiVersion: [\n", "expected YAML"),
        ("<nvidia_smi_log><gpu>", "invalid XML"),
        ('<nvidia_smi_log><!ENTITY a "b"></nvidia_smi_log>', "a definition of an entity"),
        ("name, driver_version\n", "expected the name"),
        ("name, driver_version, index\nNVIDIA A100-SXM4-40GB, 535.216.01\n", "expected 3 fields"),
        (VERSIONS, "expected a GPU, found `none in the output of"),
        (TABLE.partition("|   0")[0], "expected a GPU, found `none in the output of"),
        ("\0\1\2\377", "expected a machine record"),
    ],
)
def test_what_names_no_gpu_is_an_error_with_the_file(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "box.txt"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(MachineRecordError) as caught:
        load_machine(str(path), {})
    assert (caught.value.exit_code, str(path) in caught.value.message) == (1, True)
    assert found in caught.value.message


def test_no_name_of_too_many_gpus_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envforge.machine.described.named_other", pytest.fail)
    for text in ("g1 " + "gpu:a:1," * 2000, "".join(f"g{i} gpu:a{i}:1\n" for i in range(2000))):
        with pytest.raises(MachineRecordError, match="expected at most 1024 GPUs, found `2000`"):
            read(text)


@pytest.mark.parametrize("digits", ["9" * 5000, "\u0663", "\u00b2", "-1", "0"])
@pytest.mark.parametrize("text", [TABLE, QUERY, XML, CSV, LIST, SCONTROL, DESCRIBE, NODE_YAML, "amd.com/gpu: 8\n"])
def test_any_digits_are_a_machine_or_an_error(text: str, digits: str) -> None:
    for number in sorted({*re.findall(r"\d+", text)}):
        with contextlib.suppress(MachineRecordError):
            parse_machine(text.replace(number, digits).encode(), "box")


def test_nodes_of_two_vendors_are_an_error() -> None:
    with pytest.raises(MachineRecordError, match="found `also AMD Instinct MI300X`"):
        read("g1 gpu:a100:1\ng2 gpu:mi300x:8\n")


def test_lost_gpu_is_a_condition() -> None:
    machine = read(WSL_TABLE + "Unable to determine the device handle for GPU 0000:0B:00.0: Unknown Error\n")
    assert [condition.code for condition in machine.conditions] == ["gpu-unreadable"]


@pytest.mark.parametrize(
    "text", ["g1 gpu:mi300x:8\n", '{"kind":"Node","apiVersion":"v1","status":{"allocatable":{"amd.com/gpu":"8"}}}']
)
def test_cluster_names_gpus_of_amd(text: str) -> None:
    machine = parse_machine(text.encode(), "box")
    assert (machine.driver, machine.gpus) == (None, ())
    (condition,) = machine.conditions
    assert condition.code == "other-gpu"
    assert condition.symptom.startswith("this is 8 x AMD ")


@pytest.mark.parametrize(
    ("resource", "label", "expected"),
    [
        ("gpu.intel.com/i915", "", "2 x Intel GPU"),
        ("gpu.intel.com/xe", "", "2 x Intel GPU"),
        ("amd.com/gpu", "", "2 x AMD GPU"),
        ("amd.com/cpx_nps4", "", "2 x AMD GPU"),
        ("amd.com/gpu", "amd.com/gpu.product-name=AMD_Instinct_MI300X_OAM", "2 x AMD Instinct MI300X"),
    ],
)
def test_resource_of_another_vendor_is_no_gpu_of_nvidia(resource: str, label: str, expected: str) -> None:
    text = f"Name: n1\nLabels: kubernetes.io/arch=amd64\n  {label}\nCapacity:\n  {resource}:  2\n"
    machine = parse_machine(text.encode(), "box")
    assert (machine.driver, machine.gpus) == (None, ())
    assert machine.conditions[0].symptom.startswith(f"this is {expected};")
    with pytest.raises(MachineRecordError, match="nodes with GPUs of NVIDIA"):
        read(text + DESCRIBE)


class _Stdin(io.TextIOWrapper):
    def __init__(self, content: bytes, *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def test_dash_reads_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(CSV.encode()))
    assert facts(load_machine("-", {})) == facts(read(CSV))
    monkeypatch.setattr(sys, "stdin", _Stdin(b"nothing"))
    with pytest.raises(MachineRecordError, match="`standard input` is invalid"):
        load_machine("-", {})


def test_dash_does_not_wait_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", _Stdin(b"", terminal=True))
    with pytest.raises(RequestError, match="standard input is a terminal"):
        load_machine("-", {})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([TABLE, QUERY, XML, CSV, LIST, SCONTROL, DESCRIBE, NODE_YAML]), st.data())
def test_damaged_description_is_a_machine_or_an_error(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    noise = data.draw(st.sampled_from(["", "\0", "9" * 5000, "\ud7ff", "{", "|", ", ", " : ", "\n"]))
    damaged = text[:start] + noise + text[start + data.draw(st.integers(0, 40)) :]
    with contextlib.suppress(MachineRecordError):
        parse_machine(damaged.encode(), "box")


@needs_captures
@pytest.mark.parametrize("path", captures("captures", "*.txt"), ids=lambda path: path.stem)
def test_each_command_of_a_capture_agrees_on_the_machine(path: Path) -> None:
    outputs = [sections(path, command)[0] for command in ("nvidia-smi", "nvidia-smi -q")]
    table, query = (read(output) for output in outputs)
    assert facts(table)[:2] == facts(query)[:2]
    assert [gpu.compute_capability for gpu in table.gpus] == [gpu.compute_capability for gpu in query.gpus]
    assert [gpu.mig_enabled for gpu in table.gpus] == [gpu.mig_enabled for gpu in query.gpus]
    assert [len(gpu.mig_devices) for gpu in table.gpus] == [len(gpu.mig_devices) for gpu in query.gpus]
    assert read(sections(path, "nvidia-smi -L")[0]).capabilities == query.capabilities
    (fields,) = {
        line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("timestamp, driver_")
    }
    csv = path.read_text(encoding="utf-8").partition(fields)[2].strip().splitlines()[0]
    for text in (f"{fields}\n{csv}\n", f"{csv}\n"):
        assert (facts(read(text))[1], read(text).capabilities) == (facts(query)[1], query.capabilities)


@needs_captures
@pytest.mark.parametrize("path", captures("gpud", "nvidia-smi-query*"), ids=lambda path: path.name)
def test_real_query_names_each_gpu_and_its_capability(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    report = parse_smi_query(text)
    assert len(report.gpus) == text.count("Product Name")
    assert report.driver_version == Version(path.name.split(".", 1)[1].partition(".out")[0])
    assert all(gpu.compute_capability and gpu.memory_bytes for gpu in report.gpus)


def test_query_without_a_driver_is_unknown() -> None:
    with pytest.raises(TextFormatError, match="expected the output of `nvidia-smi -q`"):
        parse_smi_query("Attached GPUs : 0\n")
    with pytest.raises(TextFormatError):
        parse_smi_table(QUERY)
