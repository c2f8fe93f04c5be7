"""Read environment files and virtual-packages.yml into the complete input of a lock.

conda-lock's own default, CUDA 11.4 for every project, is never used.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.base.suggest import nearest
from envforge.base.terms import WheelTag
from envforge.base.urls import has_secrets, hide_secrets
from envforge.errors import EnvforgeError, RequestError
from envforge.lock.environment import Environment, PackageRequest, parse_environment, parse_virtual_packages
from envforge.lock.match_spec import BadSpecError, Spec, join_versions, matches
from envforge.lock.pip_requirement import pinned
from envforge.lock.platforms import KNOWN_PLATFORMS, marker_environment
from envforge.lock.project import VIRTUAL_PACKAGES_FILE, input_sha256, read_text


class Requested(Struct, frozen=True, kw_only=True):
    """All entries for one package on one platform: the bounds of ``spec`` or ``requirement`` are joined."""

    entries: tuple[PackageRequest, ...]
    spec: Spec | None = None
    requirement: Requirement | None = None

    @property
    def name(self) -> str:
        """The name in its package manager."""
        return self.entries[0].name

    @property
    def category(self) -> str:
        """The category of the package: ``main`` if one of the entries is in it, or else that of the first."""
        names = [entry.category for entry in self.entries]
        return "main" if "main" in names else names[0]

    def __str__(self) -> str:
        places = ", ".join(str(entry.line) for entry in self.entries)
        return f"`{self.spec or self.requirement}` ({places})"


class Inputs(Struct, frozen=True, kw_only=True, dict=True):
    """The merged content of all files. ``virtual_packages`` is ``None`` if there is no such file.

    ``categories`` are those to lock; empty for all.
    """

    files: tuple[Environment, ...]
    virtual_packages_path: Path
    virtual_packages: str | None
    platforms: tuple[str, ...]
    categories: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The first environment file."""
        return self.files[0].path

    @property
    def text(self) -> str:
        """The text of the first environment file."""
        return self.files[0].text

    @cached_property
    def channels(self) -> tuple[str, ...]:
        """The channels of all files."""
        return _longest(self.files, "channels")

    @cached_property
    def pip_repositories(self) -> tuple[str, ...]:
        """The package indexes of all files."""
        return _longest(self.files, "pip_repositories")

    @property
    def allow_registry(self) -> bool:
        """Whether packages may come from the package index that uv or pip is configured for."""
        return all(file.allow_registry for file in self.files)

    @property
    def entries(self) -> tuple[PackageRequest, ...]:
        """The requested packages of the categories to lock."""
        return tuple(entry for file in self.files for entry in file.entries if _is_in(entry, self))

    @property
    def left_out(self) -> tuple[str, ...]:
        """One line for each category that is left out, with the names of its packages."""
        found: dict[str, list[str]] = {}
        for entry in (entry for file in self.files for entry in file.entries if not _is_in(entry, self)):
            found.setdefault(entry.category, []).append(entry.name)
        return tuple(
            f"category `{category}` is left out: {', '.join(dict.fromkeys(names))}" for category, names in found.items()
        )

    @cached_property
    def variables(self) -> tuple[tuple[str, str], ...]:
        """The environment variables of all files, sorted by name."""
        found: dict[str, tuple[str, Path]] = {}
        for file in self.files:
            for name, value in file.variables:
                if found.setdefault(name, (value, file.path))[0] != value:
                    raise EnvforgeError(
                        f"the variable `{name}` is `{found[name][0]}` in `{found[name][1]}`, but `{value}` in "
                        f"`{file.path}`",
                        hint="write the same value in both files",
                        code="conflicting-files",
                    )
        return tuple(sorted((name, value) for name, (value, _) in found.items()))

    def wanted(self, platform: str, python: Version | None = None) -> tuple[Requested, ...]:
        """Return the packages to lock on a platform, sorted, with the markers evaluated for this Python.

        Without ``python``, entries whose marker depends on the version of Python are left out.
        """
        versions = (python,) if python is not None else self._pythons(platform)
        found: dict[tuple[str, str], list[PackageRequest]] = {}
        for entry in self.entries:
            if all(applies(entry, platform, version) for version in versions):
                found.setdefault((entry.section, entry.name), []).append(entry)
        return tuple(_join(tuple(entries)) for _, entries in sorted(found.items()))

    def is_undecided(self, platform: str) -> bool:
        """Return whether the marker of an entry depends on the version of Python that is selected."""
        versions = self._pythons(platform)
        return any(len({applies(e, platform, v) for v in versions}) > 1 for e in self.entries if e.section == "pip")

    def pip_for(self, platform: str) -> tuple[Requirement, ...]:
        """Return the requirements under ``pip:`` for one platform, by their selectors; markers are not evaluated."""
        return tuple(e.requirement for e in self.entries if e.requirement is not None and platform in e.platforms)

    def unused(self) -> Iterator[PackageRequest]:
        """Yield the entries of packages that apply to none of the platforms."""
        used = {
            (e.section, e.name)
            for p in self.platforms
            for v in self._pythons(p)
            for e in self.entries
            if applies(e, p, v)
        }
        yield from (entry for entry in self.entries if (entry.section, entry.name) not in used)

    def _pythons(self, platform: str) -> tuple[Version, ...]:
        """Return versions of Python that the entries allow: enough of them to tell what a marker can depend on."""
        specs = [e.spec for e in self.entries if e.spec and e.name == "python" and platform in e.platforms]
        if not any(entry.requirement and entry.requirement.marker for entry in self.entries):
            return (_PYTHONS[-1],)  # no marker, so any version does
        bounds = [replace(spec, build="") for spec in specs]
        allowed = [version for version in _PYTHONS if all(matches(bound, str(version), "") for bound in bounds)]
        return tuple(allowed) or _PYTHONS

    @property
    def sha256(self) -> str:
        """The SHA-256 that a lockfile records of its input."""
        return input_sha256(self.files[0].text, self.virtual_packages, [file.text for file in self.files[1:]])


# markers can compare any patch release, so all that may exist are tried
_PYTHONS = tuple(Version(f"3.{minor}.{patch}") for minor in range(6, 20) for patch in range(25))


def _is_in(entry: PackageRequest, inputs: Inputs) -> bool:
    return not inputs.categories or entry.category in inputs.categories


def applies(entry: PackageRequest, platform: str, python: Version) -> bool:
    """Return whether the selectors and the marker of an entry allow a platform."""
    marker = entry.requirement.marker if entry.requirement else None
    is_selected = platform in entry.platforms
    if marker is None or not is_selected:
        return is_selected
    return bool(marker.evaluate({**marker_environment(platform, python), "extra": ""}))


def _join(entries: tuple[PackageRequest, ...]) -> Requested:
    if entries[0].spec is not None:
        return Requested(entries=entries, spec=_join_specs(entries))
    requirements = [entry.requirement for entry in entries if entry.requirement is not None]
    urls = {requirement.url for requirement in requirements}
    if len(urls) > 1:
        raise _conflict(entries, "have different URLs")
    joined = Requirement(requirements[0].name)
    joined.url = urls.pop()
    joined.extras = {extra for requirement in requirements for extra in requirement.extras}
    joined.specifier = SpecifierSet(",".join(sorted(str(r.specifier) for r in requirements if str(r.specifier))))
    return Requested(entries=entries, requirement=joined)


def _join_specs(entries: tuple[PackageRequest, ...]) -> Spec:
    specs = [entry.spec for entry in entries if entry.spec is not None]
    builds = {spec.build for spec in specs} - {"", "*"}
    channels = {spec.channel for spec in specs} - {""}
    if len(builds) > 1 or len(channels) > 1:
        raise _conflict(entries, "have different builds" if len(builds) > 1 else "have different channels")
    versions = sorted({spec.version for spec in specs if spec.version not in {"", "*"}})
    try:
        version = join_versions(versions) if versions else ""
    except BadSpecError as error:
        raise _conflict(entries, f"can't be joined: {error}") from error
    return Spec(
        name=specs[0].name,
        version=version,
        build=next(iter(builds), ""),
        channel=next(iter(channels), ""),
    )


def _conflict(entries: Sequence[PackageRequest], what: str) -> EnvforgeError:
    places = " and ".join(f"`{entry.text}` ({entry.line})" for entry in entries)
    return EnvforgeError(
        f"{places} {what}",
        hint="remove one of the lines, or write selectors for different platforms, such as `# [linux64]`",
        code="conflicting-requests",
    )


def _longest(files: Sequence[Environment], key: str) -> tuple[str, ...]:
    """Merge the channels or indexes of several files as conda-lock does: each must be the end of the longest list."""
    lists: list[tuple[tuple[str, ...], Path]] = [(getattr(file, key), file.path) for file in files]
    longest, of = max(lists, key=lambda pair: len(pair[0]))
    for values, path in lists:
        if values and longest[-len(values) :] != values:
            name = key.replace("_", "-")
            raise EnvforgeError(
                f"`{name}` of `{path}` ({', '.join(values)}) conflicts with `{name}` of `{of}` ({', '.join(longest)})",
                hint="list the same values in the same order in all files",
                code="conflicting-files",
            )
    return longest


def read_inputs(
    environment: Path,
    virtual_packages: str | None,
    platforms: Sequence[str] = (),
    text: str | None = None,
    *,
    others: Sequence[Path] = (),
    categories: Sequence[str] = (),
) -> Inputs:
    """Read and check all files; raise ``EnvforgeError`` with the line of an error.

    ``text`` replaces the content of the first file, and ``virtual_packages`` that of virtual-packages.yml.
    """
    first = read_text(environment, newline=None) if text is None else text
    files = [parse_environment(first, environment)]
    files += [parse_environment(read_text(path, newline=None), path) for path in others]
    virtual_path = environment.with_name(VIRTUAL_PACKAGES_FILE)
    if virtual_packages is None and virtual_path.is_file():
        virtual_packages = read_text(virtual_path, newline=None)
    listed = tuple(dict.fromkeys(platform for file in files for platform in file.platforms))
    inputs = Inputs(
        files=tuple(files),
        virtual_packages_path=virtual_path,
        virtual_packages=virtual_packages,
        platforms=tuple(dict.fromkeys(platforms)) or listed,
        categories=tuple(sorted(set(categories))),
    )
    _refuse(inputs)
    return inputs


def _refuse(inputs: Inputs) -> None:
    if not inputs.platforms:
        raise RequestError(
            f"`{inputs.path}` lists no `platforms:`",
            hint=f"add a line such as `platforms: [linux-64]` to `{inputs.path}`",
            code="no-platform",
        )
    for platform in inputs.platforms:
        if platform not in KNOWN_PLATFORMS:
            near = nearest(platform, KNOWN_PLATFORMS, alike=0.6)
            raise RequestError(
                f"unknown platform `{platform}`; expected one of: {', '.join(KNOWN_PLATFORMS)}",
                hint=f"did you mean `{near}`?" if near else "",
                code="no-such-platform",
            )
    known = {file.category for file in inputs.files}
    for category in inputs.categories:
        if category not in known:
            raise RequestError(
                f"no environment file has the category `{category}`; found: {', '.join(sorted(known))}",
                hint="pass `--category` for each name"
                if known.issuperset(category.split(","))
                else "write `category: NAME` at the top level of a file, and pass each file with `--file`",
                code="no-such-category",
            )
    for file in inputs.files:
        refuse_credentials(
            str(file.path), (*file.channels, *file.pip_repositories, *(entry.text for entry in file.entries))
        )
    _ = inputs.channels, inputs.pip_repositories, inputs.variables  # raise if the files conflict


def refuse_credentials(where: str, texts: Sequence[str]) -> None:
    """Raise ``EnvforgeError`` if a URL contains a password or a token, without repeating it."""
    for text in texts:
        if has_secrets(text):
            raise EnvforgeError(
                f"`{hide_secrets(text)}` in `{where}` contains credentials, which a lockfile would spread",
                hint="move them to `~/.netrc`, or refer to environment variables, such as `https://$USER:$TOKEN@HOST`",
                code="credentials",
            )


# the glibc of manylinux_2_28, which PyTorch's wheels have
_LINUX = {"__unix": "0", "__linux": "5.10", "__glibc": "2.28"}
_MAC = {"__unix": "0", "__osx": "11.0"}
_BASE: Mapping[str, Mapping[str, str]] = {
    "linux-64": {**_LINUX, "__archspec": "1 x86_64"},
    "linux-aarch64": {**_LINUX, "__archspec": "1 aarch64"},
    "linux-ppc64le": {**_LINUX, "__archspec": "1 ppc64le"},
    "osx-64": {**_MAC, "__archspec": "1 x86_64"},
    "osx-arm64": {**_MAC, "__archspec": "1 arm64"},
    "win-64": {"__win": "0", "__archspec": "1 x86_64"},
}
_LOCAL = re.compile(r"\+(cpu|cu\d{2,3})\b")


class VirtualPackages(Struct, frozen=True, kw_only=True):
    """Pairs of (name, version) for each platform, as in conda-lock's file; ``source`` is where they come from."""

    subdirs: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    source: str

    def of(self, platform: str) -> dict[str, str]:
        """Return the virtual packages of one platform."""
        return dict(dict(self.subdirs)[platform])

    def words(self) -> tuple[str, ...]:
        """Return one line of text per platform."""
        return tuple(f"{platform}: {' '.join(f'{n}={v}' for n, v in pairs)}" for platform, pairs in self.subdirs)

    def text(self) -> str:
        """Return the text of the file for conda-lock's ``--virtual-package-spec``."""
        lines = ["subdirs:"]
        for platform, pairs in self.subdirs:
            lines += [f"  {platform}:", "    packages:", *(f'      {name}: "{version}"' for name, version in pairs)]
        return "\n".join(lines) + "\n"


def virtual_packages_of(inputs: Inputs) -> VirtualPackages:
    """Return what virtual-packages.yml states; for platforms that it lacks, what their torch version requires.

    Raises ``EnvforgeError`` if an environment file requests another version of one.
    """
    stated = _virtual_read(inputs)
    missing = [name for name in inputs.platforms if stated is None or name not in dict(stated.subdirs)]
    found = _derive(missing, inputs)
    if stated is not None:
        source = f"{stated.source}, and from {found.source} for {', '.join(missing)}" if missing else stated.source
        found = replace(stated, subdirs=(*stated.subdirs, *found.subdirs), source=source)
    for platform in inputs.platforms:
        _refuse_other_machine(inputs, platform, found.of(platform))
    return found


def conda_lock_files(
    inputs: Inputs, platform: str, python: Version | None = None, *, is_complete: bool = False
) -> tuple[str, ...]:
    """Return the environment files for conda-lock, which contain the requests of one platform, in a fixed order.

    They name no index but the lock-time index. If they are ``is_complete``, conda-lock can hash them, but not solve:
    they have all indexes, markers, and virtual packages.
    """
    packages = [one for one in inputs.wanted(platform, python) if is_complete or not one.entries[0].is_virtual]
    if not packages:
        raise EnvforgeError(
            f"`{inputs.path}` requests no package for {platform}",
            hint=f"add a package, or remove `{platform}` from `platforms:`",
            code="no-package",
        )
    has_wheels = any(one.requirement for one in packages)
    # conda-lock adds `pip *` after the packages of a file with wheels, and the last line for a name replaces the others
    last = [one for one in packages if has_wheels and one.spec and one.name == "pip" and str(one.spec) != "pip"]
    groups = [[one for one in packages if one.category == name and one not in last] for name in _categories(packages)]
    documents = [_conda_lock_document(inputs, platform, group, is_complete) for group in (*groups, last) if group]
    # JSON is YAML; conda-lock looks for selectors in each line, so each package has its own
    return tuple(json.dumps(document, indent=1) + "\n" for document in documents)


def _categories(packages: Iterable[Requested]) -> list[str]:
    return sorted({one.category for one in packages}, key=lambda name: (name != "main", name))


def _conda_lock_document(
    inputs: Inputs, platform: str, packages: Sequence[Requested], is_complete: bool
) -> dict[str, object]:
    # the lock-time index offers the wheel of a URL under `pip:`
    wheels = [
        str(_complete(one) if is_complete else pinned(one.requirement))
        for one in packages
        if one.requirement is not None
    ]
    return {
        "channels": [channel for channel in inputs.channels if channel != "nodefaults"],
        "platforms": [platform],
        "category": packages[0].category,
        "dependencies": [*(str(one.spec) for one in packages if one.spec), *([{"pip": wheels}] if wheels else [])],
        # conda-lock would query other indexes in addition to the lock-time index (decision 0040)
        "pip-repositories": list(inputs.pip_repositories) if is_complete else [],
        "allow-pypi-requests": False,
    }


def _complete(one: Requested) -> Requirement | None:
    # a marker of a single line is kept for the hash, so that conda-lock finds its own hash again
    return one.entries[0].requirement if len(one.entries) == 1 else one.requirement


def _refuse_other_machine(inputs: Inputs, platform: str, virtual: Mapping[str, str]) -> None:
    """Raise ``EnvforgeError`` if the packages are solved for a machine that ``dependencies:`` excludes."""
    for wanted in inputs.wanted(platform):
        if not wanted.entries[0].is_virtual or wanted.spec is None:
            continue
        stated = virtual.get(wanted.name)
        if stated is not None and matches(wanted.spec, *(*stated.split(" "), "")[:2]):
            continue
        raise EnvforgeError(
            f"{wanted} is requested on {platform}, but the lock is for "
            + (f"a machine with `{wanted.name} {stated}`" if stated else f"machines without `{wanted.name}`"),
            hint=_other_machine(inputs, platform, wanted.spec, virtual),
            code="virtual-package",
        )


def _other_machine(inputs: Inputs, platform: str, spec: Spec, virtual: Mapping[str, str]) -> str:
    number = re.search(r"\d[\w.]*", spec.version)
    return virtual_package_hint(inputs, platform, spec.name, number[0] if number else "0", virtual)


def virtual_package_hint(inputs: Inputs, platform: str, name: str, version: str, virtual: Mapping[str, str]) -> str:
    """Return the hint for a virtual package: a line of virtual-packages.yml, or the complete file."""
    line = f'{name}: "{version}"'
    if inputs.virtual_packages is None:  # a file replaces all virtual packages of its platforms
        packages = ", ".join(f'{key}: "{value}"' for key, value in {**virtual, name: version}.items())
        line = f"subdirs: {{{platform}: {{packages: {{{packages}}}}}}}"
    return f"to lock for machines that have it, write `{line}` in `{inputs.virtual_packages_path}`"


def _virtual_read(inputs: Inputs) -> VirtualPackages | None:
    if inputs.virtual_packages is None:
        return None
    read = parse_virtual_packages(inputs.virtual_packages, inputs.virtual_packages_path)
    subdirs = tuple((platform, tuple(packages.items())) for platform, packages in read.items())
    return VirtualPackages(subdirs=subdirs, source=str(inputs.virtual_packages_path))


def _derive(platforms: Iterable[str], inputs: Inputs) -> VirtualPackages:
    """Return the virtual packages for the torch pin of each platform; ``__cuda`` is absent for a CPU build."""
    subdirs = []
    source = "the defaults of envforge"
    for platform in platforms:
        packages = dict(_BASE[platform])
        tag = _torch_tag(inputs.pip_for(platform))
        if tag is not None:
            source = "the torch version"
            packages |= {"__cuda": str(tag.cuda)} if tag.cuda is not None else {}
        subdirs.append((platform, tuple(sorted(packages.items()))))
    return VirtualPackages(subdirs=tuple(subdirs), source=source)


def _torch_tag(requirements: Iterable[Requirement]) -> WheelTag | None:
    for requirement in requirements:
        match = _LOCAL.search(str(pinned(requirement).specifier))
        if canonicalize_name(requirement.name) == "torch" and match is not None:
            return WheelTag.parse(match[1])
    return None
