"""Define the rows of `data/facts/`: one fact each, with its source and the date when it was checked.

pydantic rejects unknown keys and wrong types, so a typing error in a row never reaches the data.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Dotted = Annotated[str, Field(pattern=r"^\d+(\.\d+)*$")]
Tag = Annotated[str, Field(pattern=r"^(cpu|cu\d{2,})$")]
Subdir = Annotated[str, Field(pattern=r"^[a-z]+-[a-z0-9]+$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class Row(BaseModel):
    """A TOML table without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Fact(Row):
    """A row with its origin."""

    source: Text
    checked: dt.date


class Cited(Fact):
    """A fact whose row names its kind of evidence, a row of `evidence.toml`."""

    evidence: Text


class Evidence(Row):
    """A kind of evidence; `confirmed` is false if a row of this kind was announced, reported, or inferred."""

    name: Text
    source: Text
    confirmed: bool


class Release(Cited):
    """A torch release and the versions that belong to it."""

    torch: Dotted
    date: dt.date
    torchvision: Dotted
    torchaudio: Dotted
    note: Text | None = None


class Wheels(Cited):
    """The builds of one release for one platform that have the same properties."""

    platform: Subdir
    tags: list[Tag] = Field(min_length=1)
    pythons: list[Dotted] = Field(min_length=1)
    glibc: Dotted | None = None
    plain: list[Text] = []
    torchaudio: bool = True


class Kernels(Cited):
    """The compute capabilities that a tag has kernels (and PTX) for, in every release of the same minor version."""

    tag: Tag
    platforms: list[Subdir] = Field(min_length=1)
    capabilities: list[Dotted] = Field(min_length=1)
    ptx: list[Dotted]


class Requires(Fact):
    """Conda packages that this release and later ones need, until a later release changes the same package."""

    conda: list[Text] = Field(min_length=1)


class Drops(Fact):
    """Conda packages that this release and later ones no longer need."""

    conda: list[Text] = Field(min_length=1)


class Toolkit(Cited):
    """The driver that comes with a CUDA toolkit."""

    cuda: Dotted
    linux: Dotted
    windows: Dotted


class Family(Cited):
    """The oldest driver that runs every toolkit of a major version."""

    major: int
    linux: Dotted
    windows: Dotted


class Branch(Fact):
    """A driver branch (the first number of the driver version) and the newest CUDA version that it supports."""

    driver: int
    cuda: Dotted


class CudaFile(Row):
    """A file of `data/facts/cuda`."""

    toolkit: list[Toolkit] = []
    family: list[Family] = []
    branch: list[Branch] = []


class ReleaseFile(CudaFile):
    """A file of `data/facts/torch`; it may state the CUDA version that the release introduces, too."""

    release: Release
    wheels: list[Wheels] = Field(min_length=1)
    kernels: list[Kernels] = []
    requires: list[Requires] = []
    drops: list[Drops] = []


class Capability(Fact):
    """A compute capability; `exact` is true if only a kernel built for exactly this chip runs on it."""

    capability: Dotted
    gpus: list[Text] = Field(min_length=1)
    exact: bool = False


class Tegra(Fact):
    """A Tegra chip as `/proc/device-tree/compatible` names it."""

    chip: Text
    capability: Dotted


class PythonDefault(Cited):
    """The newest Python that a new environment gets if the user names none; no tag means every build."""

    tag: Tag | None = None
    at_most: Dotted
    reason: Text


class Name(Fact):
    """A package whose name on PyPI differs from its name on conda-forge."""

    python: Text
    conda: Text


class EvidenceFile(Row):
    """`evidence.toml`."""

    evidence: list[Evidence]


class GpuFile(Row):
    """`gpus.toml`."""

    capability: list[Capability]
    tegra: list[Tegra]


class PythonFile(Row):
    """`pythons.toml`; the first rule whose tag matches applies."""

    python_default: list[PythonDefault]


class NameFile(Row):
    """`names.toml`."""

    package: list[Name]


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


class Build(Fact):
    """How the requirements of one torch build differ from the index's build of the same release."""

    version: Text
    like: Text
    without: Text | None = None
    add: list[Text] = []
    add_marker: Text | None = None


class Metadata(Fact):
    """The mandatory requirements in the metadata of a wheel on the Python package index."""

    package: Text
    version: Text
    requires: list[Text]
    requires_python: Text | None = None


class RegistryWheel(Fact):
    """A wheel on the Python package index; `path` is relative to the root of the index's files."""

    package: Text
    version: Text
    path: Text
    sha256: Sha256
    size: int
    requires: list[Text]
    requires_python: Text | None = None


class TorchWheelFile(Row):
    """`wheels/torch.toml`."""

    wheel: list[TorchWheel]
    build: list[Build]


class MetadataFile(Row):
    """`wheels/metadata.toml`."""

    metadata: list[Metadata]


class RegistryFile(Row):
    """`wheels/registry.toml`, which `python -m tools.catalogue.read_registry` writes."""

    wheel: list[RegistryWheel]


class CondaRecord(Fact):
    """A package file of conda-forge: what its `repodata.json` states that a solver and a lockfile need."""

    file: Text
    name: Text
    version: Text
    build: Text
    build_number: int
    noarch: Text | None = None
    depends: list[Text]
    constrains: list[Text] = []
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


class CondaFile(Row):
    """`conda-forge/<subdir>.toml`."""

    record: list[CondaRecord]
