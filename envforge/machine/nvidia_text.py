"""Parse the text output of the NVIDIA driver and its tools.

Formats seen: drivers 331 to 610, on Linux, Windows, WSL, Jetson, and FreeBSD.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.gpu_tables import named_capability, pci_gpu
from envforge.machine.values import Gpu, MigDevice, TextFormatError, clean, driver_text, parse_version

if TYPE_CHECKING:
    from xml.etree import ElementTree as ET

_MEMORY = re.compile(r"\b(\d{1,12})\s*MiB", re.ASCII)
# "KMD Version" and "CUDA UMD Version" replace the older labels from driver 610 on
_HEADER = re.compile(
    r"NVIDIA-SMI\s+(?P<smi>\S+)\s+(?:Driver|KMD) Version:\s*(?P<driver>\S+)"
    r"(?:\s+CUDA (?:UMD )?Version:\s*(?P<cuda>\S+))?"
)
_MODELS = "WDDM|TCC|MCDM"  # the driver models of Windows
_HEADER_GPU = re.compile(
    rf"^\|\s{{1,3}}(?P<index>\d{{1,4}})\s{{2}}(?P<name>\S.*?)\s+"
    rf"(?P<mode>On|Off|N/A|ERR!|Unknown|{_MODELS})\s+\|\s*(?P<bus>\S+)"
)
_HEADER_MEMORY = re.compile(r"\|\s*\d+MiB\s*/\s*(?P<total>\d{1,12})MiB\s*\|")
_HEADER_MIG = re.compile(r"\|\s*(?P<mode>Enabled|Disabled)\*?\s*\|$")
_MIG_DEVICE = re.compile(r"^\|\s{1,3}(?P<gpu>\d{1,4})(?:\s+\d{1,4}){3}\s*\|\s*\d+MiB\s*/\s*(?P<total>\d{1,12})MiB")
_QUERY_GPU = re.compile(r"GPU (?:[0-9A-Fa-f]{4,8}:)?[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d")
_SLICE_MEMORY = re.compile(r"MIG Device/(?:Shared )?FB Memory Usage/Total")
_LISTED_GPU = re.compile(r"^GPU (?P<index>\d{1,4}): (?P<name>.*?) \((?:UUID: (?P<uuid>[^()]*)|S/N: [^()]*)\)")
_LISTED_MIG = re.compile(r"^\s+MIG (?P<name>\S+)\s+Device\s+\d+: \(UUID: (?P<uuid>[^()]*)\)")
_VERSION_LINE = re.compile(r"^(?:KMD|DRIVER) version\s*:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_CUDA_LINE = re.compile(r"^CUDA (?:UMD )?version\s*:\s*(\S+)", re.IGNORECASE | re.MULTILINE)
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


class SmiReport(Struct, frozen=True, kw_only=True):
    """The driver and the GPUs as ``nvidia-smi`` reports them; in WSL, the driver is the one of Windows."""

    driver_version: Version | None
    cuda: Version | None
    gpus: tuple[Gpu, ...]
    is_windows: bool = False
    is_wsl: bool = False


def parse_smi_xml(text: str) -> SmiReport:
    """Parse the output of ``nvidia-smi -q -x``, which has no compute capability; raise ``TextFormatError``.

    The capability is that of the PCI device ID.
    """
    from xml.etree import ElementTree as ET  # noqa: PLC0415 - needed only if NVML does not respond

    if "<!ENTITY" in text:  # the driver defines none, and their expansion may not end
        raise TextFormatError("the XML of `nvidia-smi -q -x`", "a definition of an entity")
    try:
        top = ET.fromstring(text)  # noqa: S314 - the output of a program of the driver on this machine
    except ET.ParseError as error:
        raise TextFormatError("the XML of `nvidia-smi -q -x`", f"invalid XML: {error}") from error
    if top.tag != "nvidia_smi_log":
        raise TextFormatError("`<nvidia_smi_log>`", f"<{top.tag}>")
    return SmiReport(
        driver_version=parse_version(top.findtext("kmd_version") or top.findtext("driver_version")),
        cuda=parse_version(top.findtext("cuda_umd_version") or top.findtext("cuda_version")),
        gpus=tuple(_xml_gpu(index, element) for index, element in enumerate(top.findall("gpu"))),
        is_windows=any(re.match(_MODELS, model.text or "") for model in top.iterfind("gpu/driver_model/current_dm")),
    )


def _xml_gpu(index: int, element: ET.Element) -> Gpu:
    mig = _value(element.findtext("mig_mode/current_mig"))
    name = clean(element.findtext("product_name") or "") or "unknown"
    return Gpu(
        index=index,
        name=name,
        compute_capability=_device_capability(element.findtext("pci/pci_device_id")),
        uuid=_value(element.findtext("uuid")),
        memory_bytes=_memory(element.findtext("fb_memory_usage/total")),
        mig_enabled=None if mig is None else mig == "Enabled",
        pci_bus_id=_value(element.get("id")),
        mig_devices=tuple(
            MigDevice(memory_bytes=_memory(device.findtext("fb_memory_usage/total")))
            for device in element.findall("mig_devices/mig_device")
        ),
    )


def _device_capability(text: str | None) -> ComputeCapability | None:
    """Return the capability of a PCI device ID such as ``0x1F0210DE``: the device's number, and the vendor's.

    Virtual machines may have zeros.
    """
    known = pci_gpu((text or "").lower().removeprefix("0x")[:4])
    return known.compute_capability if known else None


def _value(text: str | None) -> str | None:
    text = clean(text or "")
    return None if text in {"", "N/A", "ERR!", "Unknown"} or text.startswith("[") else text


def _memory(text: str | None) -> int | None:
    match = _MEMORY.search(text or "")
    return int(match[1]) * 1024 * 1024 if match else None


def parse_smi_table(text: str) -> SmiReport:
    """Parse the table of plain ``nvidia-smi``, which truncates long GPU names (``NVIDIA GeForce RTX 2080 ...``)."""
    header = _HEADER.search(text)
    if header is None:
        raise TextFormatError("the table of `nvidia-smi`", clean(text)[:80])
    gpus: dict[int, Gpu] = {}
    models: set[str] = set()
    current: Gpu | None = None
    for line in text.splitlines():
        if match := _HEADER_GPU.match(line):
            current = Gpu(index=int(match["index"]), name=clean(match["name"]), pci_bus_id=_value(match["bus"]))
            models.add(match["mode"])
        elif line.startswith("+"):  # below a GPU
            current = None
        elif current is not None:
            current = _below(current, line.rstrip())
        elif (mig := _MIG_DEVICE.match(line)) and int(mig["gpu"]) in gpus:
            gpu = gpus[int(mig["gpu"])]
            device = MigDevice(memory_bytes=int(mig["total"]) * 1024 * 1024)
            gpus[gpu.index] = msgspec.structs.replace(gpu, mig_devices=(*gpu.mig_devices, device))
        if current is not None:
            gpus[current.index] = current
    driver = parse_version(header["driver"])
    tool = parse_version(header["smi"])
    return SmiReport(
        driver_version=driver,
        cuda=parse_version(header["cuda"]),
        gpus=tuple(gpus.values()),
        is_windows=any(re.fullmatch(_MODELS, model) for model in models),
        # the tool comes with WSL, and the driver with Windows
        is_wsl=driver is not None and tool is not None and driver != tool and len(driver.release) == 2,
    )


def _below(gpu: Gpu, line: str) -> Gpu:
    """Return the GPU with what another line of its cell says: its memory, and from driver 450 on its MIG mode."""
    if total := _HEADER_MEMORY.search(line):
        return msgspec.structs.replace(gpu, memory_bytes=int(total["total"]) * 1024 * 1024)
    mode = _HEADER_MIG.search(line)
    return msgspec.structs.replace(gpu, mig_enabled=mode["mode"] == "Enabled") if mode else gpu


def parse_smi_query(text: str) -> SmiReport:
    """Parse the output of ``nvidia-smi -q``, of which the capability is that of the PCI device ID."""
    gpus: dict[str, dict[str, list[str]]] = {}
    top: dict[str, str] = {}
    for path, value in _query_items(text):
        head, _, rest = path.partition("/")
        if _QUERY_GPU.fullmatch(head):
            gpus.setdefault(head, {}).setdefault(rest, []).append(value)
        elif not rest:
            top.setdefault(head, value)
    if "Driver Version" not in top and "KMD Version" not in top:
        raise TextFormatError("the output of `nvidia-smi -q`", clean(text)[:80])
    models = [model for values in gpus.values() for model in values.get("Driver Model/Current", ())]
    return SmiReport(
        driver_version=parse_version(top.get("KMD Version") or top.get("Driver Version")),
        cuda=parse_version(top.get("CUDA UMD Version") or top.get("CUDA Version")),
        gpus=tuple(_query_gpu(index, *block) for index, block in enumerate(gpus.items())),
        is_windows=any(re.match(_MODELS, model) for model in models),
    )


def _query_items(text: str) -> Iterator[tuple[str, str]]:
    """Yield each line as its path and value; a heading has no value, and stands above lines that are indented more."""
    headings: list[tuple[int, str]] = []
    for line in filter(str.strip, text.splitlines()):
        key, found, value = line.partition(" : ")
        indent = len(line) - len(line.lstrip())
        while headings and headings[-1][0] >= indent:
            headings.pop()
        yield "/".join([*(heading for _, heading in headings), key.strip()]), value.strip()
        if not found:
            headings.append((indent, key.strip()))


def _query_gpu(index: int, heading: str, values: Mapping[str, Sequence[str]]) -> Gpu:
    def value(path: str) -> str | None:
        return _value(values.get(path, [None])[0])

    mig = value("MIG Mode/Current")
    slices = [found for path, found in values.items() if _SLICE_MEMORY.fullmatch(path)]
    return Gpu(
        index=index,
        name=value("Product Name") or "unknown",
        compute_capability=_device_capability(value("PCI/Device Id")),
        uuid=value("GPU UUID"),
        memory_bytes=_memory(value("FB Memory Usage/Total")),
        mig_enabled=None if mig is None else mig == "Enabled",
        pci_bus_id=heading.removeprefix("GPU "),
        mig_devices=tuple(MigDevice(memory_bytes=_memory(each)) for found in slices for each in found),
    )


def parse_smi_list(text: str) -> SmiReport:
    """Parse the output of ``nvidia-smi -L``: each GPU with its UUID, and its MIG devices; it has no driver."""
    gpus: list[tuple[Gpu, list[MigDevice]]] = []
    for line in text.splitlines():
        if match := _LISTED_GPU.match(line):
            gpu = Gpu(index=int(match["index"]), name=clean(match["name"]), uuid=_value(match["uuid"]))
            gpus.append((gpu, []))
        elif (mig := _LISTED_MIG.match(line)) and gpus:
            gpus[-1][1].append(MigDevice(name=f"MIG {clean(mig['name'])}", uuid=_value(mig["uuid"])))
    if not gpus:
        raise TextFormatError("the output of `nvidia-smi -L`", clean(text[:800])[:80])
    found = (
        msgspec.structs.replace(gpu, mig_enabled=bool(mig) or gpu.mig_enabled, mig_devices=tuple(mig))
        for gpu, mig in gpus
    )
    return SmiReport(driver_version=None, cuda=None, gpus=tuple(found))


def parse_smi_csv(text: str) -> SmiReport:
    """Parse the output of ``nvidia-smi --query-gpu=... --format=csv``, with or without a header and units.

    The fields may be in any order. Without a header, the form of a value says what it is.
    """
    rows = [[cell.strip() for cell in line.split(",")] for line in text.splitlines() if line.strip()]
    names = [re.sub(r" \[.*\]$", "", cell) for cell in rows[0]] if rows else []
    has_header = any(name in _CSV_FIELDS for name in names)
    gpus, drivers, models = [], [], []
    # a loop over several machines repeats the header
    for position, row in enumerate([row for row in rows if row != rows[0]] if has_header else rows):
        if has_header and len(row) != len(names):
            raise TextFormatError(f"{len(names)} fields", clean(",".join(row))[:80])
        cells = dict(zip(names, row, strict=True)) if has_header else _guess_cells(row)
        gpus.append(_csv_gpu(position, cells))
        drivers.append(parse_version(cells.get("kmd_version")) or parse_version(cells.get("driver_version")))
        models.append(cells.get("driver_model.current", ""))
    if not gpus or not any(gpu.name != "unknown" or gpu.compute_capability for gpu in gpus):
        raise TextFormatError("the name or the compute capability of a GPU", clean(text)[:80])
    known = [*dict.fromkeys(filter(None, drivers))]
    if len(known) > 1:
        raise TextFormatError("the output of one machine", f"drivers {' and '.join(map(driver_text, known[:3]))}")
    return SmiReport(
        driver_version=known[0] if known else None,
        cuda=None,
        gpus=tuple(gpus),
        is_windows=any(re.match(_MODELS, model) for model in models),
    )


_CSV_FIELDS = ("name", "gpu_name", "driver_version", "kmd_version", "compute_cap", "uuid", "gpu_uuid", "index")
_CAPABILITY = r"[0-9]{1,2}\.[0-9]"
_CSV_FORMS = {
    "uuid": r"GPU-[0-9a-fA-F-]+",
    "pci.bus_id": r"[0-9A-Fa-f]{4,8}:[0-9A-Fa-f]{2}:[0-9A-Fa-f]{2}\.\d",
    "pci.device_id": r"0x[0-9A-Fa-f]{4}10DE",
    "driver_version": r"\d{3}\.\d{1,3}\.\d{1,3}|[3-9]\d\d\.(?!00)\d\d",  # the second is Windows', or a power limit
    "compute_cap": _CAPABILITY,
    "memory.total": r"\d{1,12} MiB",
    "driver_model.current": _MODELS,
    "name": r"(?:NVIDIA|Tesla|GeForce|Quadro|TITAN|GRID|Orin|Graphics Device)\b.*",
}


def _guess_cells(row: Sequence[str]) -> dict[str, str]:
    """Return the values of a row whose header is missing; a value that could be two fields is left out."""
    found: dict[str, set[str]] = {}
    for cell in row:
        name = next((name for name, form in _CSV_FORMS.items() if re.fullmatch(form, cell)), None)
        name = name or ("name" if named_capability(cell) else None)
        if name is not None:
            found.setdefault(name, set()).add(cell)
    sizes = sorted(found.pop("memory.total", ()), key=lambda size: _memory(size) or 0)
    cells = {name: values.pop() for name, values in found.items() if len(values) == 1}
    if sizes:
        cells["memory.total"] = sizes[-1]  # more than is used or free
    return cells


def _csv_gpu(position: int, cells: Mapping[str, str]) -> Gpu:
    index, capability = cells.get("index", ""), cells.get("compute_cap", "")
    mig, memory = _value(cells.get("mig.mode.current")), cells.get("memory.total", "")
    stated = ComputeCapability.parse(capability) if re.fullmatch(_CAPABILITY, capability) else None
    return Gpu(
        index=int(index) if re.fullmatch(r"[0-9]{1,4}", index) else position,
        name=_value(cells.get("name") or cells.get("gpu_name")) or "unknown",
        compute_capability=stated or _device_capability(cells.get("pci.device_id")),
        uuid=_value(cells.get("uuid") or cells.get("gpu_uuid")),
        memory_bytes=_memory(memory if memory.endswith("MiB") else f"{memory} MiB"),
        mig_enabled=None if mig is None else mig == "Enabled",
        pci_bus_id=_value(cells.get("pci.bus_id") or cells.get("gpu_bus_id")),
    )


def parse_smi_versions(text: str) -> SmiReport:
    """Parse the output of ``nvidia-smi --version``; its report has no GPU."""
    driver, cuda = _VERSION_LINE.findall(text), _CUDA_LINE.findall(text)
    versions = [version for each in driver if (version := parse_version(each)) is not None]
    if not versions:
        raise TextFormatError("the output of `nvidia-smi --version`", clean(text)[:80])
    return SmiReport(driver_version=versions[0], cuda=next(filter(None, map(parse_version, cuda)), None), gpus=())


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
