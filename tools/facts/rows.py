"""Define the rows of `data/facts/`: one fact each, with its source and the date when it was checked."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, TypeVar

import msgspec
from msgspec import Struct

from envforge.base.documents import NonEmpty as Text
from envforge.base.documents import Sha256, matching

Dotted = Annotated[str, matching(r"\d+(\.\d+)*", "a version such as `12.4`, as a string")]
Tag = Annotated[str, matching(r"cpu|cu\d{2,}", "`cpu` or a tag such as `cu118`")]
Subdir = Annotated[str, matching(r"[a-z]+-[a-z0-9]+", "a platform such as `linux-64`")]
Md5 = Annotated[str, matching(r"[0-9a-f]{32}", "32 lowercase hexadecimal digits")]

_T = TypeVar("_T")
Some = Annotated[tuple[_T, ...], msgspec.Meta(min_length=1)]


class Row(Struct, frozen=True, kw_only=True):
    """A TOML table without unknown keys."""


class Fact(Row, frozen=True, kw_only=True):
    """A row with its origin."""

    source: Text
    checked: dt.date


class Cited(Fact, frozen=True, kw_only=True):
    """A fact whose row names its kind of evidence, a row of `evidence.toml`."""

    evidence: Text


class Evidence(Row, frozen=True, kw_only=True):
    """A kind of evidence; `confirmed` is false if a row of this kind was announced, reported, or inferred."""

    name: Text
    source: Text
    confirmed: bool


class Release(Cited, frozen=True, kw_only=True):
    """A torch release and the versions that belong to it."""

    torch: Dotted
    date: dt.date
    torchvision: Dotted
    torchaudio: Dotted
    note: Text | None = None


class Wheels(Cited, frozen=True, kw_only=True):
    """The builds of one release for one platform that have the same properties."""

    platform: Subdir
    tags: Some[Tag]
    pythons: Some[Dotted]
    glibc: Dotted | None = None
    plain: tuple[Text, ...] = ()
    torchaudio: bool = True


class Kernels(Cited, frozen=True, kw_only=True):
    """The compute capabilities that a tag has kernels (and PTX) for, in every release of the same minor version."""

    tag: Tag
    platforms: Some[Subdir]
    capabilities: Some[Dotted]
    ptx: tuple[Dotted, ...]


class Requires(Fact, frozen=True, kw_only=True):
    """Conda packages that this release and later ones need, until a later release changes the same package."""

    conda: Some[Text]


class Drops(Fact, frozen=True, kw_only=True):
    """Conda packages that this release and later ones no longer need."""

    conda: Some[Text]


class PipDefault(Fact, frozen=True, kw_only=True):
    """The tag of the builds on PyPI, for this release and later ones until one changes the same platform."""

    platforms: Some[Subdir]
    tag: Tag


class Toolkit(Cited, frozen=True, kw_only=True):
    """The driver that comes with a CUDA toolkit."""

    cuda: Dotted
    linux: Dotted
    windows: Dotted


class Family(Cited, frozen=True, kw_only=True):
    """The oldest driver that runs every toolkit of a major version."""

    major: int
    linux: Dotted
    windows: Dotted


class Branch(Fact, frozen=True, kw_only=True):
    """A driver branch (the first number of the driver version) and the newest CUDA version that it supports."""

    driver: int
    cuda: Dotted


class CudaFile(Row, frozen=True, kw_only=True):
    """A file of `data/facts/cuda`."""

    toolkit: tuple[Toolkit, ...] = ()
    family: tuple[Family, ...] = ()
    branch: tuple[Branch, ...] = ()


class ReleaseFile(CudaFile, frozen=True, kw_only=True):
    """A file of `data/facts/torch`; it may state the CUDA version that the release introduces, too."""

    release: Release
    wheels: Some[Wheels]
    kernels: tuple[Kernels, ...] = ()
    requires: tuple[Requires, ...] = ()
    drops: tuple[Drops, ...] = ()
    pip: tuple[PipDefault, ...] = ()


class Capability(Fact, frozen=True, kw_only=True):
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


class Tegra(Fact, frozen=True, kw_only=True):
    """A Tegra chip as `/proc/device-tree/compatible` names it, and as `nvidia-smi` does."""

    chip: Text
    name: Text
    capability: Dotted


class Vendor(Fact, frozen=True, kw_only=True):
    """A vendor of other GPUs, by its PCI ID: the builds of PyTorch for them, and their names by their device ID."""

    id: Annotated[str, matching(r"[0-9a-f]{4}", "four lowercase hexadecimal digits")]
    name: Text
    builds: Text
    index: Text
    devices: dict[str, Text]


class OtherGpuFile(Row, frozen=True, kw_only=True):
    """`other-gpus.toml`."""

    vendor: tuple[Vendor, ...]


class PythonDefault(Cited, frozen=True, kw_only=True):
    """The newest Python that a new environment gets if the user names none; no tag means every build."""

    tag: Tag | None = None
    at_most: Dotted
    reason: Text


class Name(Fact, frozen=True, kw_only=True):
    """A package whose name on PyPI differs from its name on conda-forge."""

    python: Text
    conda: Text


class EvidenceFile(Row, frozen=True, kw_only=True):
    """`evidence.toml`."""

    evidence: tuple[Evidence, ...]


class OpenModules(Fact, frozen=True, kw_only=True):
    """The oldest GPUs that the open kernel modules of the driver support."""

    first_capability: Dotted


class GpuFile(Row, frozen=True, kw_only=True):
    """`gpus.toml`."""

    open_modules: OpenModules
    capability: tuple[Capability, ...]
    tegra: tuple[Tegra, ...]


class PythonFile(Row, frozen=True, kw_only=True):
    """`pythons.toml`; the first rule whose tag matches applies."""

    python_default: tuple[PythonDefault, ...]


class NameFile(Row, frozen=True, kw_only=True):
    """`names.toml`."""

    package: tuple[Name, ...]


class TorchWheel(Row, frozen=True, kw_only=True):
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


class Build(Fact, frozen=True, kw_only=True):
    """How the requirements of one torch build differ from the index's build of the same release."""

    version: Text
    like: Text
    without: Text | None = None
    add: tuple[Text, ...] = ()
    add_marker: Text | None = None


class Metadata(Fact, frozen=True, kw_only=True):
    """The mandatory requirements in the metadata of a wheel on the Python package index."""

    package: Text
    version: Text
    requires: tuple[Text, ...]
    requires_python: Text | None = None


class RegistryWheel(Fact, frozen=True, kw_only=True):
    """A wheel on the Python package index; `path` is relative to the root of the index's files."""

    package: Text
    version: Text
    path: Text
    sha256: Sha256
    size: int
    requires: tuple[Text, ...]
    requires_python: Text | None = None


class TorchWheelFile(Row, frozen=True, kw_only=True):
    """`wheels/torch.toml`."""

    wheel: tuple[TorchWheel, ...]
    build: tuple[Build, ...]


class MetadataFile(Row, frozen=True, kw_only=True):
    """`wheels/metadata.toml`."""

    metadata: tuple[Metadata, ...]


class RegistryFile(Row, frozen=True, kw_only=True):
    """`wheels/registry.toml`, which `python -m tools.catalogue.read_registry` writes."""

    wheel: tuple[RegistryWheel, ...]


class CondaRecord(Fact, frozen=True, kw_only=True):
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


class CondaFile(Row, frozen=True, kw_only=True):
    """`conda-forge/<subdir>.toml`."""

    record: tuple[CondaRecord, ...]
