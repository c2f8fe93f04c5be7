"""Test ``probe`` on recorded computers: the facts, their sources, and the condition that each state becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.errors import RequestError
from envforge.machine.probe import probe
from envforge.machine.values import Driver, Machine
from tests.support.recorded import (
    A10G,
    A10G_ANSWER,
    NO_LIBCUDA,
    NO_NVML,
    Recorded,
    libcuda,
    nvml,
    nvml_gpu,
    pci_gpu_files,
)

NVIDIA_SMI = ("nvidia-smi", "-q", "-x")
NOUVEAU_LINK = {"/sys/bus/pci/devices/0000:10:00.0/driver": "../../../bus/pci/drivers/nouveau"}


def codes(machine: Machine) -> tuple[str, ...]:
    return tuple(condition.code for condition in machine.conditions)


def test_a_working_driver_gives_all_facts_from_nvml_and_no_condition(tmp_path: Path) -> None:
    machine = probe(A10G.world(tmp_path))
    assert machine.driver == Driver(
        kernel_version=Version("535.216.01"), user_version=Version("535.216.01"), cuda=Version("12.2")
    )
    (gpu,) = machine.gpus
    assert (gpu.index, gpu.name, gpu.compute_capability) == (0, "NVIDIA A10G", ComputeCapability(8, 6))
    assert (gpu.uuid, gpu.memory_bytes) == ("GPU-00000000-1111-2222-3333-444444444444", 23028 * 1024**2)
    assert codes(machine) == ()


def test_every_fact_of_a_probed_machine_has_a_source(tmp_path: Path) -> None:
    machine = probe(replace(A10G, environment={"CUDA_VISIBLE_DEVICES": "0", "container": "podman"}).world(tmp_path))
    assert dict(machine.sources) == {
        "platform": "uname",
        "python": "this interpreter",
        "glibc": "confstr(CS_GNU_LIBC_VERSION)",
        "driver.kernel_version": "/sys/module/nvidia/version",
        "driver.user_version": "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.535.216.01",
        "driver.cuda": "NVML nvmlSystemGetCudaDriverVersion_v2",
        "gpus": "NVML",
        "visible": "CUDA_VISIBLE_DEVICES",
        "container": "variable container",
        "hostname": "gethostname",
    }


@pytest.mark.parametrize(
    ("system", "architecture", "subdir"),
    [
        ("Linux", "x86_64", "linux-64"),
        ("Linux", "aarch64", "linux-aarch64"),
        ("Linux", "ppc64le", "linux-ppc64le"),
        ("Darwin", "arm64", "osx-arm64"),
        ("Darwin", "x86_64", "osx-64"),
        ("Windows", "AMD64", "win-64"),
    ],
)
def test_the_platform_is_the_conda_subdir(tmp_path: Path, system: str, architecture: str, subdir: str) -> None:
    world = replace(A10G, system=system, architecture=architecture).world(tmp_path)
    assert probe(world).platform == subdir


def test_macos_is_not_asked_for_nvidia_libraries(tmp_path: Path) -> None:
    machine = probe(replace(A10G, files={}, links={}, system="Darwin", architecture="arm64", libc="").world(tmp_path))
    assert (machine.driver, machine.gpus, machine.glibc) == (None, (), None)
    assert codes(machine) == ("no-nvidia-device",)


def test_a_machine_without_nvidia_says_so_aloud(tmp_path: Path) -> None:
    machine = probe(Recorded().world(tmp_path))
    assert (machine.driver, machine.gpus, machine.has_nvidia) == (None, (), False)
    assert codes(machine) == ("no-nvidia-device",)


def test_a_gpu_of_another_vendor_is_no_nvidia_device(tmp_path: Path) -> None:
    files = {path: text.replace("10de", "1002") for path, text in pci_gpu_files("0x744c").items()}
    assert codes(probe(Recorded(files=files).world(tmp_path))) == ("other-gpu",)


def test_an_nvidia_network_card_is_no_gpu(tmp_path: Path) -> None:
    files = {path: text.replace("0x030200", "0x020000") for path, text in pci_gpu_files("0x2237").items()}
    assert codes(probe(Recorded(files=files).world(tmp_path))) == ("no-nvidia-device",)


def test_a_device_without_kernel_module_is_named_from_the_pci_table(tmp_path: Path) -> None:
    machine = probe(Recorded(files=pci_gpu_files("0x20b0")).world(tmp_path))
    (gpu,) = machine.gpus
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA A100 SXM4 40GB", ComputeCapability(8, 0))
    assert (gpu.pci_bus_id, machine.source("gpus")) == ("0000:10:00.0", "/sys/bus/pci/devices")
    assert (machine.driver, codes(machine)) == (None, ("no-kernel-module",))


def test_an_unknown_device_id_is_shown_and_not_guessed(tmp_path: Path) -> None:
    (gpu,) = probe(Recorded(files=pci_gpu_files("0xffff")).world(tmp_path)).gpus
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA device 0xffff", None)


def test_nouveau_is_told_apart_from_a_missing_module(tmp_path: Path) -> None:
    machine = probe(Recorded(files=pci_gpu_files("0x2237"), links=NOUVEAU_LINK).world(tmp_path))
    assert codes(machine) == ("nouveau",)


def test_a_gpu_set_aside_for_a_virtual_machine_is_told_apart(tmp_path: Path) -> None:
    links = {path: target.replace("nouveau", "vfio-pci") for path, target in NOUVEAU_LINK.items()}
    machine = probe(Recorded(files=pci_gpu_files("0x2237"), links=links).world(tmp_path))
    assert codes(machine) == ("gpu-held-by-other-driver",)
    assert "vfio-pci" in machine.conditions[0].symptom


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ({"error": {"code": 9, "text": "Driver Not Loaded"}}, "no-kernel-module"),
        ({"driver_version": "595.71.05", "gpus": []}, "driver-sees-no-gpu"),
    ],
)
def test_gpu_that_the_driver_dropped_is_the_cause(tmp_path: Path, answer: dict[str, object], code: str) -> None:
    libraries = (nvml(file="/usr/lib/libnvidia-ml.so.595.71.05", **answer), NO_LIBCUDA)
    machine = probe(Recorded(files=pci_gpu_files("0x1c81"), libraries=libraries).world(tmp_path))
    assert codes(machine)[0] == code
    expected = "the driver 595.71.05 doesn't support GeForce GTX 1050 (6.1): 580 is the last branch that does"
    assert machine.conditions[0].cause == expected
    assert machine.conditions[0].remedy == "install an NVIDIA driver of the 580 branch"


@pytest.mark.parametrize(
    ("device_id", "module", "version", "cause"),
    [
        (
            "0x1bb3",
            "Open Kernel Module for x86_64",
            "580.65.06",
            "open kernel module doesn't support Tesla P4",
        ),
        ("0x1bb3", "x86_64 Kernel Module", "580.65.06", "no GPU is assigned to this job"),
        (
            "0x2901",
            "x86_64 Kernel Module",
            "550.90.07",
            "B200 (10.0): 570 is the first branch that does",
        ),
        (
            "0x1bb3",
            "x86_64 Kernel Module",
            "610.43.02",
            "Tesla P4 (6.1): 580 is the last branch that does",
        ),
        ("0x1eb8", "Open Kernel Module for x86_64", "610.43.02", "no GPU is assigned to this job"),
    ],
)
def test_driver_that_lists_no_gpu_has_a_cause(
    tmp_path: Path, device_id: str, module: str, version: str, cause: str
) -> None:
    files = pci_gpu_files(device_id) | {
        "/sys/module/nvidia/version": f"{version}\n",
        "/proc/driver/nvidia/version": f"NVRM version: NVIDIA UNIX {module}  {version}  Release Build\n",
    }
    answer = nvml(file=f"/usr/lib/libnvidia-ml.so.{version}", driver_version=version, gpus=[])
    machine = probe(Recorded(files=files, libraries=(answer, NO_LIBCUDA)).world(tmp_path))
    (condition,) = machine.conditions
    assert condition.code == "driver-sees-no-gpu"
    assert cause in condition.cause
    # a GPU that the branch lacks is listed, so that `explain` rejects the builds with the branch that has it
    assert bool(machine.gpus) is ("branch that does" in cause)


def test_unknown_format_of_nvidia_smi_is_not_a_missing_gpu(tmp_path: Path) -> None:
    programs = {NVIDIA_SMI: (0, "<html>"), ("nvidia-smi",): (0, "GPU 0 is fine\n")}
    machine = probe(Recorded(programs=programs).world(tmp_path))
    assert codes(machine) == ("nvidia-smi-unreadable",)
    assert "`nvidia-smi` has an unknown format: <html>" in machine.conditions[0].symptom
    assert machine.has_nvidia


@pytest.mark.parametrize(
    ("name", "capability"), [("NVIDIA GeForce RTX 5070", "12.0"), ("NVIDIA GeForce GT 730", None), ("Tesla T4", "7.5")]
)
def test_name_gives_the_capability_that_is_missing(tmp_path: Path, name: str, capability: str | None) -> None:
    answer = nvml(driver_version="575.64.03", gpus=[nvml_gpu(0, name, None)])
    (gpu,) = probe(Recorded(libraries=(answer, NO_LIBCUDA)).world(tmp_path)).gpus
    assert (str(gpu.compute_capability) if gpu.compute_capability else None) == capability


@pytest.mark.parametrize("code", [18, 9])
def test_differing_module_and_library_are_named_with_both_versions(tmp_path: Path, code: int) -> None:
    failing = nvml(error={"code": code, "text": "x"}, file="/usr/lib/libnvidia-ml.so.550.54.15")
    machine = probe(replace(A10G, libraries=(failing, NO_LIBCUDA)).world(tmp_path))
    assert codes(machine) == ("driver-library-mismatch",)
    assert "`535.216.01`" in machine.conditions[0].cause
    assert "`550.54.15`" in machine.conditions[0].cause
    assert machine.driver is not None
    assert machine.driver.version == Version("550.54.15")


def test_an_nvml_version_cut_short_is_no_mismatch(tmp_path: Path) -> None:
    answer = {**A10G_ANSWER, "file": "/usr/lib/wsl/lib/libnvidia-ml.so.1", "nvml_version": "12.535.216"}
    failing = {**answer, "error": {"code": 999, "text": "Unknown Error"}}
    assert codes(probe(replace(A10G, libraries=(failing, NO_LIBCUDA)).world(tmp_path))) == ("nvml-failed",)


def test_a_module_without_nvml_keeps_the_driver_and_the_devices(tmp_path: Path) -> None:
    machine = probe(replace(A10G, libraries=(NO_NVML, NO_LIBCUDA)).world(tmp_path))
    assert codes(machine) == ("nvml-missing",)
    assert machine.driver == Driver(kernel_version=Version("535.216.01"), user_version=None, cuda=Version("12.2"))
    assert machine.source("driver.cuda") == "table of driver branches"
    assert [gpu.name for gpu in machine.gpus] == ["NVIDIA A10G"]
    assert "535.216.01" in machine.conditions[0].remedy


def test_libcuda_gives_the_cuda_version_where_nvml_is_missing(tmp_path: Path) -> None:
    machine = probe(replace(A10G, libraries=(NO_NVML, libcuda(12020))).world(tmp_path))
    assert machine.driver is not None
    assert (machine.driver.cuda, machine.driver.user_version) == (Version("12.2"), Version("535.216.01"))
    assert machine.source("driver.cuda") == "libcuda cuDriverGetVersion"


def test_libraries_without_a_driver_are_no_driver(tmp_path: Path) -> None:
    not_loaded = nvml(error={"code": 9, "text": "Driver Not Loaded"}, file="/usr/lib/libnvidia-ml.so.535.216.01")
    machine = probe(Recorded(libraries=(not_loaded, libcuda(12020))).world(tmp_path))
    assert (machine.driver, machine.has_nvidia, codes(machine)) == (None, False, ("no-nvidia-device",))


def test_the_proc_file_is_read_where_the_module_has_no_version(tmp_path: Path) -> None:
    files = {
        "/proc/driver/nvidia/version": "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release\n"
    }
    machine = probe(Recorded(files=files).world(tmp_path))
    assert machine.driver is not None
    assert machine.driver.kernel_version == Version("580.65.06")
    assert machine.source("driver.kernel_version") == "/proc/driver/nvidia/version"


def test_a_container_without_gpus_is_told_apart_from_a_missing_library(tmp_path: Path) -> None:
    files = {"/.dockerenv": "", "/sys/module/nvidia/version": "535.216.01\n"} | pci_gpu_files("0x2237")
    machine = probe(Recorded(files=files).world(tmp_path))
    assert (machine.container, codes(machine)) == ("docker", ("container-without-gpus",))


@pytest.mark.parametrize(
    ("files", "environment", "container"),
    [
        ({"/run/.containerenv": ""}, {}, "podman"),
        ({"/.singularity.d/labels.json": ""}, {}, "apptainer"),
        ({"/proc/1/cgroup": "0::/kubepods/besteffort/pod1\n"}, {}, "kubepods"),
        ({}, {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "kubernetes"),
        ({"/proc/1/cgroup": "0::/init.scope\n"}, {}, None),
    ],
)
def test_containers_are_recognised(
    tmp_path: Path, files: dict[str, str], environment: dict[str, str], container: str | None
) -> None:
    assert probe(Recorded(files=files, environment=environment).world(tmp_path)).container == container


def test_a_driver_that_lists_no_gpu_is_a_state_of_its_own(tmp_path: Path) -> None:
    machine = probe(replace(A10G, libraries=({**A10G_ANSWER, "gpus": []}, libcuda(12020))).world(tmp_path))
    assert (machine.gpus, codes(machine)) == ((), ("driver-sees-no-gpu",))


def test_a_hanging_driver_is_not_taken_for_an_absent_one(tmp_path: Path) -> None:
    machine = probe(Recorded(libraries=(), libraries_exit_code=None).world(tmp_path))
    assert (machine.driver, codes(machine)) == (Driver(), ("nvml-hangs",))


def test_a_crashing_library_keeps_what_was_said_before(tmp_path: Path) -> None:
    machine = probe(replace(A10G, libraries=(A10G_ANSWER,), libraries_exit_code=-11).world(tmp_path))
    assert (machine.gpus[0].name, codes(machine)) == ("NVIDIA A10G", ())


def test_a_crashing_nvml_is_a_condition_with_the_signal(tmp_path: Path) -> None:
    machine = probe(replace(A10G, libraries=(), libraries_exit_code=-11).world(tmp_path))
    assert codes(machine) == ("nvml-crashes",)
    assert "signal 11" in machine.conditions[0].symptom


def test_mig_devices_are_listed_and_explained(tmp_path: Path) -> None:
    device = {"name": "NVIDIA H100 MIG 1g.10gb", "uuid": "MIG-1", "memory_bytes": 10}
    gpu = nvml_gpu(0, "NVIDIA H100", (9, 0), mig=[1, 1], mig_devices=[device])
    machine = probe(replace(A10G, libraries=({**A10G_ANSWER, "gpus": [gpu]}, libcuda(12020))).world(tmp_path))
    assert machine.gpus[0].mig_enabled is True
    assert [d.uuid for d in machine.gpus[0].mig_devices] == ["MIG-1"]
    assert codes(machine) == ("mig",)


def test_mig_without_devices_is_a_state_in_which_nothing_runs(tmp_path: Path) -> None:
    gpu = nvml_gpu(0, "NVIDIA H100", (9, 0), mig=[1, 1])
    machine = probe(replace(A10G, libraries=({**A10G_ANSWER, "gpus": [gpu]}, libcuda(12020))).world(tmp_path))
    assert codes(machine) == ("mig-without-devices",)


def test_different_gpus_are_pointed_out_with_the_order_of_their_numbers(tmp_path: Path) -> None:
    gpus = [nvml_gpu(0, "Tesla V100-SXM2-16GB", (7, 0)), nvml_gpu(1, "NVIDIA A100-SXM4-40GB", (8, 0))]
    recorded = replace(A10G, libraries=({**A10G_ANSWER, "gpus": gpus}, libcuda(12020)))
    machine = probe(replace(recorded, environment={"CUDA_VISIBLE_DEVICES": "1"}).world(tmp_path))
    assert (codes(machine), machine.visible) == (("different-gpus",), (1,))
    assert machine.capabilities == (ComputeCapability(8, 0),)
    assert "start with the fastest GPU" in machine.conditions[0].cause


def test_numbers_in_pci_order_mean_what_they_say(tmp_path: Path) -> None:
    gpus = [nvml_gpu(0, "Tesla V100-SXM2-16GB", (7, 0)), nvml_gpu(1, "NVIDIA A100-SXM4-40GB", (8, 0))]
    environment = {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    recorded = replace(A10G, libraries=({**A10G_ANSWER, "gpus": gpus}, libcuda(12020)), environment=environment)
    assert "fastest" not in probe(recorded.world(tmp_path)).conditions[0].cause


def test_a_gpu_that_does_not_answer_keeps_the_others(tmp_path: Path) -> None:
    failures = [{"function": "nvmlDeviceGetHandleByIndex", "code": 15, "text": "GPU is lost"}]
    answer = {**A10G_ANSWER, "gpus": [{"index": 0}, nvml_gpu(1, "NVIDIA A10G", (8, 6))], "failures": failures}
    machine = probe(replace(A10G, libraries=(answer, libcuda(12020))).world(tmp_path))
    assert [gpu.name for gpu in machine.gpus] == ["unknown", "NVIDIA A10G"]
    assert "gpu-unreadable" in codes(machine)


def test_a_compat_library_does_not_decide_what_the_driver_serves(tmp_path: Path) -> None:
    compat = libcuda(12090, "/usr/local/cuda-12.9/compat/libcuda.so.575.57.08")
    machine = probe(replace(A10G, libraries=({**A10G_ANSWER, "cuda": 12090}, compat)).world(tmp_path))
    assert machine.driver is not None
    assert (machine.driver.cuda, codes(machine)) == (Version("12.2"), ("cuda-compat",))
    assert "/usr/local/cuda-12.9/compat/libcuda.so.575.57.08" in machine.conditions[0].cause
    assert "CONDA_OVERRIDE_CUDA=12.9" in machine.conditions[0].remedy


def test_a_compat_library_of_conda_is_recognised_by_its_folder(tmp_path: Path) -> None:
    compat = libcuda(12020, "/opt/env/cuda-compat/libcuda.so.545.23.08")
    assert codes(probe(replace(A10G, libraries=(A10G_ANSWER, compat)).world(tmp_path))) == ()


def test_a_libcuda_of_another_driver_is_named_with_both_versions(tmp_path: Path) -> None:
    foreign = libcuda(12020, "/usr/lib/x86_64-linux-gnu/libcuda.so.535.54.03")
    machine = probe(replace(A10G, libraries=(A10G_ANSWER, foreign)).world(tmp_path))
    assert codes(machine) == ("libcuda-mismatch",)
    assert "`535.216.01`" in machine.conditions[0].cause
    assert "libcuda.so.535.54.03`" in machine.conditions[0].cause


def test_a_driver_newer_than_the_table_is_believed(tmp_path: Path) -> None:
    answer = {**A10G_ANSWER, "driver_version": "640.10.01", "cuda": 14000, "file": None, "nvml_version": "14.640.10.01"}
    files = {"/sys/module/nvidia/version": "640.10.01\n"}
    machine = probe(Recorded(files=files, libraries=(answer, libcuda(14000, "libcuda.so.640.10.01"))).world(tmp_path))
    assert machine.driver is not None
    assert (machine.driver.cuda, codes(machine)) == (Version("14.0"), ())


def test_wsl_has_the_version_of_the_driver_of_windows(tmp_path: Path) -> None:
    answer = {**A10G_ANSWER, "driver_version": "555.99", "nvml_version": "12.555.52.01", "cuda": 12050}
    answer |= {"file": "/usr/lib/wsl/lib/libnvidia-ml.so.1"}
    files = {"/proc/sys/kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2\n", "/dev/dxg": ""}
    machine = probe(Recorded(files=files, libraries=(answer, libcuda(12050))).world(tmp_path))
    assert machine.driver == Driver(kernel_version=Version("555.99"), user_version=None, cuda=Version("12.5"))
    assert (machine.is_wsl, codes(machine)) == (True, ("wsl",))


def test_wsl_without_the_driver_of_windows_is_told_apart(tmp_path: Path) -> None:
    files = {"/proc/sys/kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2\n"}
    assert codes(probe(Recorded(files=files).world(tmp_path))) == ("wsl-without-driver",)


def test_a_jetson_without_nvml_has_its_gpu_from_the_device_tree(tmp_path: Path) -> None:
    files = {
        "/proc/device-tree/compatible": "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0",
        "/proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
    }
    recorded = Recorded(files=files, architecture="aarch64", libraries=(NO_NVML, libcuda(12060, "/x/libcuda.so.1.1")))
    machine = probe(recorded.world(tmp_path))
    (gpu,) = machine.gpus
    assert (gpu.name, gpu.compute_capability) == ("NVIDIA Jetson AGX Orin Developer Kit", ComputeCapability(8, 7))
    assert machine.driver == Driver(cuda=Version("12.6"))
    assert (machine.platform, codes(machine)) == ("linux-aarch64", ("jetson",))


def test_linux_without_glibc_is_pointed_out(tmp_path: Path) -> None:
    machine = probe(replace(A10G, libc="").world(tmp_path))
    assert (machine.glibc, codes(machine)) == (None, ("no-glibc",))


def test_nvidia_smi_is_asked_where_nvml_is_missing(tmp_path: Path) -> None:
    xml = (
        "<?xml version='1.0'?><nvidia_smi_log><driver_version>535.216.01</driver_version>"
        "<cuda_version>12.2</cuda_version><gpu id='00000000:10:00.0'><product_name>NVIDIA A10G</product_name>"
        "<uuid>GPU-1</uuid><fb_memory_usage><total>23028 MiB</total></fb_memory_usage></gpu></nvidia_smi_log>"
    )
    query = ("nvidia-smi", "--query-gpu=index,compute_cap", "--format=csv,noheader")
    recorded = Recorded(programs={NVIDIA_SMI: (0, xml), query: (0, "0, 8.6\n")})
    machine = probe(recorded.world(tmp_path))
    assert [(gpu.name, gpu.uuid, gpu.compute_capability) for gpu in machine.gpus] == [
        ("NVIDIA A10G", "GPU-1", ComputeCapability(8, 6))
    ]
    assert machine.driver == Driver(kernel_version=Version("535.216.01"), user_version=None, cuda=Version("12.2"))
    assert (machine.source("gpus"), codes(machine)) == ("nvidia-smi -q -x", ("nvml-missing",))


def test_the_pci_table_fills_in_what_an_old_nvidia_smi_does_not_say(tmp_path: Path) -> None:
    table = (
        "| NVIDIA-SMI 418.181.07   Driver Version: 418.181.07   CUDA Version: 10.1     |\n"
        "|   0  Tesla V100-SXM2...  On   | 00000000:10:00.0 Off |                    0 |\n"
        "| N/A   27C    P0    40W / 300W |      0MiB / 16130MiB |      0%      Default |\n"
    )
    recorded = Recorded(
        files=pci_gpu_files("0x1db1"), programs={NVIDIA_SMI: (2, "unknown option"), ("nvidia-smi",): (0, table)}
    )
    machine = probe(recorded.world(tmp_path))
    assert [(gpu.name, gpu.compute_capability) for gpu in machine.gpus] == [
        ("Tesla V100-SXM2...", ComputeCapability(7, 0))
    ]
    assert machine.source("gpus") == "nvidia-smi"


@pytest.mark.parametrize(
    ("text", "visible", "expected"),
    [
        (None, None, ()),
        ("0", (0,), ()),
        ("-1", (), ("gpus-hidden",)),
        ("", (), ("gpus-hidden",)),
        ("0,0", (), ("gpus-hidden",)),
        ("7", (), ("gpus-hidden",)),
        ("0,7", (0,), ("visible-devices",)),
        ("none", (), ("gpus-hidden",)),
    ],
)
def test_cuda_visible_devices_is_resolved_and_its_traps_are_named(
    tmp_path: Path, text: str | None, visible: tuple[int, ...] | None, expected: tuple[str, ...]
) -> None:
    environment = {} if text is None else {"CUDA_VISIBLE_DEVICES": text}
    machine = probe(replace(A10G, environment=environment).world(tmp_path))
    assert (machine.visible, codes(machine)) == (visible, expected)


def test_conda_overrides_are_honoured_and_named_as_their_own_source(tmp_path: Path) -> None:
    environment = {"CONDA_OVERRIDE_CUDA": "12.9", "CONDA_OVERRIDE_CUDA_ARCH": "9.0", "CONDA_OVERRIDE_GLIBC": "2.17"}
    machine = probe(replace(A10G, environment=environment).world(tmp_path))
    assert machine.driver is not None
    assert (machine.driver.cuda, machine.driver.kernel_version) == (Version("12.9"), Version("535.216.01"))
    assert (machine.capabilities, machine.glibc) == ((ComputeCapability(9, 0),), Version("2.17"))
    assert {override.variable: override.value for override in machine.overrides} == environment
    assert [machine.source(fact) for fact in ("driver.cuda", "capability_override", "glibc")] == list(environment)
    assert machine.cuda_is_stated


def test_cuda_can_be_stated_for_a_machine_without_a_driver(tmp_path: Path) -> None:
    machine = probe(Recorded(environment={"CONDA_OVERRIDE_CUDA": "11.8"}).world(tmp_path))
    assert machine.driver == Driver(cuda=Version("11.8"))


def test_an_empty_cuda_override_is_a_machine_without_cuda_and_says_so(tmp_path: Path) -> None:
    machine = probe(replace(A10G, environment={"CONDA_OVERRIDE_CUDA": ""}).world(tmp_path))
    assert (machine.driver, machine.gpus, machine.has_nvidia) == (None, (), False)
    assert codes(machine) == ("cuda-switched-off",)


def test_an_empty_cuda_override_takes_nothing_from_a_machine_without_cuda(tmp_path: Path) -> None:
    machine = probe(Recorded(environment={"CONDA_OVERRIDE_CUDA": ""}).world(tmp_path))
    assert codes(machine) == ("no-nvidia-device",)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("CONDA_OVERRIDE_CUDA", "new"), ("CONDA_OVERRIDE_CUDA_ARCH", "sm_86"), ("CONDA_OVERRIDE_GLIBC", "musl")],
)
def test_an_override_that_is_no_version_stops_with_its_name(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(RequestError, match=f"invalid value `{value}` for the environment variable `{variable}`"):
        probe(replace(A10G, environment={variable: value}).world(tmp_path))


def test_names_from_the_machine_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    gpu = nvml_gpu(0, "NVIDIA \x1b[31mA10G\x07\n", (8, 6))
    machine = probe(replace(A10G, libraries=({**A10G_ANSWER, "gpus": [gpu]}, libcuda(12020))).world(tmp_path))
    assert machine.gpus[0].name == "NVIDIA A10G"
