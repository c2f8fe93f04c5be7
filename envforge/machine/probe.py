"""Read this computer as a ``Machine``, with the source of each fact.

Order of the sources: NVML; the kernel module's files and libcuda; ``nvidia-smi``; the PCI bus; the table of driver
branches.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct
from packaging.version import Version

from envforge.machine.conditions import Conclusion, find_conditions
from envforge.machine.evidence import Evidence, NvmlCode, ask_libraries, gather, gpus_from_pci
from envforge.machine.gpu_tables import branch_cuda, driver_support, named_capability, nearest_branch_cuda, pci_gpu
from envforge.machine.values import Driver, Gpu, Machine, apply_overrides, parse_library_file, resolve_visible
from envforge.machine.world import World

VISIBLE = "CUDA_VISIBLE_DEVICES"


class _Read(Struct, frozen=True, kw_only=True):
    """A value and its source."""

    value: Version | None
    source: str


_UNKNOWN = _Read(value=None, source="")


class Probed(Struct, frozen=True, kw_only=True):
    """A machine, the evidence that it was concluded from, and the lines that the child process printed."""

    machine: Machine
    evidence: Evidence
    lines: str = ""


def probe(world: World) -> Machine:
    """Read the computer; a GPU that can't be used becomes a condition of the machine, not an error."""
    return _conclude(world, gather(world, ask_libraries(world, health=False)))


def probe_system(world: World) -> Machine:
    """Read the computer without querying the driver; GPUs are known only as far as files list them."""
    return _conclude(world, gather(world, None))


def probe_all(world: World) -> Probed:
    """Read the computer with its evidence and the health of every GPU, in one query of the driver."""
    answer = ask_libraries(world, health=True)
    evidence = gather(world, answer)
    return Probed(machine=_conclude(world, evidence), evidence=evidence, lines=answer.stdout if answer else "")


def _conclude(world: World, evidence: Evidence) -> Machine:
    kernel, user = _kernel(evidence), _user(evidence)
    cuda, compat_cuda = _cuda(evidence, kernel.value or user.value)
    driver = None
    if _has_driver(evidence, kernel):
        driver = Driver(kernel_version=kernel.value, user_version=user.value, cuda=cuda.value)
    gpus, gpu_source = _gpus(evidence)
    visible_text = world.environment.get(VISIBLE)
    visible = resolve_visible(visible_text, gpus)
    conclusion = Conclusion(
        evidence=evidence,
        driver=driver,
        gpus=gpus,
        visible=visible,
        visible_text=visible_text,
        compat_cuda=compat_cuda,
        by_pci_order=world.environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID",
    )
    system = evidence.system
    sources = {
        "platform": "uname",
        "python": "this interpreter",
        "glibc": "confstr(CS_GNU_LIBC_VERSION)" if system.glibc else "",
        "driver.kernel_version": kernel.source if driver else "",
        "driver.user_version": user.source if driver else "",
        "driver.cuda": cuda.source if driver else "",
        "gpus": gpu_source,
        "visible": VISIBLE if visible_text is not None else "",
        "container": system.container.source if system.container else "",
        "is_wsl": system.wsl.source if system.wsl else "",
        "hostname": "gethostname",
    }
    machine = Machine(
        platform=system.platform,
        python=world.python,
        glibc=system.glibc,
        driver=driver,
        gpus=gpus,
        visible=visible.indices,
        container=system.container.value if system.container else None,
        is_wsl=system.wsl is not None,
        hostname=world.hostname,
        conditions=find_conditions(conclusion),
        sources=tuple(sorted((fact, source) for fact, source in sources.items() if source)),
    )
    return apply_overrides(machine, world.environment)


def _kernel(evidence: Evidence) -> _Read:
    module, nvml, smi = evidence.system.kernel_module, evidence.libraries.nvml, evidence.smi
    # the module is what runs; libraries of another version may lie beside it after an upgrade
    if module is not None and module.version is not None:
        return _Read(value=module.version, source=module.source)
    if nvml.driver_version is not None:
        return _Read(value=nvml.driver_version, source="NVML nvmlSystemGetDriverVersion")
    if smi is not None and smi.report is not None and smi.report.driver_version is not None:
        return _Read(value=smi.report.driver_version, source=smi.source)
    return _UNKNOWN


def _user(evidence: Evidence) -> _Read:
    nvml, libcuda = evidence.libraries.nvml, evidence.libraries.libcuda
    if evidence.system.wsl:
        return _UNKNOWN  # the driver is the one of Windows, whose version and tables apply
    if nvml.library_version is not None:
        return _Read(value=nvml.library_version, source=nvml.file or "NVML nvmlSystemGetNVMLVersion")
    version = parse_library_file(libcuda.file or "")
    if version is not None and not libcuda.is_compat:
        return _Read(value=version, source=libcuda.file or "")
    return _UNKNOWN


def _has_driver(evidence: Evidence, kernel: _Read) -> bool:
    """Return whether the machine has a driver, working or broken.

    Libraries don't prove one, because many container images contain them without a driver.
    """
    error = evidence.libraries.nvml.error
    broken = error is not None and error.code in (NvmlCode.VERSION_MISMATCH, NvmlCode.HUNG, NvmlCode.CRASHED)
    on_jetson = evidence.system.jetson is not None and evidence.libraries.libcuda.cuda is not None
    return kernel.value is not None or evidence.system.kernel_module is not None or broken or on_jetson


def _cuda(evidence: Evidence, driver: Version | None) -> tuple[_Read, Version | None]:
    """Return the newest CUDA that the driver supports, and the newer version that a compatibility library reports."""
    reported = _reported_cuda(evidence)
    ordinary = evidence.system.platform.startswith("linux-") and not evidence.system.wsl and not evidence.system.jetson
    # a cuda-compat library makes NVML, libcuda, and nvidia-smi report its own CUDA version, but only in this shell and
    # on data center GPUs; a project made for it would fail in the next shell, so the branch of the driver decides
    own = branch_cuda(driver) if driver is not None and ordinary else None
    if reported.value is None:
        guess = nearest_branch_cuda(driver) if driver is not None else None
        return (_Read(value=guess, source="table of driver branches") if guess else _UNKNOWN), None
    if own is not None and reported.value > own:
        return _Read(value=own, source="table of driver branches"), reported.value
    return reported, None


def _reported_cuda(evidence: Evidence) -> _Read:
    nvml, libcuda, smi = evidence.libraries.nvml, evidence.libraries.libcuda, evidence.smi
    if nvml.cuda is not None:
        return _Read(value=nvml.cuda, source="NVML nvmlSystemGetCudaDriverVersion_v2")
    if libcuda.cuda is not None:
        return _Read(value=libcuda.cuda, source="libcuda cuDriverGetVersion")
    if smi is not None and smi.report is not None and smi.report.cuda is not None:
        return _Read(value=smi.report.cuda, source=smi.source)
    return _UNKNOWN


def _gpus(evidence: Evidence) -> tuple[tuple[Gpu, ...], str]:
    nvml, smi, system = evidence.libraries.nvml, evidence.smi, evidence.system
    if nvml.error is None:
        if ignored := () if nvml.gpus else _ignored(evidence):
            return ignored, "/sys/bus/pci/devices"
        return _completed(evidence, nvml.gpus), "NVML" if nvml.gpus else ""
    # `nvidia-smi` can answer although NVML can't be loaded in this process
    if smi is not None and smi.report is not None and smi.report.gpus:
        return _completed(evidence, smi.report.gpus), smi.source
    if system.jetson is not None:
        gpu = Gpu(index=0, name=system.jetson.model, compute_capability=system.jetson.compute_capability)
        return (gpu,), system.jetson.source
    return gpus_from_pci(system.pci), "/sys/bus/pci/devices" if system.pci else ""


def _ignored(evidence: Evidence) -> tuple[Gpu, ...]:
    """Return the GPUs on the bus if the driver lists none and its branch supports none of them, so that it is said."""
    version = _user(evidence).value or _kernel(evidence).value
    # the driver lists none of them, and `_dropped` in `conditions` gives the reason
    gpus = gpus_from_pci(evidence.system.pci)
    supports = [driver_support(gpu.compute_capability) for gpu in gpus if gpu.compute_capability is not None]
    if version is None or not gpus or len(supports) < len(gpus):
        return ()
    return gpus if not any(each.has(version) for each in supports) else ()


def _completed(evidence: Evidence, gpus: tuple[Gpu, ...]) -> tuple[Gpu, ...]:
    """Fill in compute capabilities that the driver didn't report, from the tables of PCI IDs, names, and Jetsons."""
    by_bus = {_short_bus(device.bus_id): device.device_id for device in evidence.system.pci}
    ids = dict(enumerate(evidence.libraries.nvml.pci_ids))
    completed = []
    for gpu in gpus:
        if gpu.compute_capability is None:
            device_id = ids.get(gpu.index) or by_bus.get(_short_bus(gpu.pci_bus_id or ""))
            known = pci_gpu(device_id) if device_id else None
            capability = known.compute_capability if known else named_capability(gpu.name)
            if capability is None and evidence.system.jetson is not None:
                capability = evidence.system.jetson.compute_capability
            completed.append(msgspec.structs.replace(gpu, compute_capability=capability))
        else:
            completed.append(gpu)
    return tuple(completed)


def _short_bus(bus_id: str) -> str:
    """Normalize a bus ID: the driver writes the domain with eight digits (``00000000:18:00.0``), sysfs with four."""
    domain, _, rest = bus_id.lower().partition(":")
    return f"{domain[-4:]}:{rest}"
