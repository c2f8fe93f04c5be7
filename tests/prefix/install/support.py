"""Create lockfiles of the tests' own packages, and a progress that records its calls."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import yaml
from msgspec import Struct
from packaging.utils import parse_wheel_filename

from envforge.prefix.install import install
from envforge.prefix.values import InstallReport, InstallRequest, Retry
from tests.support.channel import SUBDIR, Written
from tests.support.wheel import sha256_of

NO_WAIT = Retry(delays_s=(0.0, 0.0), timeout_s=10.0)


@dataclass
class LockWriter:
    """Collects packages and writes a conda-lock.yml."""

    base: str
    rows: list[dict[str, Any]] = field(default_factory=list)

    def conda(self, *packages: Written, **changes: Any) -> LockWriter:
        for written in packages:
            package = written.package
            location = quote(written.location)
            row = self._row(package.name, package.version, "conda", f"{self.base}/{location}")
            row["hash"] = {"md5": written.md5, "sha256": written.sha256}
            self.rows.append(row | changes)
        return self

    def wheel(self, *paths: Path, **changes: Any) -> LockWriter:
        for path in paths:
            name, version, _, _ = parse_wheel_filename(path.name)
            row = self._row(str(name), str(version), "pip", f"{self.base}/wheels/{quote(path.name)}")
            row["hash"] = {"sha256": sha256_of(path)}
            self.rows.append(row | changes)
        return self

    def _row(self, name: str, version: str, manager: str, url: str) -> dict[str, Any]:
        return {
            "name": name,
            "version": version,
            "manager": manager,
            "platform": SUBDIR,
            "dependencies": {},
            "url": url,
            "category": "main",
            "optional": False,
        }

    def write(self, path: Path, **custom_metadata: str) -> Path:
        document = {
            "version": 1,
            "metadata": {
                "content_hash": {SUBDIR: "0" * 64},
                "channels": [{"url": self.base, "used_env_vars": re.findall(r"\$\{?(\w+)", self.base)}],
                "platforms": [SUBDIR],
                "sources": ["environment.yml"],
                "custom_metadata": custom_metadata,
            },
            "package": self.rows,
        }
        path.write_text(yaml.safe_dump(document), encoding="utf-8")
        return path


@dataclass
class Noted:
    """A progress that keeps what it was told."""

    steps: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    advanced: int = 0

    def begin(self, step: str, total: int | None, unit: Literal["bytes", "packages"]) -> None:
        self.steps.append(step)

    def advance(self, amount: int) -> None:
        self.advanced += amount

    def enlarge(self, amount: int) -> None: ...

    def end(self) -> None: ...

    def note(self, text: str) -> None:
        self.notes.append(text)


class Place(Struct, frozen=True):
    """A folder for one test: where its cache, its lock and its prefix lie."""

    folder: Path
    shared_cache: Path | None = None

    @property
    def prefix(self) -> Path:
        return self.folder / "prefix"

    @property
    def cache(self) -> Path:
        return self.shared_cache or self.folder / "cache"

    def install(self, lock: Path, progress: Noted | None = None, **changes: Any) -> InstallReport:
        fields: dict[str, Any] = {"prefix": self.prefix, "platform": SUBDIR, "cache": self.cache, "retry": NO_WAIT}
        return install(InstallRequest(lockfile=lock, **(fields | changes)), progress or Noted())


def tree(prefix: Path) -> dict[str, str]:
    """Every file of a prefix with its checksum or its target, the journal's folder and the history left out."""
    found = {}
    for path in sorted(prefix.rglob("*")):
        name = path.relative_to(prefix).as_posix()
        if name.startswith(".envforge/") or name == "conda-meta/history" or "__pycache__" in name:
            continue
        if path.is_symlink():
            found[name] = f"-> {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
