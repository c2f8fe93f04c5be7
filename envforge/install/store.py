"""Store package files in a cache with one directory per checksum; a file is verified again before each use.

CACHE/files/ab/abcdef…/jinja2-3.1.6-pyhd8ed1ab_0.conda
CACHE/files/ab/abcdef…/jinja2-3.1.6-pyhd8ed1ab_0.conda.part      an incomplete download
CACHE/pkgs/                                                      conda packages, unpacked by rattler
CACHE/uv/                                                        wheels, unpacked by uv
CACHE/bundles/abcdef…/conda-lock.yml                             the lockfile of an installed bundle
"""

from __future__ import annotations

import hashlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from envforge.errors import EnvforgeError, OutsideError
from envforge.install.credentials import without_credentials
from envforge.install.values import Artifact, Digest

VARIABLE = "ENVFORGE_CACHE"
_BLOCK = 1 << 20
_MODIFIED_S = 315_532_800  # 1980-01-01: uv records the mtime of a wheel, which must be the same on every machine


@dataclass(frozen=True, slots=True)
class Store:
    """The cache in one directory."""

    root: Path

    @property
    def conda(self) -> Path:
        """Directory to which rattler unpacks."""
        return self.root / "pkgs"

    @property
    def uv(self) -> Path:
        """Directory to which uv unpacks."""
        return self.root / "uv"

    def create(self) -> None:
        """Create the directory; raise ``OutsideError`` that names the variable to set if it can't be written."""
        reason = ""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = error.strerror or str(error)
        if not reason and os.access(self.root, os.W_OK):
            return
        stated = os.environ.get(VARIABLE)
        source = f" (from `{VARIABLE}`)" if stated and self.root == Path(stated).absolute() else ""
        raise OutsideError(
            f"cannot write to the package cache `{self.root}`{source}: {reason or 'Permission denied'}",
            hint=f"to use another directory, set `{VARIABLE}=DIR`",
            code="cache-not-writable",
        )

    def path(self, artifact: Artifact) -> Path:
        """Return the path of the file of a package, whether or not it exists."""
        name = artifact.file_name
        if name in {"", ".", ".."} or "/" in name or "\\" in name or "\0" in name:
            raise EnvforgeError(
                f"the URL of `{artifact.label}` does not end in a file name: "
                f"`{without_credentials(artifact.package.url)}`",
                hint="to create the lockfile again",
                command="envforge lock",
                code="bad-address",
            )
        key = artifact.digest.hex
        folder = key if artifact.digest.algorithm == "sha256" else f"md5-{key}"
        return self.root / "files" / key[:2] / folder / name

    def bundled_lock(self, lock: bytes) -> Path:
        """Return the path of the lockfile of a bundle."""
        return self.root / "bundles" / hashlib.sha256(lock).hexdigest() / "conda-lock.yml"

    def keep(self, partial: Path, path: Path) -> None:
        """Move a verified download to its place in the cache."""
        os.utime(partial, (_MODIFIED_S, _MODIFIED_S))
        partial.replace(path)

    def evict(self, artifact: Artifact) -> None:
        """Remove the file of a package and its partial download."""
        shutil.rmtree(self.path(artifact).parent, ignore_errors=True)


def default_root() -> Path:
    """Return the default cache directory of the user."""
    import platformdirs  # noqa: PLC0415 - only if no directory is specified

    return Path(platformdirs.user_cache_dir("envforge", appauthor=False)) / "packages"


def digest_of(path: Path, wanted: Digest) -> Digest:
    """Return the checksum of a file, using the algorithm of ``wanted``."""
    hasher, block = new_hasher(wanted), bytearray(_BLOCK)
    view = memoryview(block)
    with path.open("rb", buffering=0) as stream:
        while length := stream.readinto(block):
            hasher.update(view[:length])
    return Digest(algorithm=wanted.algorithm, hex=hasher.hexdigest())


def new_hasher(wanted: Digest) -> hashlib._Hash:
    """Return a hash object for the algorithm of ``wanted``."""
    return hashlib.sha256() if wanted.algorithm == "sha256" else hashlib.md5(usedforsecurity=False)
