"""Gather what the operating system, the driver's libraries, and ``nvidia-smi`` report, each with its source."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.gpu_tables import OtherGpu, pci_gpu, read_other_gpus, tegra_capability
from envforge.machine.values import (
    Gpu,
    MigDevice,
    TextFormatError,
    clean,
    parse_library_file,
    parse_nvml_version,
    parse_proc_version,
    parse_version,
)
from envforge.machine.world import ProgramResult, World

if TYPE_CHECKING:
    from envforge.machine.nvidia_text import SmiReport

NVIDIA_VENDOR = "0x10de"
_SUBDIRS = {
    ("Linux", "x86_64"): "linux-64",
    ("Linux", "amd64"): "linux-64",
    ("Linux", "aarch64"): "linux-aarch64",
    ("Linux", "arm64"): "linux-aarch64",
    ("Darwin", "arm64"): "osx-arm64",
    ("Darwin", "x86_64"): "osx-64",
    ("Windows", "amd64"): "win-64",
    ("Windows", "x86_64"): "win-64",
    ("Windows", "arm64"): "win-arm64",
}
_CGROUP = re.compile(r"docker|kubepods|containerd|libpod|lxc|garden|actions_job")
_MARKERS = (("/.dockerenv", "docker"), ("/run/.containerenv", "podman"), ("/.singularity.d", "apptainer"))


class Fact(Struct, frozen=True, kw_only=True):
    """A value and its source."""

    value: str
    source: str


class KernelModule(Struct, frozen=True, kw_only=True):
    """The loaded NVIDIA kernel module; the version is ``None`` if the file has an unknown format."""

    version: Version | None
    source: str
    is_open: bool = False


class PciDevice(Struct, frozen=True, kw_only=True):
    """One NVIDIA GPU on the PCI bus; ``driver`` is the kernel driver bound to it, ``None`` without one."""

    bus_id: str
    device_id: str
    driver: str | None


class Jetson(Struct, frozen=True, kw_only=True):
    """A Jetson board: its model and the compute capability of its built-in GPU."""

    model: str
    compute_capability: ComputeCapability | None
    source: str


class SystemReport(Struct, frozen=True, kw_only=True):
    """What the operating system reports about the machine."""

    platform: str
    glibc: Version | None
    container: Fact | None
    wsl: Fact | None
    jetson: Jetson | None
    kernel_module: KernelModule | None
    has_nouveau: bool
    pci: tuple[PciDevice, ...]
    has_device_nodes: bool
    other_gpus: tuple[OtherGpu, ...]


def read_system(world: World) -> SystemReport:
    """Read what the operating system reports about the machine."""
    return SystemReport(
        platform=conda_subdir(world.system, world.architecture),
        glibc=parse_version(world.libc.removeprefix("glibc ")) if world.libc.startswith("glibc") else None,
        container=_container(world),
        wsl=_wsl(world),
        jetson=_jetson(world),
        kernel_module=_kernel_module(world),
        has_nouveau=world.exists("/sys/module/nouveau"),
        pci=_pci(world),
        other_gpus=read_other_gpus(world),
        has_device_nodes=world.exists("/dev/nvidiactl") or world.exists("/dev/dxg") or world.exists("/dev/nvhost-gpu"),
    )


def conda_subdir(system: str, architecture: str) -> str:
    """Return conda's name of the platform, for example ``linux-64``."""
    known = _SUBDIRS.get((system, architecture.lower()))
    return known or f"{system.lower()}-{architecture.lower()}"


def _container(world: World) -> Fact | None:
    for variable, kind in (("KUBERNETES_SERVICE_HOST", "kubernetes"), ("APPTAINER_NAME", "apptainer")):
        if world.environment.get(variable):
            return Fact(value=kind, source=f"variable {variable}")
    for path, kind in _MARKERS:
        if world.exists(path):
            return Fact(value=kind, source=path)
    if stated := world.environment.get("container"):
        return Fact(value=clean(stated), source="variable container")
    match = _CGROUP.search(world.read("/proc/1/cgroup") or "")
    return Fact(value=match[0], source="/proc/1/cgroup") if match else None


def _wsl(world: World) -> Fact | None:
    text = world.read("/proc/sys/kernel/osrelease") or ""
    return Fact(value=clean(text), source="/proc/sys/kernel/osrelease") if "microsoft" in text.lower() else None


def _jetson(world: World) -> Jetson | None:
    compatible = world.read("/proc/device-tree/compatible") or ""
    if "nvidia,tegra" not in compatible and not world.exists("/etc/nv_tegra_release"):
        return None
    model = clean((world.read("/proc/device-tree/model") or "").replace("\n", " "))
    return Jetson(
        model=model or "NVIDIA Jetson",
        compute_capability=tegra_capability(compatible),
        source="/proc/device-tree" if compatible else "/etc/nv_tegra_release",
    )


def _kernel_module(world: World) -> KernelModule | None:
    """Read the loaded kernel module, which containers see too, because these files are the host's."""
    proc = world.read("/proc/driver/nvidia/version")
    is_open = "Open Kernel Module" in (proc or "")
    if text := world.read("/sys/module/nvidia/version"):
        return KernelModule(version=parse_version(text), source="/sys/module/nvidia/version", is_open=is_open)
    if proc is None:
        return None
    try:
        version = parse_proc_version(proc)
    except TextFormatError:
        version = None
    return KernelModule(version=version, source="/proc/driver/nvidia/version", is_open=is_open)


def _pci(world: World) -> tuple[PciDevice, ...]:
    """List NVIDIA's display and 3D controllers (PCI class 0x03)."""
    found = []
    for bus_id in world.entries("/sys/bus/pci/devices"):
        folder = f"/sys/bus/pci/devices/{bus_id}"
        if (world.read(f"{folder}/vendor") or "").strip() != NVIDIA_VENDOR:
            continue
        if (world.read(f"{folder}/class") or "").startswith("0x03"):
            device_id = (world.read(f"{folder}/device") or "").strip()
            found.append(PciDevice(bus_id=bus_id, device_id=device_id, driver=world.link_name(f"{folder}/driver")))
    return tuple(found)


def gpus_from_pci(devices: tuple[PciDevice, ...]) -> tuple[Gpu, ...]:
    """Return the GPUs on the bus, in the order in which the driver numbers them."""
    return tuple(_pci_gpu(index, device) for index, device in enumerate(devices))


def _pci_gpu(index: int, device: PciDevice) -> Gpu:
    known = pci_gpu(device.device_id)
    name = f"NVIDIA {known.name or known.chip}" if known else f"NVIDIA device {device.device_id}"
    return Gpu(
        index=index, name=name, compute_capability=known.compute_capability if known else None, pci_bus_id=device.bus_id
    )


class NvmlCode(enum.IntEnum):
    """Error codes of NVML (``nvmlReturn_t`` in nvml.h), and two of ours for a library that returned none."""

    HUNG = -1
    CRASHED = -2
    NOT_SUPPORTED = 3
    NO_PERMISSION = 4
    DRIVER_NOT_LOADED = 9
    LIBRARY_NOT_FOUND = 12
    FUNCTION_NOT_FOUND = 13
    GPU_IS_LOST = 15
    RESET_REQUIRED = 16
    VERSION_MISMATCH = 18
    UNKNOWN = 999


class LibraryError(Struct, frozen=True, kw_only=True):
    """Why a library didn't respond; ``code`` is its own error code or one of ``NvmlCode``."""

    code: int | None
    text: str


class NvmlReport(Struct, frozen=True, kw_only=True):
    """The response of NVML; ``pci_ids`` has the PCI device ID of each GPU, ``failures`` the calls that failed."""

    error: LibraryError | None = None
    file: str | None = None
    driver_version: Version | None = None
    library_version: Version | None = None
    cuda: Version | None = None
    gpus: tuple[Gpu, ...] = ()
    pci_ids: tuple[str | None, ...] = ()
    failures: tuple[str, ...] = ()


class LibcudaReport(Struct, frozen=True, kw_only=True):
    """The response of the CUDA driver library, and its file."""

    error: LibraryError | None = None
    file: str | None = None
    cuda: Version | None = None

    @property
    def is_compat(self) -> bool:
        """True if it is from a ``cuda-compat`` package (NVIDIA, CUDA Compatibility, "Forward Compatibility")."""
        return re.search(r"/(?:cuda-)?compat/", self.file or "") is not None


class LibraryReport(Struct, frozen=True, kw_only=True):
    """The responses of both libraries."""

    nvml: NvmlReport
    libcuda: LibcudaReport


def read_lines(stdout: str) -> Iterator[dict[str, Any]]:
    """Yield the lines that the child printed."""
    for line in stdout.splitlines():
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):  # a library that writes to stdout, or a line that a crash truncated
            continue
        if isinstance(answer, dict) and isinstance(answer.get("library"), str):
            yield answer


def read_report(result: ProgramResult) -> LibraryReport:
    """Parse the child's lines; a library without a line is the one that crashed or blocked the child."""
    answers = {answer["library"]: answer for answer in read_lines(result.stdout)}
    silent = _silence(result)
    try:
        nvml = _nvml(answers["nvml"]) if "nvml" in answers else NvmlReport(error=silent)
        libcuda = _libcuda(answers["libcuda"]) if "libcuda" in answers else LibcudaReport(error=silent)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):  # lines that a library printed
        invalid = LibraryError(code=NvmlCode.CRASHED, text="its response is invalid")
        return LibraryReport(nvml=NvmlReport(error=invalid), libcuda=LibcudaReport(error=invalid))
    return LibraryReport(nvml=nvml, libcuda=libcuda)


def _silence(result: ProgramResult) -> LibraryError:
    if result.exit_code is None:
        return LibraryError(code=NvmlCode.HUNG, text="no response in time")
    ended = f"signal {-result.exit_code}" if result.exit_code < 0 else f"exit code {result.exit_code}"
    last = clean(result.stderr.strip().rpartition("\n")[2])[:200]
    return LibraryError(
        code=NvmlCode.CRASHED, text=f"it ended the process that queried it ({ended})" + (f": {last}" if last else "")
    )


def _error(answer: dict[str, Any]) -> LibraryError | None:
    error = answer.get("error")
    return LibraryError(code=error["code"], text=clean(error["text"])) if error else None


def _nvml(answer: dict[str, Any]) -> NvmlReport:
    file = answer.get("file")
    return NvmlReport(
        error=_error(answer),
        file=file,
        driver_version=parse_version(answer.get("driver_version")),
        library_version=parse_library_file(file or "") or parse_nvml_version(answer.get("nvml_version") or ""),
        cuda=_cuda(answer.get("cuda")),
        gpus=tuple(_nvml_gpu(gpu) for gpu in answer.get("gpus", [])),
        pci_ids=tuple(gpu.get("pci_device_id") for gpu in answer.get("gpus", [])),
        failures=tuple(f"{f['function']}: {clean(f['text'])}" for f in answer.get("failures", [])),
    )


def _libcuda(answer: dict[str, Any]) -> LibcudaReport:
    return LibcudaReport(error=_error(answer), file=answer.get("file"), cuda=_cuda(answer.get("cuda")))


def _cuda(number: int | None) -> Version | None:
    """Convert a version from CUDA's number: 12020 is 12.2 (``CUDA_VERSION`` in cuda.h)."""
    return Version(f"{number // 1000}.{number % 1000 // 10}") if number else None


def _nvml_gpu(answer: dict[str, Any]) -> Gpu:
    capability = answer.get("compute_capability")
    mig = answer.get("mig")
    return Gpu(
        index=answer["index"],
        name=clean(answer.get("name") or "") or "unknown",
        compute_capability=ComputeCapability(*capability) if capability else None,
        uuid=answer.get("uuid") and clean(answer["uuid"]),
        memory_bytes=answer.get("memory_bytes"),
        mig_enabled=None if mig is None else mig[0] == 1,
        pci_bus_id=answer.get("pci_bus_id") and clean(answer["pci_bus_id"]),
        mig_devices=tuple(_mig_device(device) for device in answer.get("mig_devices", [])),
    )


def _mig_device(answer: dict[str, Any]) -> MigDevice:
    name, uuid = answer.get("name"), answer.get("uuid")
    return MigDevice(name=name and clean(name), uuid=uuid and clean(uuid), memory_bytes=answer.get("memory_bytes"))


_PROGRAMS = ("nvidia-smi", "/usr/lib/wsl/lib/nvidia-smi")  # WSL's directory isn't always on PATH
_QUERY_CAPABILITY = ("--query-gpu=index,compute_cap", "--format=csv,noheader")


class SmiAnswer(Struct, frozen=True, kw_only=True):
    """A report and the command that produced it, or the failure as a keyword with the output."""

    source: str
    report: SmiReport | None = None
    failure: str | None = None
    text: str = ""


def ask_smi(world: World) -> SmiAnswer:
    """Query ``nvidia-smi`` for the driver and the GPUs."""
    for program in _PROGRAMS:
        xml = world.run((program, "-q", "-x"))
        if xml is not None:
            return _smi_answer(world, program, xml)
    return SmiAnswer(source="nvidia-smi", failure="not-installed", text="`nvidia-smi` isn't installed")


def _smi_answer(world: World, program: str, xml: ProgramResult) -> SmiAnswer:
    from envforge.machine.nvidia_text import parse_smi_table, parse_smi_xml, smi_failure  # noqa: PLC0415 - if NVML fails

    if xml.exit_code is None:
        return SmiAnswer(source="nvidia-smi -q -x", failure="hung", text="no response in time")
    failure = smi_failure(xml.exit_code, xml.stdout + xml.stderr)
    if failure is None:
        try:
            return SmiAnswer(
                source="nvidia-smi -q -x", report=_with_capabilities(world, program, parse_smi_xml(xml.stdout))
            )
        except TextFormatError:
            failure = "unknown-format"
    table = world.run((program,))
    if table is not None and table.exit_code == 0:
        try:
            return SmiAnswer(
                source="nvidia-smi", report=_with_capabilities(world, program, parse_smi_table(table.stdout))
            )
        except TextFormatError:
            failure = "unknown-format"
    # nvidia-smi prints its errors to stdout
    said = (xml.stdout.strip() or xml.stderr.strip()).partition("\n")[0]
    return SmiAnswer(source="nvidia-smi", failure=failure, text=clean(said)[:200])


def _with_capabilities(world: World, program: str, report: SmiReport) -> SmiReport:
    from envforge.machine.nvidia_text import parse_compute_capabilities  # noqa: PLC0415 - only if NVML doesn't answer

    if not report.gpus:
        return report
    # a query of its own, because older drivers reject a field that they don't know
    result = world.run((program, *_QUERY_CAPABILITY))
    # neither the XML nor the table has compute capabilities
    known = parse_compute_capabilities(result.stdout) if result is not None and result.exit_code == 0 else {}
    gpus = tuple(
        msgspec.structs.replace(gpu, compute_capability=known.get(gpu.index, gpu.compute_capability))
        for gpu in report.gpus
    )
    return msgspec.structs.replace(report, gpus=gpus)


class Evidence(Struct, frozen=True, kw_only=True):
    """Everything that was read."""

    system: SystemReport
    libraries: LibraryReport
    smi: SmiAnswer | None


def ask_libraries(world: World, *, health: bool) -> ProgramResult | None:
    """Query NVML and libcuda, with ``health`` also the signals of each GPU; None on macOS, which has neither."""
    if world.system == "Darwin":
        return None
    return (world.ask_health if health and world.ask_health else world.ask_libraries)()


def gather(world: World, answer: ProgramResult | None) -> Evidence:
    """Read everything; ``answer`` has the lines of ``driver_child``, or is None if it wasn't started."""
    system = read_system(world)
    if answer is None:
        absent = LibraryError(code=NvmlCode.LIBRARY_NOT_FOUND, text="the NVIDIA driver wasn't queried")
        report = LibraryReport(nvml=NvmlReport(error=absent), libcuda=LibcudaReport(error=absent))
        return Evidence(system=system, libraries=report, smi=None)
    report = read_report(answer)
    error = report.nvml.error
    # nvidia-smi uses NVML as well, and would hang, too
    needs_smi = error is not None and error.code != NvmlCode.HUNG
    return Evidence(system=system, libraries=report, smi=ask_smi(world) if needs_smi else None)
