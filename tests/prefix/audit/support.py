"""Create prefixes to audit, and change them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from msgspec import Struct

from envforge.prefix.audit import AuditReport, AuditRequest, Repair, audit, repair
from envforge.prefix.values import InstallRequest
from tests.prefix.install.support import NO_WAIT, Noted, Place
from tests.support.channel import SITE_PACKAGES, SUBDIR


class Audited(Struct, frozen=True):
    place: Place
    lockfile: Path
    base: str

    @property
    def prefix(self) -> Path:
        return self.place.prefix

    @property
    def site(self) -> Path:
        return self.prefix / SITE_PACKAGES

    def audit(self, *, full: bool = False, lockfile: Path | None = None) -> AuditReport:
        return audit(AuditRequest(prefix=self.prefix, platform=SUBDIR, full=full, lockfile=lockfile))

    def drift(self) -> list[tuple[str, str]]:
        """What differs: kind, and path or package."""
        return sorted((found.kind, found.path or found.package) for found in self.audit().drift)

    def repair(self, lockfile: Path | None = None, *, offline: bool = True) -> Repair:
        audited = AuditRequest(prefix=self.prefix, platform=SUBDIR, lockfile=lockfile)
        report = audit(audited)
        request = InstallRequest(
            lockfile=report.lockfile,
            prefix=self.prefix,
            platform=SUBDIR,
            cache=self.place.cache,
            retry=NO_WAIT,
            offline=offline,
        )
        return repair(report, audited, request, Noted())

    def run_python(self, *words: str) -> None:
        done = subprocess.run([str(self.prefix / "bin/python"), *words], env={}, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr


def edit(path: Path, data: bytes | None = None) -> None:
    """Put another file in a file's place, as editors do; the package cache, which shares the inode, stays as it is."""
    content = path.read_bytes() + b"# edited\n" if data is None else data
    aside = path.with_name(f"{path.name}.aside")
    aside.write_bytes(content)
    aside.chmod(path.stat().st_mode)
    aside.replace(path)


def age(path: Path, seconds: int = 3600) -> None:
    """Let a file seem to have been changed a while ago."""
    state = path.stat()
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns - seconds * 10**9))
