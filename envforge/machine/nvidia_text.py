"""Parse the text output of the NVIDIA driver and its tools.

Formats seen: drivers 418 to 610, on Linux, Windows, WSL, and Jetson.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.gpu_tables import pci_gpu
from envforge.machine.values import Gpu, MigDevice

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

# numbers are limited, because Python rejects those of thousands of digits
_NUMBERS = re.compile(r"\d{1,9}(?:\.\d{1,9})+")
_KERNEL_MODULE = re.compile(r"Kernel Module(?:\s+for\s+\S+)?\s+(\d{3}\.\d{1,9}(?:\.\d{1,9})*)")
_LIBRARY = re.compile(r"lib(?:nvidia-ml|cuda)\.so\.(\d{3}\.\d{1,9}(?:\.\d{1,9})*)$")
_NVML = re.compile(r"(?:\d{1,2}\.)?(\d{3}\.\d{1,9}(?:\.\d{1,9})*)")
_MEMORY = re.compile(r"\b(\d{1,12})\s*MiB", re.ASCII)
# "KMD Version" and "CUDA UMD Version" replace the older labels from driver 610 on
_HEADER = re.compile(
    r"NVIDIA-SMI\s+(?P<smi>\S+)\s+(?:Driver|KMD) Version:\s*(?P<driver>\S+)"
    r"(?:\s+CUDA (?:UMD )?Version:\s*(?P<cuda>\S+))?"
)
_HEADER_GPU = re.compile(
    r"^\|\s{1,3}(?P<index>\d{1,4})\s{2}(?P<name>\S.*?)\s+(?:On|Off|N/A|WDDM|TCC|MCDM)\s+\|\s*(?P<bus>\S+)"
)
_HEADER_MEMORY = re.compile(r"\|\s*\d+MiB\s*/\s*(?P<total>\d{1,12})MiB\s*\|")
# control characters, and the marks that change the direction of text
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_FAILURES = (
    ("driver/library version mismatch", "driver-library-mismatch"),
    ("couldn't communicate with the nvidia driver", "driver-not-loaded"),
    ("driver not loaded", "driver-not-loaded"),
    ("no devices were found", "no-devices"),
    ("insufficient permissions", "no-permission"),
    ("unable to determine the device handle", "device-lost"),
    ("couldn't find libnvidia-ml.so", "library-not-found"),
    ("failed to initialize nvml", "nvml-failed"),
)
_EXIT_CODES = {6: "no-devices", 9: "driver-not-loaded", 12: "library-not-found", 15: "device-lost"} | {
    18: "driver-library-mismatch",
    127: "not-installed",
}


class TextFormatError(ValueError):
    """Output of the driver in an unknown format; the message contains expected and found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SmiReport:
    """The driver and the GPUs as ``nvidia-smi`` reports them."""

    driver_version: Version | None
    cuda: Version | None
    gpus: tuple[Gpu, ...]


def clean(text: str) -> str:
    """Remove control characters, because names from the machine are printed to terminals and logs."""
    return _CONTROL.sub("", text).strip()


def parse_version(text: str | None) -> Version | None:
    """Return the version that starts a value such as ``610.57.04 [Deprecated; ...]``; None for ``N/A`` or ``ERR!``."""
    match = _NUMBERS.match(text.strip()) if text else None
    return Version(match[0]) if match else None


def parse_proc_version(text: str) -> Version:
    """Return the version in ``/proc/driver/nvidia/version`` (proprietary or open module); raise ``TextFormatError``."""
    match = _KERNEL_MODULE.search(text)
    if match is None:
        raise TextFormatError(f"expected `Kernel Module  535.216.01`, found `{clean(text)[:80]}`")
    return Version(match[1])


def parse_library_file(path: str) -> Version | None:
    """Return the driver version in the name of a library file such as ``libcuda.so.535.216.01``."""
    match = _LIBRARY.search(path)
    return Version(match[1]) if match else None


def parse_nvml_version(text: str) -> Version | None:
    """Return the driver version in an NVML version such as ``12.535.216.01``, without the CUDA major version."""
    match = _NVML.fullmatch(text.strip())
    return Version(match[1]) if match else None


def parse_smi_xml(text: str) -> SmiReport:
    """Parse the output of ``nvidia-smi -q -x``, which has no compute capability; raise ``TextFormatError``.

    The capability is that of the PCI device ID.
    """
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - needed only if NVML does not respond

    try:
        top = ET.fromstring(text)  # noqa: S314 - the output of a program of the driver on this machine
    except ET.ParseError as error:
        raise TextFormatError(f"expected the XML of `nvidia-smi -q -x`, found invalid XML: {error}") from error
    if top.tag != "nvidia_smi_log":
        raise TextFormatError(f"expected `<nvidia_smi_log>`, found `<{top.tag}>`")
    return SmiReport(
        driver_version=parse_version(top.findtext("kmd_version") or top.findtext("driver_version")),
        cuda=parse_version(top.findtext("cuda_umd_version") or top.findtext("cuda_version")),
        gpus=tuple(_xml_gpu(index, element) for index, element in enumerate(top.findall("gpu"))),
    )


def _xml_gpu(index: int, element: ET.Element) -> Gpu:
    mig = _value(element.findtext("mig_mode/current_mig"))
    # the device's number and the vendor's, such as 1F0210DE; virtual machines may have zeros
    known = pci_gpu((element.findtext("pci/pci_device_id") or "").removeprefix("0x")[:4])
    return Gpu(
        index=index,
        name=clean(element.findtext("product_name") or "") or "unknown",
        compute_capability=known.compute_capability if known else None,
        uuid=_value(element.findtext("uuid")),
        memory_bytes=_memory(element.findtext("fb_memory_usage/total")),
        mig_enabled=None if mig is None else mig == "Enabled",
        pci_bus_id=_value(element.get("id")),
        mig_devices=tuple(
            MigDevice(memory_bytes=_memory(device.findtext("fb_memory_usage/total")))
            for device in element.findall("mig_devices/mig_device")
        ),
    )


def _value(text: str | None) -> str | None:
    text = clean(text or "")
    return None if text in {"", "N/A", "[N/A]"} or text.startswith("[") else text


def _memory(text: str | None) -> int | None:
    match = _MEMORY.search(text or "")
    return int(match[1]) * 1024 * 1024 if match else None


def parse_smi_table(text: str) -> SmiReport:
    """Parse the table of plain ``nvidia-smi``, which truncates long GPU names (``NVIDIA GeForce RTX 2080 ...``)."""
    header = _HEADER.search(text)
    if header is None:
        raise TextFormatError(f"expected the table of `nvidia-smi`, found `{clean(text)[:80]}`")
    gpus: list[Gpu] = []
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        match = _HEADER_GPU.match(line)
        if match is not None:
            total = _HEADER_MEMORY.search(following)
            gpus.append(
                Gpu(
                    index=int(match["index"]),
                    name=clean(match["name"]),
                    compute_capability=None,
                    memory_bytes=int(total["total"]) * 1024 * 1024 if total else None,
                    pci_bus_id=_value(match["bus"]),
                )
            )
    return SmiReport(
        driver_version=parse_version(header["driver"]), cuda=parse_version(header["cuda"]), gpus=tuple(gpus)
    )


def parse_compute_capabilities(text: str) -> dict[int, ComputeCapability]:
    """Parse ``nvidia-smi --query-gpu=index,compute_cap --format=csv,noheader``, new in driver 510 or so."""
    found: dict[int, ComputeCapability] = {}
    for line in text.splitlines():
        index, _, capability = line.partition(",")
        if re.fullmatch(r"\s*[0-9]{1,4}\s*", index) and re.fullmatch(r"\d{1,2}\.\d", capability.strip()):
            found[int(index)] = ComputeCapability.parse(capability)
    return found


def smi_failure(exit_code: int, output: str) -> str | None:
    """Return why ``nvidia-smi`` printed no table, as a keyword; None if it did.

    Source of messages and codes: the RETURN VALUE section of its manual page (6, 9, 12, 15), public reports (18).
    """
    lowered = output.lower()
    for words, failure in _FAILURES:
        if words in lowered:
            return failure
    return None if exit_code == 0 else _EXIT_CODES.get(exit_code, "failed")
