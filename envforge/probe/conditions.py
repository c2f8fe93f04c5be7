"""Find the conditions that keep programs from the GPU, each with its symptom, cause, and remedy."""

from __future__ import annotations

from envforge.machine import Condition, driver_text
from envforge.machine.nvidia_text import parse_library_file
from envforge.probe.driver_state import driver_state
from envforge.probe.evidence import Conclusion


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
    return tuple(condition for condition in found if condition is not None)


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
    return Condition(
        code="jetson",
        symptom=f"this is {jetson.model}: its GPU is part of the chip, and NVML reports little or nothing about it",
        cause="Jetson has its own driver (JetPack), and PyTorch's aarch64 wheels are built for servers",
        remedy="use the PyTorch wheels that NVIDIA builds for your JetPack, or a JetPack with CUDA 13 or later",
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
