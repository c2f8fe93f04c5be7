"""Read a machine from what other tools print about it: ``nvidia-smi``, Slurm, and Kubernetes.

A fact that the text doesn't contain stays unknown, and each format says so in ``sources``. The text may come from
another computer through a terminal: with a banner above it, colors, Windows line endings, or in UTF-16.
"""

from __future__ import annotations

import codecs
import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence

from packaging.version import Version

from envforge.errors import ESCAPE_SEQUENCE
from envforge.machine.cluster_text import MOST_GPUS, Description, parse_kubernetes, parse_slurm
from envforge.machine.gpu_tables import branch_cuda, is_tegra, named_capability, nearest_branch_cuda
from envforge.machine.nvidia_text import (
    SmiReport,
    TextFormatError,
    clean,
    parse_smi_csv,
    parse_smi_list,
    parse_smi_query,
    parse_smi_table,
    parse_smi_versions,
    parse_smi_xml,
    smi_failure,
)
from envforge.machine.values import PYTHON, Condition, Driver, Gpu, Machine

_BOMS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# GPUs that exist only beside an Arm processor
_ARM_GPU = re.compile(r"(?<![a-z0-9])g[bh]\d+(?![a-z0-9])", re.IGNORECASE)
_MOST_LINES = 10_000  # of CSV, with banners and `--loop`; more take seconds


def decode(content: bytes) -> str:
    """Return the text of a file: UTF-8, UTF-16 as PowerShell writes it, or a code page, whose table is ASCII anyway."""
    encoding = next((name for bom, name in _BOMS if content.startswith(bom)), "utf-8")
    text = ESCAPE_SEQUENCE.sub("", content.decode(encoding, "replace"))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def describe(text: str, structured: Callable[[str], object]) -> Machine | None:
    """Return the machine of a text in a known format; None if the format is unknown.

    ``structured`` parses JSON and YAML. Raises ``TextFormatError`` if the text names no GPU or is truncated.
    """
    # the forms of CSV are the least certain
    found = _from_smi(text) or parse_kubernetes(text, structured) or parse_slurm(text, structured) or _from_csv(text)
    if found is not None:
        return _machine(found)
    failure = smi_failure(0, text)
    if failure is not None:
        said = next(line for line in text.splitlines() if smi_failure(0, line))
        raise TextFormatError("a GPU", clean(said)[:120])
    return None


def _machine(found: Description) -> Machine:
    gpus = tuple(
        dataclasses.replace(gpu, compute_capability=gpu.compute_capability or named_capability(gpu.name))
        for gpu in found.gpus
    )
    if len(gpus) > MOST_GPUS:
        raise TextFormatError(f"at most {MOST_GPUS} GPUs", f"{len(gpus)}")
    on_tegra = any(gpu.compute_capability and is_tegra(gpu.compute_capability) for gpu in gpus)
    assumed = "linux-aarch64" if on_tegra or any(_ARM_GPU.search(gpu.name) for gpu in gpus) else "linux-64"
    cuda, cuda_source = _cuda(found, is_ordinary=not on_tegra)
    sources = {
        "platform": found.tool if found.platform else f"assumed: {found.tool} doesn't report it",
        "python": f"assumed: {found.tool} doesn't report it",
        "gpus": found.tool,
        "driver.kernel_version": found.tool if found.driver else "",
        "driver.cuda": cuda_source,
        "hostname": found.tool if found.hostname else "",
        "is_wsl": found.tool if found.is_wsl else "",
    }
    return Machine(
        platform=found.platform or assumed,
        python=PYTHON,
        # a driver of unknown version: without a driver, the GPUs wouldn't be listed
        driver=Driver(kernel_version=found.driver, cuda=cuda) if gpus else None,
        gpus=gpus,
        is_wsl=found.is_wsl,
        hostname=found.hostname,
        conditions=found.conditions,
        sources=tuple(sorted((fact, source) for fact, source in sources.items() if source)),
    )


def _cuda(found: Description, *, is_ordinary: bool) -> tuple[Version | None, str]:
    """Return the newest CUDA of the driver; a newer one than its branch has is the one of a compatibility library."""
    linux = is_ordinary and not found.is_wsl and not (found.platform or "").startswith("win-")
    own = branch_cuda(found.driver) if found.driver and linux else None
    if found.cuda is not None and (own is None or found.cuda <= own):
        return found.cuda, found.tool
    cuda = own or (nearest_branch_cuda(found.driver) if found.driver and is_ordinary else None)
    return cuda, "table of driver branches" if cuda else ""


def _from_smi(text: str) -> Description | None:
    reports = [*_smi_reports(text)]
    base = next((report for report in reports if report.gpus), None)
    if base is None and reports:
        raise TextFormatError("a GPU", "none in the output of `nvidia-smi`")
    if base is None:
        return None
    gpus = base.gpus
    for other in reports:
        if len(other.gpus) == len(gpus):
            gpus = tuple(_filled(gpu, more) for gpu, more in zip(gpus, other.gpus, strict=True))
    return Description(
        tool="nvidia-smi",
        gpus=gpus,
        driver=next((report.driver_version for report in reports if report.driver_version), None),
        cuda=next((report.cuda for report in reports if report.cuda), None),
        platform="win-64" if any(report.is_windows for report in reports) else None,
        is_wsl=any(report.is_wsl for report in reports),
        conditions=tuple(_lost(text)),
    )


def _from_csv(text: str) -> Description | None:
    """Read CSV without a header, whose lines are those that look like a GPU."""
    if text.count("\n") > _MOST_LINES:
        return None
    rows = map(_unquoted, text.splitlines())
    found = [row for row in rows if _CSV_ROW.search(row) or named_capability(row)]
    if not found:
        return None
    # a banner may have a number like a compute capability, but not as many fields as the lines that name a GPU
    named = [line for line in found if any(named_capability(cell) for cell in line.split(","))] or found
    lines = [line for line in found if line.count(",") == named[0].count(",")]
    report = parse_smi_csv("\n".join(lines))
    platform = "win-64" if report.is_windows else None
    return Description(tool="nvidia-smi", gpus=report.gpus, driver=report.driver_version, platform=platform)


def _filled(gpu: Gpu, more: Gpu) -> Gpu:
    """Return the GPU with what another report knows of it: the table truncates names, and ``-L`` has UUIDs."""
    fields = ("compute_capability", "uuid", "memory_bytes", "mig_enabled", "pci_bus_id")
    known = {name: getattr(gpu, name) if getattr(gpu, name) is not None else getattr(more, name) for name in fields}
    name = more.name if gpu.name.endswith("...") or gpu.name == "unknown" else gpu.name
    return dataclasses.replace(gpu, name=name, **known, mig_devices=gpu.mig_devices or more.mig_devices)


def _lost(text: str) -> Iterator[Condition]:
    line = next((line for line in text.splitlines() if smi_failure(0, line) == "device-lost"), None)
    if line is not None:
        yield Condition(
            code="gpu-unreadable",
            symptom=f"`nvidia-smi` can't read a GPU: {clean(line)[:120]}",
            cause="the GPU is lost or needs a reset",
            remedy="search the output of `sudo dmesg` for NVRM, then reset the GPU or reboot",
        )


_SMI_STARTS = (
    (r"(?=<\?xml|<nvidia_smi_log)", r"<nvidia_smi_log", parse_smi_xml),
    (r"(?=^=+NVSMI LOG=+)", r"^=+NVSMI LOG=+|^Attached GPUs\s+:", parse_smi_query),
    (r"(?=^\|\s+NVIDIA-SMI\s)", r"^\|\s+NVIDIA-SMI\s", parse_smi_table),
    (r"\Z(?!\Z)", r"^GPU \d{1,4}: ", parse_smi_list),
    (r"\Z(?!\Z)", r"^NVIDIA-SMI version\s+:", parse_smi_versions),
)


def _smi_reports(text: str) -> Iterator[SmiReport]:
    """Yield what each command of ``nvidia-smi`` printed; raise ``TextFormatError`` for two machines."""
    for start, sign, parse in _SMI_STARTS:
        if re.search(sign, text, re.MULTILINE):
            yield _one_of([parse(part) for part in _parts(text, start, sign)])
    if lines := _csv_lines(text):
        yield parse_smi_csv("\n".join(lines))


def _parts(text: str, start: str, sign: str) -> Iterator[str]:
    """Yield each output of a command, without what a terminal prints around XML."""
    for part in re.split(start, text, flags=re.MULTILINE):
        if re.search(sign, part, re.MULTILINE):
            yield part[: part.index("</nvidia_smi_log>") + 17] if "</nvidia_smi_log>" in part else part


def _one_of(reports: Sequence[SmiReport]) -> SmiReport:
    """Return the report, which `nvidia-smi --loop` repeats."""
    kinds = {(report.driver_version, tuple((gpu.name, gpu.pci_bus_id) for gpu in report.gpus)) for report in reports}
    if len(kinds) > 1:
        raise TextFormatError("the output of one machine", f"{len(kinds)} different ones")
    return reports[0]


_CSV_QUOTED = re.compile(r"""(^|,)\s*"([^",]*)"\s*(?=,|$)""")
_CSV_FIELD = re.compile(r"[a-z][\w.]*(?: \[[\w%]+\])?")
_CSV_NAMES = re.compile(r"\b(?:gpu_)?(?:name|uuid)\b|\b(?:driver|kmd)_version\b|\bcompute_cap\b")
_CSV_ROW = re.compile(
    r"(?:^|, ?)(?:(?:NVIDIA|Tesla|GeForce|Quadro|TITAN|GRID) [\w ()./-]{1,60}|GPU-[0-9a-f-]{8,40}|\d{3}\.\d{1,3}\.\d{2}"
    r"|\d{1,2}\.\d)(?:$|, ?)"
)


def _unquoted(line: str) -> str:
    """Return a line of CSV without quotes around its fields, which PowerShell and spreadsheets add."""
    return _CSV_QUOTED.sub(r"\1\2", line).strip()


def _csv_lines(text: str) -> list[str]:
    """Return the lines of CSV from its header on."""
    if text.count("\n") > _MOST_LINES:
        return []
    lines = [line for each in text.splitlines() if (line := _unquoted(each))]
    for at, line in enumerate(lines):
        # field by field, because one pattern for all of them takes exponential time
        if _CSV_NAMES.search(line) and all(_CSV_FIELD.fullmatch(field.strip()) for field in line.split(",")):
            rows = (row for row in lines[at + 1 :] if row.count(",") == line.count(",") or _CSV_ROW.search(row))
            return [line, *rows]
    return []
