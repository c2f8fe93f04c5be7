"""Determine what keeps PyTorch from the GPU, with a cause and a remedy for each state."""

from __future__ import annotations

from msgspec import Struct
from packaging.version import Version

from envforge.machine.evidence import Evidence, NvmlCode
from envforge.machine.gpu_tables import driver_support, has_open_module, other_gpus, pci_gpu
from envforge.machine.values import UNREADABLE_SMI, Condition, Driver, Gpu, Visible, driver_text, parse_library_file


class Conclusion(Struct, frozen=True, kw_only=True):
    """What was concluded; ``compat_cuda`` is the CUDA version that a ``cuda-compat`` library reports."""

    evidence: Evidence
    driver: Driver | None
    gpus: tuple[Gpu, ...]
    visible: Visible
    visible_text: str | None
    compat_cuda: Version | None
    by_pci_order: bool


def driver_state(case: Conclusion) -> Condition | None:
    """Return the condition that explains why the driver doesn't respond; None if it does."""
    error = case.evidence.libraries.nvml.error
    if error is None:
        return None if case.evidence.libraries.nvml.gpus else _no_gpu_in_driver(case)
    # first, because whatever else was read may be the effect of a broken driver
    if error.code in (NvmlCode.HUNG, NvmlCode.CRASHED):
        return _broken_library(case)
    if _is_mismatch(case):
        return _mismatch(case)
    return None if case.evidence.system.jetson is not None else _unreachable(case)


def _unreachable(case: Conclusion) -> Condition:
    system = case.evidence.system
    if system.container is not None and (system.kernel_module is not None or system.pci):
        return _lost_container(case) or _container(case)
    if system.wsl is not None:
        return _wsl_without_driver(case)
    return _bare_metal(case)


def _bare_metal(case: Conclusion) -> Condition:
    system, nvml = case.evidence.system, case.evidence.libraries.nvml
    if system.kernel_module is None and case.driver is None:
        if not system.pci:
            return _unreadable_smi(case) or _no_device(case)
        return _nouveau(case) or _held(case) or _no_module(case)
    if nvml.error is not None and nvml.error.code == NvmlCode.LIBRARY_NOT_FOUND:
        return _nvml_missing(case)
    return _nvml_failed(case)


def _unreadable_smi(case: Conclusion) -> Condition | None:
    smi = case.evidence.smi
    if smi is None or smi.failure != "unknown-format":
        return None
    return Condition(
        code=UNREADABLE_SMI,
        symptom=f"the output of `nvidia-smi` has an unknown format: {smi.text or 'it is empty'}",
        cause="the driver is older or newer than those that envforge knows, or another program has this name",
        remedy="to check whether there is a GPU, run `nvidia-smi -L`; to state what it has, run "
        "`export CONDA_OVERRIDE_CUDA=VERSION CONDA_OVERRIDE_CUDA_ARCH=CAPABILITY`",
    )


def _dropped(case: Conclusion) -> tuple[str, str] | None:
    """Return cause and remedy if the installed driver ignores a GPU on the PCI bus because it is too old or new."""
    version = case.evidence.libraries.nvml.library_version or (case.driver.version if case.driver else None)
    module = case.evidence.system.kernel_module
    for gpu in filter(None, (pci_gpu(device.device_id) for device in case.evidence.system.pci)):
        name, support = f"{gpu.name or gpu.chip} ({gpu.compute_capability})", driver_support(gpu.compute_capability)
        missing = f"the driver {driver_text(version)} doesn't support {name}" if version else ""
        if version and support.last and version.major > support.last:
            cause = f"{missing}: {support.last} is the last branch that does"
            return cause, f"install an NVIDIA driver of the {support.last} branch"
        if version and support.first and version.major < support.first:
            cause = f"{missing}: {support.first} is the first branch that does"
            return cause, f"install an NVIDIA driver of the {support.first} branch or newer"
        if module is not None and module.is_open and not has_open_module(gpu.compute_capability):
            cause = f"the driver's open kernel module doesn't support {name}, which needs the proprietary one"
            branch = f" of the {support.last} branch" if support.last else ""
            return cause, f"install the NVIDIA driver{branch} with its proprietary kernel module"
    return None


def _no_device(case: Conclusion) -> Condition:
    container = case.evidence.system.container is not None
    return Condition(
        code="no-nvidia-device",
        symptom="no NVIDIA GPU was found: no driver library, no kernel module, and no device on the PCI bus",
        cause="this machine has no NVIDIA GPU" + (", or its container hides it" if container else ""),
        remedy="to plan for another machine, pass `--machine FILE|PROFILE`; to use the CPU build, pass `--cuda cpu`"
        + ("; if the host has a GPU, start the container with `docker run --gpus all`" if container else ""),
    )


def _no_gpu_in_driver(case: Conclusion) -> Condition:
    if case.evidence.system.container is not None:
        return _container(case)
    cause, remedy = _dropped(case) or (
        "no GPU is assigned to this job (Slurm without --gres=gpu), the GPU failed, or another driver holds it",
        "request a GPU from the scheduler; on your own machine, search the output of `sudo dmesg` for NVRM",
    )
    return Condition(
        code="driver-sees-no-gpu",
        symptom="the NVIDIA driver runs, but lists no GPU (nvidia-smi: `No devices were found`)",
        cause=cause,
        remedy=remedy,
    )


def _broken_library(case: Conclusion) -> Condition:
    error = case.evidence.libraries.nvml.error
    hung = error is not None and error.code == NvmlCode.HUNG
    return Condition(
        code="nvml-hangs" if hung else "nvml-crashes",
        symptom="the driver's management library, NVML, doesn't respond in time"
        if hung
        else f"the driver's management library, NVML, crashes: {error.text if error else ''}",
        cause="the driver or a GPU is in an invalid state, or the library doesn't belong to the driver",
        remedy="search the output of `sudo dmesg` for NVRM, then reboot"
        + ("; if it is only slow, run `export ENVFORGE_PROBE_TIMEOUT=120`" if hung else ""),
    )


def _is_mismatch(case: Conclusion) -> bool:
    error, smi = case.evidence.libraries.nvml.error, case.evidence.smi
    told = (error is not None and error.code == NvmlCode.VERSION_MISMATCH) or (
        smi is not None and smi.failure == "driver-library-mismatch"
    )
    return told or not _same_driver(case)


def _same_driver(case: Conclusion) -> bool:
    """Return whether kernel module and libraries match, as far as both versions go (``590.48`` and ``590.48.1``)."""
    if case.driver is None or case.driver.kernel_version is None or case.driver.user_version is None:
        return True
    kernel, user = case.driver.kernel_version.release, case.driver.user_version.release
    length = min(len(kernel), len(user))
    return kernel[:length] == user[:length]


def _mismatch(case: Conclusion) -> Condition:
    kernel = case.driver.kernel_version if case.driver else None
    user = case.driver.user_version if case.driver else None
    versions = (
        f"the kernel module is `{driver_text(kernel)}`, the libraries are `{driver_text(user)}`"
        if kernel and user
        else "the kernel module and the libraries have different versions"
    )
    return Condition(
        code="driver-library-mismatch",
        symptom="`Failed to initialize NVML: Driver/library version mismatch`; CUDA programs find no GPU",
        cause=f"{versions}: the driver was updated while its old module was loaded",
        remedy="reboot, or stop every GPU program and reload the nvidia modules",
    )


def _container(case: Conclusion) -> Condition:
    kind = case.evidence.system.container
    return Condition(
        code="container-without-gpus",
        symptom="the host has an NVIDIA GPU or driver, but this container can't use it",
        cause=f"the container ({kind.value if kind else 'unknown'}) was started without GPUs"
        + ("" if case.evidence.system.has_device_nodes else ": there is no /dev/nvidiactl in it"),
        remedy="start the container with `docker run --gpus all` (requires nvidia-container-toolkit on the host), "
        "`apptainer run --nv`, or `nvidia.com/gpu` in the resources of a Kubernetes pod",
    )


def _lost_container(case: Conclusion) -> Condition | None:
    """Return the condition for a container that has library and device files, but lost the permission to use them.

    Source: NVIDIA/nvidia-container-toolkit issue 48: NVML 999, "Unknown Error", after ``systemctl daemon-reload``.
    """
    error = case.evidence.libraries.nvml.error
    if error is None or error.code != NvmlCode.UNKNOWN or not case.evidence.system.has_device_nodes:
        return None
    return Condition(
        code="container-lost-gpus",
        symptom="`Failed to initialize NVML: Unknown Error`: this container had GPUs, but can't use them anymore",
        cause="`systemctl daemon-reload` or an update on the host removed its devices",
        remedy="restart the container; to prevent it, run `nvidia-ctk system create-dev-char-symlinks --create-all` "
        "on the host",
    )


def _wsl_without_driver(_case: Conclusion) -> Condition:
    return Condition(
        code="wsl-without-driver",
        symptom="this is WSL, and the NVIDIA driver doesn't respond",
        cause="the driver of Windows, which WSL uses (/usr/lib/wsl/lib), is missing, old, or hidden by a Linux driver",
        remedy="install the NVIDIA driver in Windows, remove Linux drivers from WSL, run `wsl --shutdown` in Windows",
    )


def _nouveau(case: Conclusion) -> Condition | None:
    if not any(device.driver == "nouveau" for device in case.evidence.system.pci):
        return None
    return Condition(
        code="nouveau",
        symptom="the kernel driver nouveau, which doesn't support CUDA, holds the GPU",
        cause="NVIDIA's driver isn't installed, or nouveau was loaded before it",
        remedy="install NVIDIA's driver, add `blacklist nouveau` to /etc/modprobe.d/, rebuild initramfs, and reboot",
    )


def _held(case: Conclusion) -> Condition | None:
    others = sorted({device.driver for device in case.evidence.system.pci if device.driver not in (None, "nvidia")})
    if not others:
        return None
    return Condition(
        code="gpu-held-by-other-driver",
        symptom=f"the kernel driver {', '.join(str(name) for name in others)} holds the GPU",
        cause="the GPU is reserved for a virtual machine (vfio-pci) or another driver",
        remedy="bind the GPU to the nvidia driver, or use the virtual machine that has it",
    )


def _no_module(case: Conclusion) -> Condition:
    smi = case.evidence.smi
    installed = smi is not None and smi.failure == "driver-not-loaded"
    cause, remedy = _dropped(case) or (
        "the driver is installed, but its module wasn't built for this kernel, or Secure Boot blocks it"
        if installed
        else "the NVIDIA driver isn't installed, or its module wasn't built for this kernel",
        "install or rebuild the driver (for Secure Boot, enroll its key), then run `sudo modprobe nvidia`",
    )
    return Condition(
        code="no-kernel-module",
        symptom="an NVIDIA GPU is on the PCI bus, but the nvidia kernel module isn't loaded",
        cause=cause,
        remedy=remedy,
    )


def _nvml_missing(case: Conclusion) -> Condition:
    return Condition(
        code="nvml-missing",
        symptom="the nvidia kernel module is loaded, but the library libnvidia-ml.so.1 isn't found",
        cause="the driver's user-space libraries aren't installed, or aren't on the loader's path",
        remedy="install the libraries of the same driver version"
        + (f" ({driver_text(case.driver.kernel_version)})" if case.driver and case.driver.kernel_version else "")
        + "; to check, run `ldconfig -p | grep nvidia-ml`",
    )


def _nvml_failed(case: Conclusion) -> Condition:
    error = case.evidence.libraries.nvml.error
    return Condition(
        code="nvml-failed",
        symptom=f"NVML doesn't start: {error.text if error else 'no reason given'}",
        cause="the driver is loaded, but rejects requests: no permission for /dev/nvidia*, or a lost GPU",
        remedy="compare with `nvidia-smi`, and search the output of `sudo dmesg` for NVRM; restart a container",
    )


def find_conditions(case: Conclusion) -> tuple[Condition, ...]:
    """Return every condition of the machine, the one of the driver first."""
    found = (
        driver_state(case),
        _wsl(case),
        _jetson(case),
        _compat(case) or _foreign_libcuda(case),
        _mig(case),
        _mixed(case),
        _hidden(case),
        _unreadable(case),
        _no_glibc(case),
    )
    conditions = tuple(condition for condition in found if condition is not None)
    # a GPU of AMD or Intel explains why there is none of NVIDIA, and beside one of NVIDIA it is not used
    is_other = conditions[:1] and conditions[0].code == "no-nvidia-device" and case.evidence.system.other_gpus
    return (*other_gpus(case.evidence.system.other_gpus), *conditions[1:]) if is_other else conditions


def _wsl(case: Conclusion) -> Condition | None:
    if case.evidence.system.wsl is None or case.driver is None:
        return None
    return Condition(
        code="wsl",
        symptom="this is WSL, which uses the GPU through the NVIDIA driver of Windows",
        cause="WSL maps the driver of Windows to /usr/lib/wsl/lib",
        remedy="none needed; update the driver in Windows, and don't install a Linux driver in WSL",
    )


def _jetson(case: Conclusion) -> Condition | None:
    jetson = case.evidence.system.jetson
    if jetson is None:
        return None
    support = driver_support(jetson.compute_capability) if jetson.compute_capability else None
    first = (support.sbsa_cuda if support else None) or Version("13.0")
    cuda = case.driver.cuda if case.driver else None
    newer = f", or a JetPack with CUDA {first} or later" if cuda is None or cuda < first else ""
    return Condition(
        code="jetson",
        symptom=f"this is {jetson.model}: its GPU is part of the chip, and NVML reports little or nothing about it",
        cause="Jetson has its own driver (JetPack), and PyTorch's aarch64 wheels are built for servers",
        remedy="use the PyTorch wheels that NVIDIA builds for your JetPack" + newer,
    )


def _compat(case: Conclusion) -> Condition | None:
    if case.compat_cuda is None or case.driver is None:
        return None
    file = case.evidence.libraries.libcuda.file
    return Condition(
        code="cuda-compat",
        symptom=f"CUDA {case.compat_cuda} is reported, but the driver itself supports CUDA {case.driver.cuda}",
        cause="a CUDA compatibility library is loaded instead of the driver's own library"
        + (f": {file}" if case.evidence.libraries.libcuda.is_compat else " in this shell"),
        remedy=f"to rely on it, run `export CONDA_OVERRIDE_CUDA={case.compat_cuda}` (only for data center GPUs)",
    )


def _foreign_libcuda(case: Conclusion) -> Condition | None:
    """Return the condition for a libcuda that belongs to neither the running driver nor a compatibility library."""
    system, libcuda = case.evidence.system, case.evidence.libraries.libcuda
    version = parse_library_file(libcuda.file or "")
    kernel = case.driver.kernel_version if case.driver else None
    if version is None or kernel is None or libcuda.is_compat or system.wsl or system.jetson or version == kernel:
        return None
    if case.evidence.libraries.nvml.error is not None:
        return None  # the mismatch is reported already
    return Condition(
        code="libcuda-mismatch",
        symptom="CUDA programs fail with `Error 803: system has unsupported display driver / cuda driver combination`",
        cause=f"the kernel module is `{driver_text(kernel)}`, but the loader finds `{libcuda.file}`",
        remedy="remove that libcuda from the image or from LD_LIBRARY_PATH, so that the loader finds the driver's own",
    )


def _mig(case: Conclusion) -> Condition | None:
    partitioned = [gpu for gpu in case.gpus if gpu.mig_enabled]
    if not partitioned:
        return None
    empty = [str(gpu.index) for gpu in partitioned if not gpu.mig_devices]
    if empty and case.evidence.libraries.nvml.error is None:
        return Condition(
            code="mig-without-devices",
            symptom=f"MIG is on, but GPU {', '.join(empty)} has no MIG device, so CUDA programs find no GPU there",
            cause="no GPU instance was created, or none is assigned to this container",
            remedy="to create instances, run `sudo nvidia-smi mig -cgi PROFILES -C`; to turn MIG off, run "
            f"`sudo nvidia-smi -i {empty[0]} -mig 0`",
        )
    return Condition(
        code="mig",
        symptom="MIG is on: a program gets one slice of the GPU, with less memory than the GPU has",
        cause=f"GPU {', '.join(str(gpu.index) for gpu in partitioned)} is partitioned",
        remedy="to list the slices, run `nvidia-smi -L`; to choose one for a process, run "
        "`export CUDA_VISIBLE_DEVICES=MIG-UUID`",
    )


def _mixed(case: Conclusion) -> Condition | None:
    names = tuple(dict.fromkeys(gpu.name for gpu in case.gpus))
    if len(names) < 2:
        return None
    by_number = case.visible_text is not None and case.visible_text[:1].isdigit() and not case.by_pci_order
    return Condition(
        code="different-gpus",
        symptom=f"the GPUs differ: {', '.join(names)}",
        cause="a build must have kernels for each of them"
        + (
            "; the numbers in CUDA_VISIBLE_DEVICES start with the fastest GPU, unlike the order above"
            if by_number
            else ""
        ),
        remedy="to choose GPUs by the numbers above, run `export CUDA_DEVICE_ORDER=PCI_BUS_ID`, then set "
        "CUDA_VISIBLE_DEVICES",
    )


def _hidden(case: Conclusion) -> Condition | None:
    if case.visible_text is None or not case.gpus:
        return None
    if case.visible.indices == ():
        return Condition(
            code="gpus-hidden",
            symptom="CUDA programs don't see the GPU"
            if len(case.gpus) == 1
            else f"CUDA programs see none of the {len(case.gpus)} GPUs",
            cause=f"CUDA_VISIBLE_DEVICES is `{case.visible_text}`"
            + (f": {case.visible.problem}" if case.visible.problem else ""),
            remedy="to use all, run `unset CUDA_VISIBLE_DEVICES`; to use one, run `export CUDA_VISIBLE_DEVICES=0`",
        )
    if not case.visible.problem:
        return None
    return Condition(
        code="visible-devices",
        symptom="CUDA_VISIBLE_DEVICES doesn't select the GPUs that it seems to select",
        cause=f"CUDA_VISIBLE_DEVICES is `{case.visible_text}`: {case.visible.problem}",
        remedy="list GPUs of this machine, each once, such as `export CUDA_VISIBLE_DEVICES=0`",
    )


def _unreadable(case: Conclusion) -> Condition | None:
    failures = case.evidence.libraries.nvml.failures
    if not failures:
        return None
    return Condition(
        code="gpu-unreadable",
        symptom=f"NVML failed to return some values: {'; '.join(dict.fromkeys(failures))}",
        cause="a GPU is lost or needs a reset, or you don't have permission to read it",
        remedy="compare with `nvidia-smi`, search the output of `sudo dmesg` for NVRM, then reset the GPU or reboot",
    )


def _no_glibc(case: Conclusion) -> Condition | None:
    if not case.evidence.system.platform.startswith("linux-") or case.evidence.system.glibc is not None:
        return None
    return Condition(
        code="no-glibc",
        symptom="this Linux has no glibc (Alpine has musl)",
        cause="PyTorch's wheels and conda-forge's packages for Linux require glibc",
        remedy="use an image with glibc, such as debian or ubuntu",
    )
