"""Read a machine from what other tools print about it: ``nvidia-smi``, Slurm, and Kubernetes.

A fact that the text doesn't contain stays unknown, and each format says so in ``sources``. The text may come from
another computer through a terminal: with a banner above it, colors, Windows line endings, or in UTF-16.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.errors import ESCAPE_SEQUENCE
from envforge.machine.gpu_tables import (
    branch_cuda,
    is_tegra,
    named_capability,
    named_other,
    nearest_branch_cuda,
    other_gpus,
)
from envforge.machine.nvidia_text import (
    SmiReport,
    parse_smi_csv,
    parse_smi_list,
    parse_smi_query,
    parse_smi_table,
    parse_smi_versions,
    parse_smi_xml,
    smi_failure,
)
from envforge.machine.values import PYTHON, Condition, Driver, Gpu, Machine, TextFormatError, clean, driver_text


class Description(Struct, frozen=True, kw_only=True):
    """What a text says about one machine; ``driver`` is None if it doesn't name the driver's version."""

    tool: str
    gpus: tuple[Gpu, ...]
    driver: Version | None = None
    cuda: Version | None = None
    platform: str | None = None
    is_wsl: bool = False
    hostname: str | None = None
    conditions: tuple[Condition, ...] = ()


MOST_GPUS = 1024
_GRES = re.compile(r"(?:gres/)?\bgpu:(?:(?P<type>[A-Za-z0-9][\w.+-]*):)?(?P<count>\d{1,4})\b")
_TRES = re.compile(r"gres/gpu(?::(?P<type>[\w.+-]+))?=(?P<count>\d{1,4})\b")
_SUBDIRS = {"x86_64": "linux-64", "amd64": "linux-64", "aarch64": "linux-aarch64", "arm64": "linux-aarch64"}


class _Node(Struct, frozen=True, kw_only=True):
    """A node of a cluster: its name, architecture, and GPUs as kinds with their number."""

    name: str
    architecture: str
    kinds: tuple[tuple[str, int], ...]


def parse_slurm(text: str, structured: Callable[[str], object]) -> Description | None:
    """Read ``scontrol show node``, also with ``--json``, and tables of ``sinfo`` with a column of generic resources."""
    if text.lstrip().startswith("{"):
        tree = structured(text)
        nodes = tree.get("nodes") if isinstance(tree, dict) else None
        listed = [node for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []
        found = [_slurm_node(_json_fields(node)) for node in listed]
    elif "NodeName=" in text:
        found = [
            _slurm_node({"NodeName": part.split(maxsplit=1)[0], **dict(re.findall(r"(?:^|\s)(\w+)=(\S*)", part))})
            for part in text.split("NodeName=")[1:]
            if part.strip()
        ]
    else:
        rows = [line for line in text.splitlines() if _GRES.search(line)]
        found = [_slurm_node({"NodeName": row.split()[0], "Gres": row}) for row in rows]
        if not found and re.search(r"^.*\bGRES\b", text, re.MULTILINE):
            raise TextFormatError("a node with `gpu` in its generic resources", "none")
    return _from_nodes("Slurm", found) if found else None


def _json_fields(node: Mapping[str, Any]) -> dict[str, str]:
    def joined(name: str) -> str:
        value = node.get(name) or ""
        return ",".join(map(str, value)) if isinstance(value, list) else str(value)

    names = {
        "NodeName": "name",
        "Arch": "architecture",
        "Gres": "gres",
        "CfgTRES": "tres",
        "ActiveFeatures": "features",
    }
    return {field: joined(name) for field, name in names.items()}


def _slurm_node(fields: Mapping[str, str]) -> _Node:
    """Return a node; the type of an untyped GPU is a feature of the node, if one feature is the name of a GPU."""
    gres = fields.get("Gres", "")
    matches = [*_GRES.finditer(gres)] or [*_TRES.finditer(fields.get("CfgTRES", ""))]
    typed = [match for match in matches if match["type"]] or matches
    features = [each for each in fields.get("ActiveFeatures", "").split(",") if named_capability(each)]
    named = features[0] if len(features) == 1 else ""
    return _Node(
        name=clean(fields.get("NodeName", "")),
        architecture=fields.get("Arch", ""),
        kinds=tuple((match["type"] or named, count) for match in typed if (count := int(match["count"]))),
    )


_KEY = re.compile(
    r"(?<![\w./-])(?P<key>(?:nvidia|amd|intel)\.com/[\w.-]+|cloud\.google\.com/gke-accelerator|k8s\.amazonaws\.com/accelerator"
    r"|karpenter\.k8s\.aws/instance-gpu-name|kubernetes\.io/(?:arch|hostname)|gpu\.intel\.com/[\w.-]+)[\"']?"
    r"\s*[=:]\s*[\"']?(?P<value>[^\s\"',}]+)"
)
_NODE = re.compile(r"(?:^|[{,]) *[\"']?kind[\"']?: *[\"']?(?:Node|List)\b", re.MULTILINE)
_PRODUCTS = (
    "nvidia.com/gpu.product",
    "cloud.google.com/gke-accelerator",
    "k8s.amazonaws.com/accelerator",
    "karpenter.k8s.aws/instance-gpu-name",
)


def parse_kubernetes(text: str, structured: Callable[[str], object]) -> Description | None:
    """Read ``kubectl describe node``, and ``kubectl get node`` as YAML, as JSON, or with its labels."""
    if not _NODE.search(text) and not _labels(text):
        return None
    described = re.split(r"(?=^Name:\s)", text, flags=re.MULTILINE)
    lines = [line for line in text.splitlines() if "kubernetes.io/hostname=" in line and "kubernetes.io/arch=" in line]
    if _NODE.search(text):
        # YAML may be several documents, and some may be of other kinds
        documents = [part for part in re.split(r"^---(?:\s.*)?$", text, flags=re.MULTILINE) if _NODE.search(part)]
        parts = [part for document in documents for part in _kubernetes_parts(structured(document))]
    elif len(described) > 1:
        parts = described[1:]
    else:
        parts = lines or [text]
    nodes = [labels for part in parts if (labels := _labels(part))]
    if not nodes:
        raise TextFormatError("a node with a GPU", "no label or resource of one")
    merged = _from_nodes("Kubernetes", [_kubernetes_node(labels) for labels in nodes])
    drivers = {_dotted(labels, "nvidia.com/cuda.driver", "rev") for labels in nodes}
    cudas = {_dotted(labels, "nvidia.com/cuda.runtime", "") for labels in nodes}
    # each driver supports other GPUs, so no single one describes all nodes
    if len(known := sorted(filter(None, drivers))) > 1:
        raise TextFormatError("nodes with one driver", f"drivers {', '.join(map(driver_text, known[:3]))}")
    gpus = _with_labels(merged.gpus, nodes[0]) if len(nodes) == 1 else merged.gpus
    return msgspec.structs.replace(
        merged,
        gpus=gpus,
        # a node whose driver is unknown may have an older one
        driver=None if None in drivers else known[0],
        cuda=None if None in cudas else min(each for each in cudas if each),
    )


def _kubernetes_parts(tree: object) -> Iterator[str]:
    """Yield the labels and resources of each node as lines ``key=value``."""
    if not isinstance(tree, dict):
        raise TextFormatError("a node of Kubernetes", "another document")
    items = tree.get("items") if isinstance(tree.get("items"), list) else [tree]
    for item in items or []:
        tables = [_inside(item, *path) for path in (("metadata", "labels"), ("status", "capacity"))]
        tables.append(_inside(item, "status", "allocatable"))
        yield "\n".join(f"{key}={value}" for table in tables for key, value in table.items())


def _inside(tree: object, *path: str) -> dict[str, Any]:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else {}


def _labels(part: str) -> dict[str, str]:
    """Return the labels and resources of a node, of a resource the last value, which is what it may allocate."""
    found = {match["key"]: clean(match["value"]) for match in _KEY.finditer(part)}
    return found if any(not key.startswith("kubernetes.io/") for key in found) else {}


def _kubernetes_node(labels: Mapping[str, str]) -> _Node:
    product = next((labels[key] for key in _PRODUCTS if key in labels), "")
    counts = [labels.get("nvidia.com/gpu.count", ""), labels.get("nvidia.com/gpu", "")]
    count = next((int(each) for each in counts if re.fullmatch(r"[1-9][0-9]{0,3}", each)), 0)
    has_nvidia = bool(product) or count > 0 or any(key.startswith("nvidia.com/mig-") for key in labels)
    kinds = [(product, count or 1)] if has_nvidia else []
    kinds += [(_other_kind(key, labels), int(each)) for key, each in labels.items() if _is_other(key, each)]
    return _Node(
        name=labels.get("kubernetes.io/hostname", ""),
        architecture=labels.get("kubernetes.io/arch", ""),
        kinds=tuple(kinds),
    )


def _other_kind(key: str, labels: Mapping[str, str]) -> str:
    """Return the vendor of a resource, with the product if a label has it."""
    if key.startswith("amd.com/"):
        return f"amd {labels.get('amd.com/gpu.product-name', '')}".strip()
    return f"intel {labels.get('gpu.intel.com/product', '')}".strip()


def _is_other(key: str, value: str) -> bool:
    # AMD's plugin names the partitions of a GPU by their modes, such as `cpx_nps4`
    is_gpu = re.fullmatch(r"amd\.com/(?:gpu|[sdtqc]px_nps\d)|gpu\.intel\.com/(?:i915|xe)", key) is not None
    return is_gpu and re.fullmatch(r"[1-9][0-9]{0,3}", value) is not None


def _dotted(labels: Mapping[str, str], prefix: str, third: str) -> Version | None:
    """Return a version of the labels of gpu-feature-discovery: in one label, or its numbers in one each."""
    parts = [labels.get(f"{prefix}.{part}", "") for part in ("major", "minor", third)]
    text = labels.get(f"{prefix}-version.full") or ".".join(filter(None, parts))
    return Version(text) if re.fullmatch(r"[0-9]{1,4}(?:\.[0-9]{1,4})+", text) else None


def _with_labels(gpus: tuple[Gpu, ...], labels: Mapping[str, str]) -> tuple[Gpu, ...]:
    major, minor = (labels.get(f"nvidia.com/gpu.compute.{part}", "") for part in ("major", "minor"))
    memory, mig = labels.get("nvidia.com/gpu.memory", ""), labels.get("nvidia.com/mig.strategy")
    is_known = re.fullmatch(r"[0-9]{1,2}\.[0-9]", f"{major}.{minor}") is not None
    stated = ComputeCapability.parse(f"{major}.{minor}") if is_known else None
    is_slice = any(key.startswith("nvidia.com/mig-") for key in labels) or "-MIG-" in labels.get(_PRODUCTS[0], "")
    return tuple(
        msgspec.structs.replace(
            gpu,
            compute_capability=stated,
            # with MIG, the label is the size of a slice
            memory_bytes=int(memory) * 1024 * 1024 if re.fullmatch(r"\d{1,9}", memory) and not is_slice else None,
            mig_enabled=None if mig is None else is_slice,
        )
        for gpu in gpus
    )


def _from_nodes(tool: str, nodes: Sequence[_Node]) -> Description:
    """Return the machine of a node, or one with the GPUs of all nodes, because a build has to run on each of them."""
    with_gpus = [node for node in nodes if node.kinds]
    if not with_gpus:
        names = ", ".join(node.name for node in nodes[:3])
        raise TextFormatError("a node with a GPU", f"none in {names or 'the text'}")
    first = with_gpus[0]
    added = {kind for node in with_gpus[1:] for kind, _ in node.kinds} - {kind for kind, _ in first.kinds}
    # before the names are looked up, which takes seconds for very many
    if (number := sum(count for _, count in first.kinds) + len(added)) > MOST_GPUS:
        raise TextFormatError(f"at most {MOST_GPUS} GPUs", f"{number}")
    kinds = [kind for kind, count in first.kinds for _ in range(count)]
    # of the other nodes only the kinds that are new: how many of them there are changes nothing for a build
    kinds += dict.fromkeys(kind for node in with_gpus[1:] for kind, _ in node.kinds if kind in added)
    others = {kind: other for kind in dict.fromkeys(kinds) if (other := named_other(kind)) is not None}
    if len(others) < len(set(kinds)) and any(all(kind in others for kind, _ in node.kinds) for node in with_gpus):
        raise TextFormatError("nodes with GPUs of NVIDIA", f"also {next(iter(others.values())).name}")
    gpus = [(clean(kind) or "a GPU of unknown type", _numbered(kind)) for kind in kinds if kind not in others]
    platforms = {_SUBDIRS.get(node.architecture.lower()) for node in with_gpus}
    return Description(
        tool=tool,
        gpus=tuple(Gpu(index=index, name=name, compute_capability=known) for index, (name, known) in enumerate(gpus)),
        platform=platforms.pop() if len(platforms) == 1 else None,
        hostname=first.name if len(with_gpus) == 1 and first.name else None,
        conditions=other_gpus(others[kind] for kind in kinds) if not gpus else (),
    )


def _numbered(kind: str) -> ComputeCapability | None:
    """Return the compute capability of a type that is only the number of a GeForce GPU: ``1080ti``, ``3090``."""
    # numbers such as 4000 are those of workstation GPUs of several generations
    if not re.fullmatch(r"(?!\d000)\d{3,4}[\w-]*", kind, re.ASCII):
        return None
    return named_capability(f"gtx {kind}") or named_capability(f"rtx {kind}")


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
        msgspec.structs.replace(gpu, compute_capability=gpu.compute_capability or named_capability(gpu.name))
        for gpu in found.gpus
    )
    if len(gpus) > MOST_GPUS:
        raise TextFormatError(f"at most {MOST_GPUS} GPUs", f"{len(gpus)}")
    on_tegra = any(gpu.compute_capability and is_tegra(gpu.compute_capability) for gpu in gpus)
    # these texts don't state the platform, but Tegra and Grace exist only with Arm
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
    return msgspec.structs.replace(gpu, name=name, **known, mig_devices=gpu.mig_devices or more.mig_devices)


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
