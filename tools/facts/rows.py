"""Define the rows of `data/facts/`: one fact each, with its source and the date when it was checked."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Annotated, TypeVar

import msgspec

from envforge.base.documents import NonEmpty as Text
from envforge.base.documents import Sha256, matching

Dotted = Annotated[str, matching(r"\d+(\.\d+)*", "a version such as `12.4`, as a string")]
Tag = Annotated[str, matching(r"cpu|cu\d{2,}", "`cpu` or a tag such as `cu118`")]
Subdir = Annotated[str, matching(r"[a-z]+-[a-z0-9]+", "a platform such as `linux-64`")]
Md5 = Annotated[str, matching(r"[0-9a-f]{32}", "32 lowercase hexadecimal digits")]

_T = TypeVar("_T")
Some = Annotated[tuple[_T, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A TOML table without unknown keys."""


@dataclass(frozen=True, kw_only=True)
class Fact(Row):
    """A row with its origin."""

    source: Text
    checked: dt.date


@dataclass(frozen=True, kw_only=True)
class Cited(Fact):
    """A fact whose row names its kind of evidence, a row of `evidence.toml`."""

    evidence: Text


@dataclass(frozen=True, kw_only=True)
class Evidence(Row):
    """A kind of evidence; `confirmed` is false if a row of this kind was announced, reported, or inferred."""

    name: Text
    source: Text
    confirmed: bool


@dataclass(frozen=True, kw_only=True)
class Release(Cited):
    """A torch release and the versions that belong to it."""

    torch: Dotted
    date: dt.date
    torchvision: Dotted
    torchaudio: Dotted
    note: Text | None = None


@dataclass(frozen=True, kw_only=True)
class Wheels(Cited):
    """The builds of one release for one platform that have the same properties."""

    platform: Subdir
    tags: Some[Tag]
    pythons: Some[Dotted]
    glibc: Dotted | None = None
    plain: tuple[Text, ...] = ()
    torchaudio: bool = True


@dataclass(frozen=True, kw_only=True)
class Kernels(Cited):
    """The compute capabilities that a tag has kernels (and PTX) for, in every release of the same minor version."""

    tag: Tag
    platforms: Some[Subdir]
    capabilities: Some[Dotted]
    ptx: tuple[Dotted, ...]


@dataclass(frozen=True, kw_only=True)
class Requires(Fact):
    """Conda packages that this release and later ones need, until a later release changes the same package."""

    conda: Some[Text]


@dataclass(frozen=True, kw_only=True)
class Drops(Fact):
    """Conda packages that this release and later ones no longer need."""

    conda: Some[Text]


@dataclass(frozen=True, kw_only=True)
class PipDefault(Fact):
    """The tag of the builds on PyPI, for this release and later ones until one changes the same platform."""

    platforms: Some[Subdir]
    tag: Tag


@dataclass(frozen=True, kw_only=True)
class Toolkit(Cited):
    """The driver that comes with a CUDA toolkit."""

    cuda: Dotted
    linux: Dotted
    windows: Dotted


@dataclass(frozen=True, kw_only=True)
class Family(Cited):
    """The oldest driver that runs every toolkit of a major version."""

    major: int
    linux: Dotted
    windows: Dotted


@dataclass(frozen=True, kw_only=True)
class Branch(Fact):
    """A driver branch (the first number of the driver version) and the newest CUDA version that it supports."""

    driver: int
    cuda: Dotted


@dataclass(frozen=True, kw_only=True)
class CudaFile(Row):
    """A file of `data/facts/cuda`."""

    toolkit: tuple[Toolkit, ...] = ()
    family: tuple[Family, ...] = ()
    branch: tuple[Branch, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReleaseFile(CudaFile):
    """A file of `data/facts/torch`; it may state the CUDA version that the release introduces, too."""

    release: Release
    wheels: Some[Wheels]
    kernels: tuple[Kernels, ...] = ()
    requires: tuple[Requires, ...] = ()
    drops: tuple[Drops, ...] = ()
    pip: tuple[PipDefault, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Capability(Fact):
    """A compute capability; `exact` is true if only a kernel built for exactly this chip runs on it.

    `first_cuda` is the first toolkit that supports it, and `last_driver` the last driver branch, if they are known.
    From `sbsa_cuda` on, a Tegra chip runs the code of the wheels for servers.
    """

    capability: Dotted
    first_cuda: Dotted | None = None
    last_driver: int | None = None
    sbsa_cuda: Dotted | None = None
    gpus: Some[Text]
    exact: bool = False


@dataclass(frozen=True, kw_only=True)
class Tegra(Fact):
    """A Tegra chip as `/proc/device-tree/compatible` names it, and as `nvidia-smi` does."""

    chip: Text
    name: Text
    capability: Dotted


@dataclass(frozen=True, kw_only=True)
class Vendor(Fact):
    """A vendor of other GPUs, by its PCI ID: the builds of PyTorch for them, and their names by their device ID."""

    id: Annotated[str, matching(r"[0-9a-f]{4}", "four lowercase hexadecimal digits")]
    name: Text
    builds: Text
    index: Text
    devices: dict[str, Text]


@dataclass(frozen=True, kw_only=True)
class OtherGpuFile(Row):
    """`other-gpus.toml`."""

    vendor: tuple[Vendor, ...]


@dataclass(frozen=True, kw_only=True)
class PythonDefault(Cited):
    """The newest Python that a new environment gets if the user names none; no tag means every build."""

    tag: Tag | None = None
    at_most: Dotted
    reason: Text


@dataclass(frozen=True, kw_only=True)
class Name(Fact):
    """A package whose name on PyPI differs from its name on conda-forge."""

    python: Text
    conda: Text


@dataclass(frozen=True, kw_only=True)
class EvidenceFile(Row):
    """`evidence.toml`."""

    evidence: tuple[Evidence, ...]


@dataclass(frozen=True, kw_only=True)
class OpenModules(Fact):
    """The oldest GPUs that the open kernel modules of the driver support."""

    first_capability: Dotted


@dataclass(frozen=True, kw_only=True)
class GpuFile(Row):
    """`gpus.toml`."""

    open_modules: OpenModules
    capability: tuple[Capability, ...]
    tegra: tuple[Tegra, ...]


@dataclass(frozen=True, kw_only=True)
class PythonFile(Row):
    """`pythons.toml`; the first rule whose tag matches applies."""

    python_default: tuple[PythonDefault, ...]


@dataclass(frozen=True, kw_only=True)
class NameFile(Row):
    """`names.toml`."""

    package: tuple[Name, ...]


@dataclass(frozen=True, kw_only=True)
class TorchWheel(Row):
    """A wheel on the PyTorch index: torch, torchvision, or a CUDA library, which the index of the tag `index` lists."""

    package: Text
    version: Text
    url: Text
    index: Tag | None = None
    sha256: Sha256
    size: int | None = None
    address_source: Text
    sha256_source: Text
    checked: dt.date


@dataclass(frozen=True, kw_only=True)
class Build(Fact):
    """How the requirements of one torch build differ from the index's build of the same release."""

    version: Text
    like: Text
    without: Text | None = None
    add: tuple[Text, ...] = ()
    add_marker: Text | None = None


@dataclass(frozen=True, kw_only=True)
class Metadata(Fact):
    """The mandatory requirements in the metadata of a wheel on the Python package index."""

    package: Text
    version: Text
    requires: tuple[Text, ...]
    requires_python: Text | None = None


@dataclass(frozen=True, kw_only=True)
class RegistryWheel(Fact):
    """A wheel on the Python package index; `path` is relative to the root of the index's files."""

    package: Text
    version: Text
    path: Text
    sha256: Sha256
    size: int
    requires: tuple[Text, ...]
    requires_python: Text | None = None


@dataclass(frozen=True, kw_only=True)
class TorchWheelFile(Row):
    """`wheels/torch.toml`."""

    wheel: tuple[TorchWheel, ...]
    build: tuple[Build, ...]


@dataclass(frozen=True, kw_only=True)
class MetadataFile(Row):
    """`wheels/metadata.toml`."""

    metadata: tuple[Metadata, ...]


@dataclass(frozen=True, kw_only=True)
class RegistryFile(Row):
    """`wheels/registry.toml`, which `python -m tools.catalogue.read_registry` writes."""

    wheel: tuple[RegistryWheel, ...]


@dataclass(frozen=True, kw_only=True)
class CondaRecord(Fact):
    """A package file of conda-forge: what its `repodata.json` states that a solver and a lockfile need."""

    file: Text
    name: Text
    version: Text
    build: Text
    build_number: int
    noarch: Text | None = None
    depends: tuple[Text, ...]
    constrains: tuple[Text, ...] = ()
    license: Text | None = None
    md5: Md5
    sha256: Sha256
    size: int | None = None
    timestamp: int | None = None  # milliseconds since 1970

    @property
    def date(self) -> dt.date | None:
        """The day on which the package was built, in UTC."""
        if self.timestamp is None:
            return None
        return dt.datetime.fromtimestamp(self.timestamp / 1000, tz=dt.timezone.utc).date()


@dataclass(frozen=True, kw_only=True)
class CondaFile(Row):
    """`conda-forge/<subdir>.toml`."""

    record: tuple[CondaRecord, ...]
