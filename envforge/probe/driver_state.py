"""Find the condition that best explains why the NVIDIA driver doesn't respond."""

from __future__ import annotations

from envforge.machine import Condition, driver_text
from envforge.probe import libraries
from envforge.probe.evidence import Conclusion


def driver_state(case: Conclusion) -> Condition | None:
    """Return the condition that explains why the driver doesn't respond; None if it does."""
    error = case.evidence.libraries.nvml.error
    if error is None:
        return None if case.evidence.libraries.nvml.gpus else _no_gpu_in_driver(case)
    if error.code in (libraries.HUNG, libraries.CRASHED):
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
            return _no_device(case)
        return _nouveau(case) or _held(case) or _no_module(case)
    if nvml.error is not None and nvml.error.code == libraries.NOT_FOUND:
        return _nvml_missing(case)
    return _nvml_failed(case)


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
    return Condition(
        code="driver-sees-no-gpu",
        symptom="the NVIDIA driver runs, but lists no GPU (nvidia-smi: `No devices were found`)",
        cause="no GPU is assigned to this job (Slurm without --gres=gpu), the GPU failed, or another driver holds it",
        remedy="request a GPU from the scheduler; on your own machine, search the output of `sudo dmesg` for NVRM",
    )


def _broken_library(case: Conclusion) -> Condition:
    error = case.evidence.libraries.nvml.error
    hung = error is not None and error.code == libraries.HUNG
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
    told = (error is not None and error.code == libraries.MISMATCH) or (
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
    if error is None or error.code != libraries.UNKNOWN or not case.evidence.system.has_device_nodes:
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
    return Condition(
        code="no-kernel-module",
        symptom="an NVIDIA GPU is on the PCI bus, but the nvidia kernel module isn't loaded",
        cause="the driver is installed, but its module wasn't built for this kernel, or Secure Boot blocks it"
        if installed
        else "the NVIDIA driver isn't installed, or its module wasn't built for this kernel",
        remedy="install or rebuild the driver (for Secure Boot, enroll its key), then run `sudo modprobe nvidia`",
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
