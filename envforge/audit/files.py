"""Compare every file of a prefix with its package: changed, missing, or stray.

Files with legitimate differences aren't checked: bytecode (``__pycache__``, ``.pyc``), records of a wheel's installer,
and files that the link script of their package mentions.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from envforge.audit.inventory import Entry
from envforge.audit.normal import is_installers_note, normal_file
from envforge.audit.records import Claim, CondaPackage, Distribution
from envforge.audit.values import Finding
from envforge.lockfile import Manager

_NOTHING = hashlib.sha256(b"").hexdigest()
_SHORTEST_NAME = 4


@dataclass(frozen=True, slots=True)
class Owned:
    """A file with the package that lists it."""

    claim: Claim
    manager: Manager
    package: str
    label: str


@dataclass(frozen=True, kw_only=True)
class Files:
    """The files of one prefix: those that exist, and those that packages list.

    ``library`` is the directory from which Python imports (the standard library with site-packages); None without
    Python.
    """

    prefix: Path
    inventory: Mapping[str, Entry]
    conda: tuple[CondaPackage, ...]
    wheels: tuple[Distribution, ...]
    library: str | None

    @cached_property
    def owned(self) -> dict[str, list[Owned]]:
        """The claims on each path, conda's first. If a wheel replaced a file of conda, both claims are listed."""
        found: dict[str, list[Owned]] = {}
        for package in self.conda:
            label = f"{package.name} {package.version}"
            for claim in package.claims:
                if not _is_bytecode(claim.path):
                    found.setdefault(claim.path, []).append(Owned(claim, "conda", package.name, label))
        for wheel in self.wheels:
            label = f"{wheel.name} {wheel.version}"
            for claim in wheel.claims:
                if not _is_bytecode(claim.path):
                    found.setdefault(claim.path, []).append(Owned(claim, "pip", wheel.name, label))
        return found

    @cached_property
    def places(self) -> dict[str, str]:
        """The real path of each claimed path, which may lead through a linked directory; missing files are omitted."""
        found = {}
        for path in self.owned:
            place = path if path in self.inventory else self._through_links(path)
            if place in self.inventory:
                found[path] = place
        return found

    @cached_property
    def strays(self) -> tuple[str, ...]:
        """Files in Python's library directory that belong to no package and are not mentioned by a link script."""
        # all of lib/pythonX.Y, because usercustomize.py there runs at start, as site-packages/sitecustomize.py does
        claimed = {*self.owned, *self.places.values()}
        beginning = f"{self.library}/"
        return tuple(
            sorted(
                path
                for path in self.inventory
                if self.library is not None
                and path.startswith(beginning)
                and path not in claimed
                and not _is_bytecode(path)
                and not self._is_of_a_script(path, None)
            )
        )

    @cached_property
    def unowned(self) -> int:
        """Number of files that belong to no package and are not stray: settings, data, output of link scripts."""
        claimed = {*self.owned, *self.places.values(), *self.strays}
        return sum(
            path not in claimed and not path.startswith("conda-meta/") and not _is_bytecode(path)
            for path in self.inventory
        )

    @cached_property
    def to_hash(self) -> tuple[str, ...]:
        """Regular files whose content is compared or is part of the digest."""
        chosen = dict.fromkeys((*self.places.values(), *self.strays))
        return tuple(path for path in chosen if self.inventory[path].target is None)

    def findings(self, sha256: Mapping[str, str]) -> Iterator[Finding]:
        """Yield the differences, by path."""
        for path, claims in sorted(self.owned.items()):
            place = self.places.get(path)
            if place is None:
                yield from self._missing(path, claims[-1])
            elif not self._intact(path, place, claims, sha256):
                yield from self._changed(path, place, claims[-1], sha256)
        for wheel in self.wheels:
            if not wheel.has_record:
                record = f"{wheel.folder}/RECORD"
                text = f"`{record}` is missing, so the files of {wheel.name} are unknown"
                yield Finding(kind="file-missing", text=text, package=wheel.name, manager="pip", path=record)
        for path in self.strays:
            yield Finding(kind="file-stray", text=f"`{path}` belongs to no package", path=path)

    def digest_lines(self, sha256: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield each file with its normal content, each link with its target, and each conda record with its origin."""
        for package in self.conda:
            yield f"conda-meta/{package.stem}.json", package.sha256 or package.md5 or ""
        for path, claims in self.owned.items():
            place = self.places.get(path)
            if place is None or is_installers_note(path):
                continue
            target = self.inventory[place].target
            if target is not None:
                yield path, f"-> {target.replace(str(self.prefix), '')}"
            else:
                yield path, self._normal(place, claims, sha256[place])
        for path in self.strays:
            target = self.inventory[path].target
            yield path, self._read_normal(path, "", sha256[path]) if target is None else f"-> {target}"

    def _normal(self, place: str, claims: Iterable[Owned], digest: str) -> str:
        placeholder = ""
        for claim in (owned.claim for owned in claims):
            placeholder = placeholder or claim.placeholder
            if digest == claim.sha256 and claim.archived is not None and not claim.holds_prefix:
                return claim.archived
            if digest == claim.sha256 and not claim.holds_prefix:
                return digest
        return self._read_normal(place, placeholder, digest)

    def _read_normal(self, place: str, placeholder: str, digest: str) -> str:
        size = self.inventory[place].size
        return normal_file(self.prefix, place, size, placeholder=placeholder) or digest

    def _intact(self, path: str, place: str, claims: Iterable[Owned], sha256: Mapping[str, str]) -> bool:
        entry = self.inventory[place]
        for owned in claims:
            claim = owned.claim
            if claim.sha256 is None or (owned.manager == "pip" and is_installers_note(path)):
                return True
            if entry.target is None:
                if not claim.is_link and sha256[place] == claim.sha256:
                    return True
            elif claim.is_link and self._link_intact(place, entry.target, claim, sha256):
                return True
        return False

    def _link_intact(self, place: str, target: str, claim: Claim, sha256: Mapping[str, str]) -> bool:
        """Return whether a link is the one of its package.

        rattler records the SHA-256 of the target's name, conda-build the SHA-256 of the target's content. A link
        recorded with the hash of empty content is accepted. If the target contains the prefix, its hash in the archive
        is compared.
        """
        wanted = {claim.sha256, claim.archived}
        if hashlib.sha256(target.encode()).hexdigest() in wanted or claim.sha256 == _NOTHING:
            return True
        arrived = self._through_links(posixpath.normpath(posixpath.join(posixpath.dirname(place), target)))
        archived = {owned.claim.archived for owned in self.owned.get(arrived, ())}
        return bool(({sha256.get(arrived)} | archived) - {None} & wanted)

    def _through_links(self, path: str) -> str:
        """Return the real path, relative to the prefix."""
        arrived = os.path.realpath(self.prefix / path)
        return posixpath.relpath(arrived, os.path.realpath(self.prefix))

    def _missing(self, path: str, owned: Owned) -> Iterator[Finding]:
        if owned.manager == "pip" and is_installers_note(path):
            return
        yield Finding(
            kind="file-missing",
            text=f"`{path}` of `{owned.label}` is missing",
            package=owned.package,
            manager=owned.manager,
            path=path,
        )

    def _changed(self, path: str, place: str, owned: Owned, sha256: Mapping[str, str]) -> Iterator[Finding]:
        if self._is_of_a_script(path, owned.package):
            return
        target = self.inventory[place].target
        found = f"sha256:{sha256[place]}" if target is None else f"a link to {target}"
        yield Finding(
            kind="file-changed",
            text=f"`{path}` of `{owned.label}` differs from its package",
            package=owned.package,
            manager=owned.manager,
            path=path,
            wanted=f"sha256:{owned.claim.sha256}",
            found=found,
        )

    @cached_property
    def _scripts(self) -> dict[str, str]:
        """The text of each package's link script."""
        found = {}
        for package in self.conda:
            for path in (f"bin/.{package.name}-post-link.sh", f"Scripts/.{package.name}-post-link.bat"):
                if path in self.inventory:
                    found[package.name] = (self.prefix / path).read_text(encoding="utf-8", errors="replace")
        return found

    def _is_of_a_script(self, path: str, package: str | None) -> bool:
        """Return whether a link script mentions the file: the script of ``package``, or any script if it is None."""
        name = posixpath.basename(path)
        texts = self._scripts.values() if package is None else [self._scripts.get(package, "")]
        return len(name) >= _SHORTEST_NAME and any(name in text for text in texts)


def _is_bytecode(path: str) -> bool:
    return path.endswith((".pyc", ".pyo")) or "/__pycache__/" in path
