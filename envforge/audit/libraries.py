"""Find conflicting libraries: those that both conda and pip own, and multiple OpenMP runtimes."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping

from packaging.utils import canonicalize_name

from envforge.audit.files import Files
from envforge.audit.records import CondaPackage
from envforge.audit.values import Finding

# GNU (libgomp), Intel (libiomp5), LLVM (libomp), Microsoft (vcomp); wheels add a hash to the name of a bundled one
_OPENMP = re.compile(
    r"(lib(gomp|iomp5|omp)(-[0-9a-f]+)?(\.so[.\d]*|[.\d]*\.dylib)|(libiomp5md|libomp[\w.]*|vcomp\d+)\.dll)"
)


def owned_twice(files: Files) -> Iterator[Finding]:
    """Yield the wheels that conda also owns, by the name in their metadata or because they share files."""
    by_name = {name: package.name for package in files.conda for name in _python_names(package)}
    shared: dict[str, set[str]] = {}
    for claims in files.owned.values():
        if len(claims) > 1 and claims[-1].manager == "pip":
            of_conda = {owned.package for owned in claims if owned.manager == "conda"}
            shared.setdefault(claims[-1].package, set()).update(of_conda)
    for wheel in files.wheels:
        also = shared.get(wheel.name, set()) | ({by_name[wheel.name]} if wheel.name in by_name else set())
        if also:
            names = ", ".join(f"`{name}`" for name in sorted(also))
            yield Finding(
                kind="owned-twice",
                text=f"the wheel `{wheel.name} {wheel.version}` is also installed as the conda package {names}",
                package=wheel.name,
                manager="pip",
                found=wheel.version,
            )


def _python_names(package: CondaPackage) -> Iterator[str]:
    """Yield the distributions that a conda package contains, by their metadata."""
    for claim in package.claims:
        folder, _, name = claim.path.rpartition("/")
        if name in {"METADATA", "PKG-INFO"} and folder.endswith((".dist-info", ".egg-info")):
            stem = posixpath.basename(folder).rsplit(".", 1)[0]
            yield canonicalize_name(stem.split("-", 1)[0])


def openmp_runtimes(files: Files, sha256: Mapping[str, str]) -> Iterator[Finding]:
    """Yield one finding if a prefix has more than one OpenMP runtime; copies of one runtime count once."""
    # a warning, not drift: `--fix` can't repair it, and every environment with a torch wheel and conda's numpy has two
    different: dict[str, str] = {}
    for path, entry in sorted(files.inventory.items()):
        if entry.target is None and _OPENMP.fullmatch(posixpath.basename(path)):
            different.setdefault(sha256.get(path, path), path)
    if len(different) > 1:
        places = [f"`{path}` ({_owner(files, path)})" for path in different.values()]
        yield Finding(
            kind="openmp",
            text=f"{len(places)} OpenMP runtimes, which can slow down or crash a process that loads more than one: "
            + ", ".join(places),
        )


def _owner(files: Files, path: str) -> str:
    claims = files.owned.get(path)
    return claims[-1].label if claims else "no package"


def split_by_lock(found: Iterable[Finding], locked: frozenset[str]) -> tuple[list[Finding], list[Finding]]:
    """Separate findings whose wheel is not locked (drift) from those that the lockfile itself causes."""
    chosen = list(found)
    return [f for f in chosen if f.package not in locked], [f for f in chosen if f.package in locked]
