"""Serve the package index that conda-lock reads during a lock.

Each index has PEP 503 pages and PEP 658 metadata, and one source for each name: the PyTorch index for the torch family,
an empty stand-in for what conda provides, and the other indexes for other names. It offers one wheel per version: the
one that fits the platform best, under a name that every resolver accepts. Tags and markers are those of the platform,
its Python, and its virtual packages, not of the machine that locks.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections.abc import Callable, Mapping
from functools import cached_property, lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field
from msgspec.structs import replace
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags, mac_platforms
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_name,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import Version

from envforge.base.net import credentials_hints
from envforge.base.urls import show_url, without_user
from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.condalock import Solve, SolvedPackage, read_solve
from envforge.lock.match_spec import BadSpecError, parse_spec
from envforge.lock.names import NameMapping, is_torch_family, torch_indexes
from envforge.lock.pages import Downloads, IndexFile, Link, Page, quoted, render_page
from envforge.lock.platforms import MACHINES, marker_environment
from envforge.lock.python_index import PythonIndex
from envforge.lock.request import Cutoff

if TYPE_CHECKING:
    from typing_extensions import Self

_MANYLINUX = re.compile(r"manylinux_2_(\d+)_(\w+)")
_MOST_EXTRAS = 100  # in one marker, which is evaluated for each
_LEGACY_MANYLINUX = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


class Target(Struct, frozen=True, kw_only=True, dict=True):
    """One platform (conda subdir) with its Python; ``virtual`` has the versions of its virtual packages."""

    platform: str
    python: Version
    virtual: Mapping[str, str]

    @cached_property
    def ranks(self) -> Mapping[Tag, int]:
        """The rank of each supported wheel tag; 0 is the best."""
        python = (self.python.major, self.python.minor)
        platforms = self._platform_tags()
        interpreter = f"cp{python[0]}{python[1]}"
        tags = [*cpython_tags(python, abis=[interpreter], platforms=platforms)]
        tags += compatible_tags(python, interpreter=interpreter, platforms=platforms)
        return {tag: rank for rank, tag in reversed(list(enumerate(tags)))}

    def rank(self, wheel: str) -> int | None:
        """Return the rank of a wheel, lower is better; ``None`` if the platform doesn't support it."""
        return min((self.ranks[tag] for tag in _tags(wheel) if tag in self.ranks), default=None)

    def counts(self, marker: Marker | None, extra: str = "") -> bool:
        """Return whether a requirement with this marker applies on the platform."""
        return marker is None or marker.evaluate({**marker_environment(self.platform, self.python), "extra": extra})

    def _platform_tags(self) -> list[str]:
        machine = MACHINES[self.platform]
        system = self.platform.split("-")[0]
        if system == "win":
            return ["win_amd64"]
        if system == "osx":
            major, minor = (*Version(self.virtual.get("__osx", "11.0")).release, 0)[:2]
            return list(mac_platforms((major, minor), machine))
        # manylinux starts at glibc 2.5 on x86_64, and at 2.17 on other machines, as in `packaging.tags`
        oldest = 16 if machine != "x86_64" else 4
        tags = []
        for minor in range(Version(self.virtual.get("__glibc", "2.28")).minor, oldest, -1):
            tags.append(f"manylinux_2_{minor}_{machine}")
            if minor in _LEGACY_MANYLINUX:
                tags.append(f"{_LEGACY_MANYLINUX[minor]}_{machine}")
        return [*tags, f"linux_{machine}"]


class Sources(Struct, frozen=True, kw_only=True):
    """Where packages may come from.

    ``family`` holds further names that only the torch index may provide; ``registry`` is the configured package index,
    whose URL is then the last of ``other``.
    """

    torch: tuple[str, ...]
    other: tuple[str, ...]
    family: frozenset[str] = frozenset()
    registry: PythonIndex | None = None

    def of(self, name: str) -> tuple[str, ...]:
        """Return the indexes for one package, in order."""
        return self.torch if self.is_family(name) else self.other

    def is_family(self, name: str) -> bool:
        """Return whether a package may come only from the PyTorch index."""
        return is_torch_family(name) or name in self.family


# conda-lock requires a checksum; the real one is computed after it has selected the wheel
UNKNOWN_SHA256 = "0" * 64
_SHA256 = "#sha256="  # ends the URL of a wheel under `pip:`
NO_TORCH_INDEX = "only a PyTorch index may provide it, and `pip-repositories` lists none"
NOBODY_MAY = "the environment requests it neither from conda nor under `pip:`"


class Offer(Struct, frozen=True, kw_only=True):
    """One wheel as offered to conda-lock: ``token`` is part of its loopback URL, ``file`` is the public file."""

    token: str
    name: str
    version: Version
    index: str
    file: IndexFile

    @property
    def is_direct(self) -> bool:
        """Whether environment.yml requests this URL, and states its SHA-256."""
        return _SHA256 in self.index


class Wanted(Struct, frozen=True, kw_only=True):
    """What the environment requests for one platform."""

    platform: str
    pip: tuple[Requirement, ...]
    virtual: Mapping[str, str]
    records: Path
    cutoff: Cutoff = field(default_factory=lambda: Cutoff(at=None))


class PlatformIndex(Struct, dict=True):
    """The index of one platform. The first page reads the solved conda packages, which conda-lock solves first."""

    wanted: Wanted
    sources: Sources
    downloads: Downloads
    mapping: NameMapping
    offers: dict[str, Offer] = field(default_factory=dict)
    optional: dict[str, frozenset[str]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    newer: dict[str, str] = field(default_factory=dict)
    unlisted: set[str] = field(default_factory=set)
    advice: dict[str, str] = field(default_factory=dict)
    needed_glibc: dict[str, str] = field(default_factory=dict)
    extras: dict[tuple[str, Version], frozenset[str]] = field(default_factory=dict)
    _solve: Solve | None = None
    _pages: dict[str, str | None] = field(default_factory=dict)
    _locks: dict[str, threading.Lock] = field(default_factory=dict)

    def page(self, name: str) -> str | None:
        """Return the page of one project, or ``None`` if it has no candidate."""
        with self._locks.setdefault(name, threading.Lock()):  # one per page, as uv requests many at a time
            if name not in self._pages:
                self._pages[name] = self._make_page(canonicalize_name(name))
            return self._pages[name]

    def metadata(self, token: str) -> bytes | None:
        """Return the metadata of an offered wheel, reduced to the requirements that apply on this platform."""
        offer = self.offers.get(token)
        return None if offer is None else self._adapted(offer)

    @property
    def solve(self) -> Solve:
        """The solved conda packages; raises ``EnvforgeError`` before conda-lock has solved them."""
        if self._solve is None:
            self._solve = read_solve(self.wanted.records)
        if self._solve is None:
            raise EnvforgeError("conda-lock requested wheels before the conda packages were solved", code="no-solve")
        return self._solve

    @cached_property  # its ranks take milliseconds, and a page has thousands of wheels
    def target(self) -> Target:
        """The tags and markers of the platform."""
        return Target(platform=self.wanted.platform, python=self.solve.python, virtual=self.wanted.virtual)

    def counts(self, requirement: Requirement) -> bool:
        """Return whether a requirement under ``pip:`` applies on this platform."""
        return requirement.marker is None or self.target.counts(requirement.marker)

    def reasons(self, explanation: str) -> list[tuple[str, str]]:
        """Return for each package in a solver's explanation why it was unavailable, or which versions exist."""
        # uv requests pages in any order
        known = (*sorted(self.missing.items()), *sorted(self.newer.items()))
        found = [(n, why) for n, why in known if _names(explanation, n)]
        names = sorted({offer.name for offer in list(self.offers.values())})
        unmatched = r"(?<![\w-]){} \([^)]*\) which doesn't match any versions"
        found += [
            (n, self._why_other_versions(n)) for n in names if re.search(unmatched.format(re.escape(n)), explanation)
        ]
        return found

    def _why_other_versions(self, name: str) -> str:
        """Return why the requested version isn't offered, or which versions are, if no index has it."""
        specifiers = [one.specifier for one in self.wanted.pip if canonicalize_name(one.name) == name]
        for page in (self._read(index, name) for index in self._indexes(name)):
            known = ((file, _named(file.file_name)) for file in page.files)
            files = [f for f, n in known if n and all(one.contains(n[1], prereleases=True) for one in specifiers)]
            if files and specifiers:
                why, self.advice[name] = self._why_unfit(name, replace(page, files=tuple(files)))
                return f"the requested version on `{show_url(page.url)}` {why}"
        offers = [offer for offer in list(self.offers.values()) if offer.name == name]
        versions_offered = ", ".join(str(offer.version) for offer in offers[:5])
        return f"`{offers[0].index}` has {versions_offered}{', …' if len(offers) > 5 else ''}"

    def _make_page(self, name: str) -> str | None:
        provided = self.solve.provided(self.mapping).get(name)
        if provided is not None:
            self._refuse_two_owners(name, provided)
            return render_page(name, [_stand_in(name, provided)])
        candidates = self._best(name)
        if not candidates:
            return None
        return render_page(name, [self._link(offer) for offer in candidates])

    def _refuse_two_owners(self, name: str, provided: SolvedPackage) -> None:
        for requirement in self.wanted.pip:
            same = canonicalize_name(requirement.name) == name and self.counts(requirement)
            is_met = not requirement.url and requirement.specifier.contains(provided.version, prereleases=True)
            if same and not is_met:
                conda = f"{provided.name} {provided.version}"
                raise EnvforgeError(
                    f"`{name}` has two owners on {self.wanted.platform}: "
                    f"`{requirement}` under `pip:`, and conda package `{conda}`",
                    hint=f"remove `{name}` from `pip:`, and write `- {_from_conda(provided.name, requirement)}` among "
                    f"the conda dependencies; or remove `{provided.name}` and the packages that need it from those",
                    code="two-owners",
                )

    def _best(self, name: str) -> list[Offer]:
        best: dict[Version, tuple[int, Offer]] = {}
        indexes = self._indexes(name)
        for index in indexes:
            page = self._read(index, name)
            # as uv: rejected credentials must not select the package of a later index; PyTorch's has 403 for 404
            is_followed = indexes is self.sources.other and index != indexes[-1]
            if is_followed and page.status == HTTPStatus.FORBIDDEN and not torch_indexes((index,)):
                message = f"`{show_url(page.url)}` returned HTTP 403, so `{name}` isn't taken from a later index"
                raise OutsideError(message, hint=credentials_hints(index), code="http-status")
            fitting = [offer for offer in (self._offer(name, index, file) for file in page.files) if offer]
            found = [(rank, o) for rank, o in fitting if not self.wanted.cutoff.excludes(o.file.uploaded)]
            newer = len(fitting) - len(found)
            if newer:
                wheels = "1 wheel" if newer == 1 else f"{newer} wheels"
                self.newer[name] = f"`{show_url(page.url)}` has {wheels} newer than {self.wanted.cutoff}"
            for rank, offer in found:
                if offer.version not in best or rank < best[offer.version][0]:
                    best[offer.version] = (rank, offer)
            if page.status != 200:
                self.missing[name] = f"`{show_url(page.url)}` returned HTTP {page.status}"
                self.unlisted.add(name)
            elif not page.files:
                self.missing[name] = f"`{show_url(page.url)}` lists no files"
            elif not fitting:
                why, self.advice[name] = self._why_unfit(name, page)
                self.missing[name] = f"`{show_url(page.url)}` {why}"
            # as uv: a later index may have the package of someone else by the same name
            if indexes is self.sources.other and any(
                (_named(file.file_name) or ("",))[0] == name for file in page.files
            ):
                break
        if best:
            self.missing.pop(name, None)
            self.unlisted.discard(name)
        elif not indexes:
            self.missing[name] = NO_TORCH_INDEX if self.sources.is_family(name) else NOBODY_MAY
        return [offer for _, offer in (best[version] for version in sorted(best, reverse=True))]

    def _why_unfit(self, name: str, page: Page) -> tuple[str, str]:
        """Return why no file on a page can be locked, and what would help."""
        target = self.target
        wheels = [file for file in page.files if file.file_name.endswith(".whl")]
        if not wheels:
            return "has only source distributions, but a lockfile contains only wheels", ""
        yanked = [file for file in wheels if file.is_yanked and target.rank(file.file_name) is not None]
        if yanked:
            version = yanked[-1].file_name.split("-")[1]
            hint = f"to use a version that was yanked, pin it exactly, such as `{name}=={version}`"
            return "has no wheel that its publisher has not yanked", hint
        tags = {tag for file in wheels for tag in _tags(file.file_name)}
        here = {tag.platform for tag in target.ranks}
        pythons = {tag.interpreter for tag in tags if tag.platform in here}
        if pythons:
            limits = {f"Python {file.requires_python}" for file in wheels if file.requires_python}
            named = ", ".join(sorted(limits or pythons))
            hint = f"request another version of `{name}`, or of Python"
            return f"has wheels for {target.platform} only for {named}, but Python {target.python} is locked", hint
        built = [_MANYLINUX.fullmatch(tag.platform) for tag in tags]
        versions = [int(match[1]) for match in built if match and match[2] == MACHINES[target.platform]]
        if versions:
            glibc = f"2.{min(versions)}"
            self.needed_glibc[name] = glibc
            return f"has wheels for {target.platform} only for glibc {glibc} or newer", ""
        return f"has wheels only for {', '.join(sorted({tag.platform for tag in tags}))}", ""

    def has_page(self, name: str) -> bool:
        """Return whether an index lists the project ``name``, for names in hints."""
        try:
            return any(self._read(index, canonicalize_name(name)).files for index in self.sources.of(name))
        except EnvforgeError:
            return False

    def _indexes(self, name: str) -> tuple[str, ...]:
        """Return the indexes for one package, in order; the URL of a wheel under ``pip:`` is the only one."""
        wanted = (r for r in self.wanted.pip if r.url and canonicalize_name(r.name) == name and self.counts(r))
        return tuple(r.url for r in wanted if r.url) or self.sources.of(name)

    def _read(self, index: str, name: str) -> Page:
        """Read the page of a project; an error about the configured package index explains how to use another."""
        registry = self.sources.registry
        if _SHA256 in index:
            return self.downloads.direct(index)
        try:
            return self.downloads.page(index, name)
        except OutsideError as error:
            if registry is None or index != registry.simple_url:
                raise
            raise OutsideError(
                f"cannot read the package index `{registry.public_url}` (configured in {registry.source}): "
                f"{error.message}",
                hint=(*error.hints, registry.other_index_hint),
                code=error.code,
            ) from error

    def _offer(self, name: str, index: str, file: IndexFile) -> tuple[int, Offer] | None:
        try:
            wheel_name, version, _, _ = parse_wheel_filename(file.file_name)
        except ValueError:
            return None
        rank = self.target.rank(file.file_name)
        if rank is None or wheel_name != name or not _python_fits(self.target.python, file.requires_python):
            return None
        # as in PEP 592, a yanked file is only for an exact pin
        if file.is_yanked and not any(f"=={version}" in str(r) for r in self.wanted.pip):
            return None
        token = hashlib.sha256(file.url.encode()).hexdigest()[:16]
        return rank, Offer(token=token, name=name, version=version, index=without_user(index), file=file)

    def _link(self, offer: Offer) -> Link:
        self.offers[offer.token] = offer
        file_name = _plain_wheel(offer.name, offer.version)
        return Link(
            href=f"../../files/{offer.token}/{quoted(file_name)}",
            file_name=file_name,
            sha256=offer.file.sha256 or UNKNOWN_SHA256,
            is_yanked=offer.file.is_yanked,
        )

    def _adapted(self, offer: Offer) -> bytes:
        """Keep the requirements that apply here, without their markers.

        conda-lock doesn't evaluate ``platform_machine``, and Poetry needs hours for the markers of ``cuda-toolkit``.
        """
        headers = self.downloads.metadata(offer.file)
        lines = ["Metadata-Version: 2.1", f"Name: {offer.name}", f"Version: {offer.version}"]
        extras = headers.get_all("Provides-Extra", [])
        lines += [f"Provides-Extra: {extra}" for extra in extras]
        self.extras[offer.name, offer.version] = frozenset(map(canonicalize_name, extras))
        optional: set[str] = set()
        for text in headers.get_all("Requires-Dist", []):
            requirement = _requirement(text, offer)
            named = set(re.findall(r"""extra\s*==\s*["']([^"']+)["']""", str(requirement.marker or "")))
            marker, requirement.marker = requirement.marker, None
            if self.target.counts(marker):
                lines.append(f"Requires-Dist: {requirement}")
                continue
            if len(named) > _MOST_EXTRAS:
                raise _bad_requirement(text, offer)
            for extra in sorted(extra for extra in named if self.target.counts(marker, extra)):
                lines.append(f'Requires-Dist: {requirement} ; extra == "{extra}"')
                optional.add(canonicalize_name(requirement.name))
        self.optional[offer.name] = frozenset(optional)
        return "\n".join([*lines, "", ""]).encode()


@lru_cache(maxsize=1000)  # a page has thousands of files, and few limits
def _python_fits(python: Version, requires_python: str | None) -> bool:
    try:
        return SpecifierSet(requires_python or "").contains(python, prereleases=True)
    except ValueError:  # as pip: an invalid `requires-python` doesn't exclude a file
        return True


def _requirement(text: str, offer: Offer) -> Requirement:
    try:
        return Requirement(" ".join(text.split()))
    except (ValueError, RecursionError) as error:  # the latter if parentheses nest, before packaging 26
        raise _bad_requirement(text, offer) from error


def _bad_requirement(text: str, offer: Offer) -> EnvforgeError:
    message = f"the metadata of `{show_url(offer.file.url)}` has an invalid requirement: `{text[:200]}`"
    return EnvforgeError(message, code="bad-wheel")


def _named(file_name: str) -> tuple[str, Version] | None:
    """Return the project and the version of a wheel or source distribution."""
    try:
        if file_name.endswith(".whl"):
            return parse_wheel_filename(file_name)[:2]
        return parse_sdist_filename(file_name)
    except (InvalidSdistFilename, InvalidWheelFilename):
        return None


def _tags(wheel: str) -> frozenset[Tag]:
    try:
        return parse_wheel_filename(wheel)[3]
    except ValueError:
        return frozenset()


def _from_conda(name: str, requirement: Requirement) -> str:
    """Return the conda package that has the version of a requirement below ``pip:``."""
    try:
        return str(parse_spec(f"{name} {re.sub('^={2,3}', '', str(requirement.specifier))}".strip()))
    except BadSpecError:  # such as `~=2.0rc1`, which only PEP 440 has
        return name


def _names(explanation: str, name: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", explanation) is not None


def _plain_wheel(name: str, version: Version) -> str:
    # conda-lock 4.0 lacks some manylinux tags, such as the 2_27 of NVIDIA's CUDA 12 wheels (decision 0041)
    return f"{name.replace('-', '_')}-{version}-py3-none-any.whl"


def _stand_in(name: str, package: SolvedPackage) -> Link:
    file_name = _plain_wheel(name, Version(package.version))
    return Link(href=f"../../stand-in/{quoted(file_name)}", file_name=file_name, sha256=UNKNOWN_SHA256)


class LockTimeIndex:
    """Serve the indexes of all platforms during a ``with`` block; ``fault`` is the first error."""

    def __init__(self, platforms: Mapping[str, PlatformIndex]) -> None:
        self._platforms = dict(platforms)
        self._faults: list[Exception] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._answer))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        """The start of the URL of all pages and files."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def simple(self, platform: str) -> str:
        """Return the URL of the index for one platform."""
        return f"{self.url}/{platform}/simple"

    def offer(self, url: str) -> Offer | None:
        """Return the public file of a loopback URL, or ``None`` for any other URL."""
        parts = urlsplit(url).path.split("/")
        if not url.startswith(f"{self.url}/") or len(parts) != 5 or parts[2] != "files":
            return None
        return self._platforms[parts[1]].offers.get(parts[3])

    @property
    def fault(self) -> Exception | None:
        """The first error of a request; conda-lock itself only finds that a page is missing."""
        return self._faults[0] if self._faults else None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, path: str) -> bytes | None:
        parts = path.strip("/").split("/")
        platform = self._platforms.get(parts[0])
        if platform is None or len(parts) < 3:
            return None
        try:
            if parts[1] == "simple":
                page = platform.page(parts[2])
                return None if page is None else page.encode()
            if parts[1] == "stand-in":
                return _stand_in_metadata(parts[2].removesuffix(".metadata"))
            return platform.metadata(parts[2])
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits for conda-lock
            self._faults.append(error)
            return None


def _handler(answer: Callable[[str], bytes | None]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = answer(unquote(urlsplit(self.path).path))
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body or b"")))
            with contextlib.suppress(ConnectionError):  # uv closes its connections once it finds no solution
                self.end_headers()
                self.wfile.write(body or b"")

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name in the base class
            """Print nothing; errors are kept in ``fault``."""

    return Handler


def _stand_in_metadata(file_name: str) -> bytes:
    name, version, _, _ = parse_wheel_filename(file_name)
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n".encode()
