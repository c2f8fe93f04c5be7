"""Read the nodes of a cluster from what Slurm and Kubernetes print: their GPUs, and the driver if a label has it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.gpu_tables import named_capability, named_other, other_gpus
from envforge.machine.nvidia_text import TextFormatError, clean
from envforge.machine.values import Condition, Gpu, driver_text


@dataclass(frozen=True, kw_only=True, slots=True)
class Description:
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


@dataclass(frozen=True, kw_only=True, slots=True)
class _Node:
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
    return dataclasses.replace(
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
        dataclasses.replace(
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
