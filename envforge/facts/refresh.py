"""Collect the facts that the built-in table lacks: from a PyTorch index, NVIDIA's list, and a team's catalogue.

A source that can't be read is reported, and the others are used. A row that contradicts a pinned row is left out.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator
from email.message import Message

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.requirements import Requirement
from packaging.version import Version

from envforge.base.terms import ComputeCapability, WheelTag
from envforge.base.urls import show_url
from envforge.errors import EnvforgeError, OutsideError
from envforge.facts.nvidia import read_toolkits
from envforge.facts.releases import ReleasedBuild, ReleasedWheel, find_builds, odd_releases, wheels_of
from envforge.facts.wheel import WheelFacts, read_wheel
from envforge.lock.pages import Downloads, IndexFile
from envforge.pytorch.facts_file import BuildKey, BuildRow, FactsFile, ToolkitRow, contradictions, key_of, layered
from envforge.pytorch.matrix import Build, Matrix

_EXACT = re.compile(r"(\d+(?:\.\d+)*)")


class RefreshRequest(Struct, frozen=True, kw_only=True):
    """What to read. ``before`` are the refreshed facts so far, and ``team`` those of the team's catalogue.

    ``registry`` is the simple index of the package registry; None leaves it out.
    """

    matrix: Matrix
    torch_index: str
    registry: str | None
    today: dt.date
    before: FactsFile | None = None
    team: FactsFile | None = None


class Refreshed(Struct, kw_only=True):
    """The new facts; ``rejected`` are rows that were left out, ``unread`` sources that failed, ``read`` the others."""

    facts: FactsFile
    read: list[str] = field(default_factory=list)
    rejected: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def refresh(request: RefreshRequest, downloads: Downloads, say: Callable[[str], None]) -> Refreshed:
    """Return the refreshed facts; raise ``OutsideError`` if no source can be read."""
    return _Refresh(request, downloads, say).run()


class _Refresh:
    def __init__(self, request: RefreshRequest, downloads: Downloads, say: Callable[[str], None]) -> None:
        self._request, self._downloads, self._say = request, downloads, say
        earlier, team = request.before, request.team
        self._builds: dict[BuildKey, BuildRow] = {row.key: row for row in (earlier.builds if earlier else ())}
        self._toolkits: dict[Version, ToolkitRow] = {
            Version(row.cuda): row for row in (earlier.toolkits if earlier else ())
        }
        self._of_team = {row.key for row in (team.builds if team else ())}
        self._pinned = request.matrix if team is None else layered(request.matrix, team, None)
        self._known = {key_of(build): build for build in self._pinned.builds}
        self._result = Refreshed(facts=FactsFile(checked=request.today))

    def run(self) -> Refreshed:
        """Read every source, and return what they have."""
        result, team = self._result, self._request.team
        if team is not None:
            result.rejected += contradictions(self._request.matrix, team)
            self._builds |= {row.key: row for row in team.builds}
            self._toolkits |= {Version(row.cuda): row for row in team.toolkits}
        index = self._request.torch_index
        # first, because a mirror of the index may have to be read by the tags of these toolkits
        self._try("NVIDIA's list of CUDA toolkits", self._read_nvidia)
        self._try(f"the PyTorch index {show_url(index)}", self._read_index)
        if self._request.registry is not None:
            self._try(f"the package index {show_url(self._request.registry)}", self._read_registry)
        if not result.read and team is None:
            raise OutsideError(
                "no source of facts can be read:\n" + "\n".join(f"  {each}" for each in result.unread),
                hint="to use the facts that another computer has exported",
                command="envforge facts import FILE",
                code="no-facts-read",
            )
        result.facts = self._facts()
        return result

    def _facts(self) -> FactsFile:
        """Return the rows that add something to the built-in table and contradict none of its pinned rows."""
        matrix = self._request.matrix
        facts = FactsFile(checked=self._request.today)
        for row in self._builds.values():
            single = replace(facts, builds=(row,))
            if [*contradictions(matrix, single)] or layered(matrix, single, None).builds == matrix.builds:
                continue
            facts = replace(facts, builds=(*facts.builds, row))
        pinned = {row.cuda for row in matrix.toolkits}
        for cuda, toolkit in sorted(self._toolkits.items()):
            more = replace(facts, toolkits=(*facts.toolkits, toolkit))
            if cuda not in pinned and not [*contradictions(matrix, replace(more, builds=()))]:
                facts = more
        return facts

    def _try(self, name: str, read: Callable[[], None]) -> None:
        self._say(f"reading {name}")
        try:
            read()
        except EnvforgeError as error:
            self._result.unread.append(f"{name}: {error.message}")
        else:
            self._result.read.append(name)

    def _read_nvidia(self) -> None:
        pinned = {str(row.cuda) for row in self._pinned.toolkits}
        # older toolkits than the table's have no builds
        oldest = min(row.cuda for row in self._pinned.toolkits)
        for row in read_toolkits(self._downloads, pinned, self._request.today):
            if Version(row.cuda) <= oldest:
                continue
            problems = [*contradictions(self._pinned, FactsFile(checked=row.checked, toolkits=(row,)))]
            self._result.rejected += problems
            if not problems:
                self._toolkits[Version(row.cuda)] = row

    def _read_index(self) -> None:
        torch = self._files("torch")
        self._report_odd(torch, "torch")
        vision, audio = (self._partners(name) for name in ("torchvision", "torchaudio"))
        builds = find_builds(torch, self._pinned.platforms)
        self._drop_gone({found.key for found in builds})
        for found in builds:
            if found.torch < self._pinned.torches[0]:
                continue
            known = self._known.get(found.key)
            # the built-in table states the source of such a row; what the index says now is only compared with it
            if known is not None and known.confirmed and known.capabilities_stated:
                self._check(found, known)
                continue
            row = self._row(found, known, vision, audio)
            if row is not None:
                self._builds[row.key] = row
            elif found.key not in self._of_team:
                self._builds.pop(found.key, None)

    def _drop_gone(self, there: set[BuildKey]) -> None:
        """Drop the earlier rows of builds that the index doesn't have anymore; report those that are from elsewhere."""
        index = show_url(self._request.torch_index)
        for key, row in [*self._builds.items()]:
            if key in there or key in self._of_team:
                continue
            name = f"torch {row.torch} {row.tag} {row.platform}"
            if row.source == index:
                del self._builds[key]
                self._result.notes.append(f"{name} isn't on {index} anymore, or was yanked")
            else:
                self._result.notes.append(f"{name} isn't on {index}; it is kept from {row.source}")

    def _files(self, name: str) -> tuple[IndexFile, ...]:
        """Return the files of a package, from the page of all tags, or if a mirror has none, from those of each tag."""
        index = self._request.torch_index
        page = self._downloads.page(index, name)
        if page.status == 200 and page.files:
            return page.files
        cudas = {*(row.cuda for row in self._pinned.toolkits), *self._toolkits}
        tags = {*map(str, self._pinned.tags), *(str(WheelTag(cuda)) for cuda in cudas)}
        pages = [self._downloads.page(f"{index}/{tag}", name) for tag in sorted(tags)]
        files = tuple(file for each in pages for file in each.files)
        if not files and name == "torch":
            raise OutsideError(f"`{show_url(index)}` has no page of `torch`", code="no-torch-page")
        return files

    def _check(self, found: ReleasedBuild, pinned: Build) -> None:
        """Report what the index states otherwise than a pinned row; the row stays."""
        row = self._stated(found, pinned, (pinned.torchvision, pinned.torchaudio), WheelFacts(cuda=None))
        only = FactsFile(checked=self._request.today, builds=(replace(row, kernels_source=None, ptx=()),))
        self._result.rejected += contradictions(self._pinned, only)

    def _row(self, found: ReleasedBuild, known: Build | None, vision: _Partners, audio: _Partners) -> BuildRow | None:
        name = f"torch {found.torch} {found.tag} {found.platform}"
        earlier = self._builds.get(found.key)
        wheel = None if found.tag == "cpu" else self._kernels(found, earlier, name)
        cuda = WheelTag.parse(found.tag).cuda
        # a wheel in the wrong directory would be installed for a driver that can't run it
        if wheel is not None and wheel.cuda != cuda:
            self._result.rejected.append(f"{name}: its wheel is built for CUDA {wheel.cuda or 'none'}")
            return None
        partners = tuple(each.of(found) for each in (vision, audio))
        if known is not None and known.confirmed:
            partners = known.torchvision, known.torchaudio
        row = self._stated(found, known, (partners[0], partners[1]), wheel)
        problems = [*contradictions(self._pinned, FactsFile(checked=self._request.today, builds=(row,)))]
        self._result.rejected += problems
        if cuda is not None and not row.capabilities:
            self._result.rejected.append(f"{name}: nothing is known about the kernels of CUDA {cuda}")
            return None
        return None if problems else row

    def _stated(
        self,
        found: ReleasedBuild,
        known: Build | None,
        partners: tuple[Version | None, Version | None],
        wheel: WheelFacts | None,
    ) -> BuildRow:
        """Return the row of a build; without the facts of its wheel, its kernels are those of the nearest build."""
        capabilities = wheel.capabilities if wheel is not None else self._nearest_kernels(found, known)
        packages = [("torch", found.torch), ("torchvision", partners[0]), ("torchaudio", partners[1])]
        # the plain names of torchvision and torchaudio are known only for a build of the table
        named = dict.fromkeys(("torchvision", "torchaudio"), found.is_plain)
        if known is not None:
            named = {name: name in known.plain for name in named}
        is_plain = {"torch": found.is_plain, **named}
        plain = tuple(name for name, version in packages if version is not None and is_plain[name])
        texts = [None if each is None else str(each) for each in (*partners, found.glibc)]
        return BuildRow(
            torch=str(found.torch),
            tag=found.tag,
            platform=found.platform,
            torchvision=texts[0],
            torchaudio=texts[1],
            glibc=texts[2],
            pythons=tuple(map(str, found.pythons)),
            capabilities=tuple(map(str, capabilities)),
            ptx=tuple(map(str, wheel.ptx)) if wheel is not None else (),
            plain=plain,  # type: ignore[arg-type] # the names of the family
            source=show_url(self._request.torch_index),
            kernels_source=None if wheel is None else _kernels_source(found),
            checked=self._request.today,
        )

    def _kernels(self, found: ReleasedBuild, earlier: BuildRow | None, name: str) -> WheelFacts | None:
        """Return what a wheel of the build states, or what was read of it before; None if it can't be read."""
        before = None if earlier is None or earlier.kernels_source is None else earlier.build()
        # an imported row may have its kernels from elsewhere
        if before is not None and earlier is not None and earlier.kernels_source == _kernels_source(found):
            return WheelFacts(cuda=before.tag.cuda, capabilities=before.capabilities, ptx=before.ptx)
        self._say(f"reading the kernels of {name}")
        try:
            wheel = read_wheel(self._downloads, found.sample.file, kernels=True)
        except EnvforgeError as error:
            self._result.notes.append(f"{name} stays unverified: {error.message}")
            return None
        if before is not None and earlier is not None:
            texts = [
                _kernels_text(*each) for each in ((before.capabilities, before.ptx), (wheel.capabilities, wheel.ptx))
            ]
            if texts[0] != texts[1]:
                origin = earlier.kernels_source
                self._result.notes.append(f"{name}: {origin} stated {texts[0]}, but its wheel has {texts[1]}")
        return wheel

    def _nearest_kernels(self, found: ReleasedBuild, known: Build | None) -> tuple[object, ...]:
        """Return the kernels of the newest build with the same tag, or else with the nearest older CUDA."""
        if known is not None and known.capabilities:
            return known.capabilities
        cuda = WheelTag.parse(found.tag).cuda
        if cuda is None:
            return ()
        same = [
            build
            for build in self._pinned.builds
            if build.platform == found.platform
            and build.tag.cuda is not None
            and build.tag.cuda.major == cuda.major
            # never from a newer CUDA, whose wheels have kernels that older ones lack
            and build.tag.cuda <= cuda
            and build.capabilities_stated
        ]
        nearest = max(same, key=lambda build: (build.tag.cuda or cuda, build.torch), default=None)
        return () if nearest is None else nearest.capabilities

    def _read_registry(self) -> None:
        """Report releases that the package registry has and the PyTorch index doesn't."""
        page = self._downloads.page(self._request.registry or "", "torch")
        if page.status != 200:
            raise OutsideError(f"`{show_url(page.url)}` returned HTTP {page.status}", code="http-status")
        there = {Version(wheel.version.public) for wheel in wheels_of(page.files, "torch", self._pinned.platforms)}
        if not there:
            raise OutsideError(f"`{show_url(page.url)}` has no wheels of torch", code="no-torch-page")
        known = {*self._pinned.torches, *(row.build().torch for row in self._builds.values())}
        for torch in sorted(there - known):
            if torch > max(self._pinned.torches):
                self._result.notes.append(
                    f"torch {torch} is on the package index, but has no build on the PyTorch index"
                )

    def _partners(self, name: str) -> _Partners:
        files = self._files(name)
        self._report_odd(files, name)
        return _Partners(self._downloads, tuple(wheels_of(files, name, self._pinned.platforms)))

    def _report_odd(self, files: tuple[IndexFile, ...], name: str) -> None:
        """Report the releases that are left out for their version, unless all of the table are newer."""
        known = [version for build in self._pinned.builds if (version := getattr(build, name)) is not None]
        for version in odd_releases(files, name, self._pinned.platforms):
            if version > min(known):
                self._result.rejected.append(f"{name} {version}: expected a version such as `{max(known)}`")


class _Partners:
    """The releases of torchvision or torchaudio that belong to a torch release: those that require exactly it."""

    def __init__(self, downloads: Downloads, wheels: tuple[ReleasedWheel, ...]) -> None:
        self._downloads, self._wheels = downloads, wheels
        self._torches: dict[Version, Version | None] = {}

    def of(self, found: ReleasedBuild) -> Version | None:
        """Return the release for a build, if its index has one for the same tag and platform."""
        there = {
            Version(wheel.version.public): wheel
            for wheel in self._wheels
            if wheel.tag == found.tag and wheel.platform == found.platform
        }
        for version in sorted(there, reverse=True):
            torch = self._torch_of(version, there[version])
            if torch == found.torch:
                return version
            if torch is not None and torch < found.torch:
                return None  # older releases belong to older torch
        return None

    def _torch_of(self, version: Version, wheel: ReleasedWheel) -> Version | None:
        if version not in self._torches:
            try:
                self._torches[version] = _required_torch(self._downloads.metadata(wheel.file))
            except EnvforgeError:
                self._torches[version] = None
        return self._torches[version]


def _kernels_source(found: ReleasedBuild) -> str:
    return f"{show_url(found.sample.file.url)}, list of kernels in torch._C"


def _kernels_text(capabilities: Iterable[ComputeCapability], ptx: Iterable[ComputeCapability]) -> str:
    kernels, ptx_text = (", ".join(map(str, sorted(each))) for each in (capabilities, ptx))
    return f"kernels {kernels}" + (f" and PTX {ptx_text}" if ptx_text else "")


def _required_torch(metadata: Message) -> Version | None:
    """Return the only torch release that the METADATA of a wheel allows."""
    for text in _requirements(metadata):
        pins = [each for each in text.specifier if each.operator == "=="]
        match = _EXACT.match(pins[0].version) if text.name == "torch" and pins else None
        if match is not None:
            return Version(match[1])
    return None


def _requirements(metadata: Message) -> Iterator[Requirement]:
    for text in metadata.get_all("Requires-Dist", []):
        try:
            yield Requirement(text)
        except ValueError:  # noqa: PERF203 - old releases have requirements that aren't valid anymore
            continue
