"""Determine what a new lockfile keeps of the previous one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import yaml
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from envforge.base.files import regular
from envforge.base.suggest import nearest
from envforge.errors import EnvforgeError, OutsideError, RequestError
from envforge.lock.inputs import Inputs
from envforge.lock.lockfile import EXCLUDE_NEWER, LockedPackage, Lockfile, parse_lockfile
from envforge.lock.names import NameMapping
from envforge.lock.request import Cutoff, LockRequest, read_moment
from envforge.lock.solver.request import Kept, Wishes


@dataclass(frozen=True, kw_only=True, slots=True)
class Old:
    """The lockfile that exists before a run."""

    text: str
    lock: Lockfile

    @property
    def cutoff(self) -> Cutoff:
        """The cutoff that it was created with."""
        return recorded_cutoff(self.lock)


def recorded_cutoff(lock: Lockfile) -> Cutoff:
    """Return the cutoff that a lockfile was created with."""
    return Cutoff(at=read_moment(dict(lock.custom_metadata).get(EXCLUDE_NEWER)))


def read_old(path: Path) -> Old | None:
    """Return the lockfile at ``path``, or ``None`` if there is none; raise ``LockfileError`` if it is invalid."""
    if not path.exists():
        return None
    try:
        text = regular(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutsideError(f"cannot read `{path}`: {error}", code="lockfile-unreadable") from error
    return Old(text=text, lock=parse_lockfile(text, str(path)))


@dataclass(frozen=True, kw_only=True, slots=True)
class Keeping:
    """What to keep. ``old`` is ``None`` if all versions are selected again; ``renew`` names packages to upgrade."""

    old: Old | None
    renew: tuple[str, ...]
    cutoff: Cutoff

    def wishes(self, platform: str) -> Wishes:
        """Return what the embedded solver should keep on a platform."""
        packages = self.old.lock.for_platform(platform, "conda") if self.old else ()
        keep = (Kept(name=p.name, file_name=unquote(p.file_name), sha256=p.sha256, md5=p.md5) for p in packages)
        renew = tuple(p.name for p in packages if _names(p, self.renew))
        return Wishes(keep=tuple(keep), renew=renew, exclude_newer=self.cutoff.at)

    def seed(self, platform: str, inputs: Inputs) -> str | None:
        """Return the old lockfile as the file from which conda-lock reads its locked wheels.

        Return ``None`` if there are none, or if the channels have changed: conda-lock rejects such a file.
        """
        if self.old is None or [c for c in inputs.channels if c != "nodefaults"] != list(self.old.lock.channels):
            return None
        renewed = {p.url for p in self.old.lock.for_platform(platform, "pip") if _names(p, self.renew)}
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        document: dict[str, Any] = yaml.load(self.old.text, Loader=loader)  # noqa: S506 - a safe loader in either case
        document["metadata"]["custom_metadata"] = None
        rows = [row for row in document["package"] if row["platform"] == platform and row["url"] not in renewed]
        if not any(row["manager"] == "pip" for row in rows):
            return None
        return yaml.safe_dump({**document, "package": rows}, sort_keys=False)


def refuse_unknown(lock: Lockfile | None, request: LockRequest) -> None:
    """Raise ``RequestError`` if a package to upgrade is not locked."""
    if lock is None and request.upgrade_packages:
        raise RequestError(
            f"`--upgrade-package` requires a lockfile, but `{request.lockfile}` does not exist",
            hint="to create it",
            command=request.command("lock"),
            code="not-locked",
        )
    known = {canonicalize_name(package.name) for package in lock.packages} if lock else set()
    for name in request.upgrade_packages:
        if canonicalize_name(name) in known:
            continue
        near = nearest(canonicalize_name(name), known, alike=0.6)
        raise RequestError(
            f"`--upgrade-package {name}`: `{request.lockfile}` does not contain `{name}`",
            hint=f"did you mean `--upgrade-package {near}`?" if near else "to add the package",
            command="" if near else request.command("add", name),
            code="not-locked",
        )


def list_changes(old: Lockfile | None, new: Lockfile) -> tuple[str, ...]:
    """Return the differences between two lockfiles, one line per package and platform."""
    return tuple(_changes(old, new)) if old else ()


def _changes(old: Lockfile, new: Lockfile) -> Iterator[str]:
    before, after = _by_key(old), _by_key(new)
    several = len(new.platforms) > 1
    for key in sorted(before.keys() | after.keys(), key=lambda key: (key[1], key[2], key[0])):
        one, other = before.get(key), after.get(key)
        where = f" ({key[2]})" if several else ""
        if one is None and other is not None:
            yield f"+ {other.name} {other.version}{where}"
        elif other is None and one is not None:
            yield f"- {one.name} {one.version}{where}"
        elif one is not None and other is not None and one.version != other.version:
            yield f"~ {one.name} {one.version} -> {other.version}{where}"
        elif one is not None and other is not None and one.url != other.url:
            yield f"~ {one.name} {one.version}: {one.file_name} -> {other.file_name}{where}"


def _by_key(lock: Lockfile) -> dict[tuple[str, str, str], LockedPackage]:
    return {(p.manager, p.name, p.platform): p for p in lock.packages}


def _names(package: LockedPackage, names: Sequence[str]) -> bool:
    return canonicalize_name(package.name) in {canonicalize_name(name) for name in names}


@dataclass(frozen=True, kw_only=True, slots=True)
class SolvedPackage:
    """One solved conda package."""

    name: str
    version: str
    url: str
    size: int | None
    depends: tuple[str, ...]
    timestamp: float | None = None

    @property
    def is_python_package(self) -> bool:
        """Return whether conda-lock treats it as a Python package, because it depends on Python."""
        return any(wanted.split(" ", 1)[0] == "python" for wanted in self.depends)


@dataclass(frozen=True, kw_only=True, slots=True)
class Solve:
    """The solved conda packages of one platform."""

    packages: tuple[SolvedPackage, ...]

    @property
    def python(self) -> Version:
        """The Python version of the environment; raises ``EnvforgeError`` if there is none."""
        for package in self.packages:
            if package.name == "python":
                return Version(package.version)
        raise EnvforgeError(
            "`environment.yml` lists packages under `pip:`, but doesn't list `python`",
            hint="add a line such as `- python 3.12.*` to `dependencies:`",
            code="no-python",
        )

    def provided(self, mapping: NameMapping) -> dict[str, SolvedPackage]:
        """Return the Python packages that conda installs, by their normalized Python name."""
        found: dict[str, SolvedPackage] = {}
        for package in self.packages:
            if package.is_python_package and _is_version(package.version):
                python_name = mapping.to_python(package.name)
                # if two conda packages have one Python name, the one in the mapping wins
                if python_name not in found or python_name != package.name:
                    found[python_name] = package
        return found


def read_solve(folder: Path) -> Solve | None:
    """Return the newest solve recorded in ``folder``, or ``None`` if no solve is complete."""
    records = sorted(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    if not records:
        return None
    document = json.loads(records[-1].read_text(encoding="utf-8"))
    return Solve(packages=tuple(_package(entry) for entry in document["packages"]))


def _package(entry: dict[str, Any]) -> SolvedPackage:
    return SolvedPackage(
        name=entry["name"],
        version=entry["version"],
        url=entry["url"],
        size=entry.get("size"),
        depends=tuple(entry.get("depends") or ()),
        timestamp=entry.get("timestamp"),
    )


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except InvalidVersion:
        return False
    return True
