"""Describe a lockfile as an entry of a catalogue: its packages, its requirements, its publisher, and the time."""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct
from packaging.version import Version

from envforge.base.envelope import Json
from envforge.base.files import regular
from envforge.base.urls import has_secrets
from envforge.catalogue.directory import Addition
from envforge.catalogue.index import LOCK_SUFFIX, TIME_FORMAT, read_row
from envforge.catalogue.signing import Signer, sign_lock
from envforge.errors import EnvforgeError, RequestError
from envforge.lock.check import check_lock
from envforge.lock.environment_spec import input_sha256
from envforge.lock.lockfile import Lockfile, parse_lockfile
from envforge.lock.needs import PlatformNeeds, read_needs, requirements_json, requirements_of
from envforge.lock.plan import Artifact, Plan, make_plan
from envforge.lock.project import ENVIRONMENT_FILE, VIRTUAL_PACKAGES_FILE, read_text
from envforge.pytorch.matrix import PYTORCH_INDEX, Build, load_matrix

_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")


class PublishRequest(Struct, frozen=True, kw_only=True):
    """One publication. ``size_of`` returns the size of a package's file in bytes, if known."""

    lockfile: Path
    template: str
    name: str | None
    publisher: str
    at: dt.datetime
    size_of: Callable[[Artifact], int | None]
    signer: Signer | None = None


def make_addition(request: PublishRequest) -> Addition:
    """Read the lockfile and describe it.

    Raises ``EnvforgeError`` if it contains credentials, is outdated, or has no known PyTorch build.
    """
    data = _read(request.lockfile)
    lock = parse_lockfile(data.decode("utf-8"), str(request.lockfile))
    _refuse_credentials(lock, request.lockfile)
    inputs = _inputs(request.lockfile)
    plans = [make_plan(lock, platform, request.lockfile) for platform in lock.platforms]
    first = plans[0]
    build = _build(read_needs(first, load_matrix()), request.lockfile)
    name = check_name(request.name or f"{request.template}/{build.tag}-{'-'.join(lock.platforms)}")
    row: dict[str, Any] = {
        "template": request.template,
        "variant": str(build.tag),
        "platforms": list(lock.platforms),
        "file": name + LOCK_SUFFIX,
        "sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "input_sha256": inputs,
        "date": request.at.date().isoformat(),
        "selection": _selection(build, first),
        "requirements": _requirements(lock, _sizes(plans, request.size_of)),
        "published": {"by": request.publisher, "at": request.at.strftime(TIME_FORMAT)},
    }
    return _signed(row, data, request)


def check_name(name: str) -> str:
    """Return the name of an entry without its suffix; raise ``RequestError`` if it is invalid.

    A name has parts of letters, digits, and ``._+-``, separated by ``/``.
    """
    name = name.removesuffix(LOCK_SUFFIX)
    if not all(_PART.fullmatch(part) for part in name.split("/")) or len(name) > 200:
        raise RequestError(
            f"invalid entry name `{name}`: expected up to 200 letters, digits, and `._+-`, in parts separated by `/`",
            hint="choose another name, such as `--name image-classification/cu118-linux-64`",
            code="bad-entry-name",
        )
    return name


def _signed(row: dict[str, Any], data: bytes, request: PublishRequest) -> Addition:
    files = {str(row["file"]): data}
    if request.signer is not None:
        # signed before `signed_by` is known: the signature covers the file and its input, not this field
        entry = read_row(row, Path())
        signature, row["signed_by"] = sign_lock(data, entry, request.signer)
        files[str(entry.signature)] = signature
    return Addition(row=row, files=files, signer=request.signer)


def _read(path: Path) -> bytes:
    try:
        return regular(path).read_bytes()
    except OSError as error:
        raise EnvforgeError(
            f"cannot read the lockfile `{path}`: {error.strerror or error}",
            hint="publish from a project directory; to create the lockfile from environment.yml",
            command="envforge lock",
            code="lockfile-unreadable",
        ) from error


def _refuse_credentials(lock: Lockfile, where: Path) -> None:
    named = [package.name for package in lock.packages if has_secrets(package.url)]
    if named:
        raise EnvforgeError(
            f"`{where}` can't be published: the URL of `{named[0]}` contains a user name, a password, or a token",
            hint="move the credentials to `~/.netrc` or the keyring, or write a variable into the URL "
            "(`https://$USER:$TOKEN@host`); to lock again",
            command="envforge lock",
            code="credentials-in-lock",
        )


def _inputs(lockfile: Path) -> str:
    """Return the hash of the input of a lockfile; raise ``EnvforgeError`` if the lockfile is outdated."""
    environment, virtual = lockfile.parent / ENVIRONMENT_FILE, lockfile.parent / VIRTUAL_PACKAGES_FILE
    if not environment.is_file():
        raise EnvforgeError(
            f"`{environment}` does not exist, so the requirements of the lockfile are unknown",
            hint=f"publish a lockfile that is next to its `{ENVIRONMENT_FILE}`",
            code="no-environment",
        )
    # the index lists the hash of the input, so the lockfile has to be the one of this input
    differences = check_lock(environment, lockfile)
    if differences:
        raise EnvforgeError(
            f"the lockfile `{lockfile}` needs to be updated to match `{environment}`: {differences[0]}",
            hint="to update the lockfile",
            command="envforge lock"
            if lockfile == Path(lockfile.name)
            else f"envforge lock --file {shlex.quote(str(environment))}",
            code="lock-outdated",
        )
    texts = [read_text(path, newline=None) if path.is_file() else "" for path in (environment, virtual)]
    return input_sha256(texts[0], texts[1])


def _build(needs: PlatformNeeds, where: Path) -> Build:
    if needs.build is None:
        raise EnvforgeError(
            f"`{where}` has no known PyTorch wheel for `{needs.platform}`, and a catalogue contains only lockfiles of "
            "PyTorch environments",
            hint="to share the environment in another way",
            command=shlex.join(["envforge", "bundle", str(where)]),
            code="no-known-torch",
        )
    return needs.build


def _selection(build: Build, plan: Plan) -> dict[str, str | None]:
    python = Version(next(a.package.version for a in plan.conda if a.package.name == "python"))
    names = {a.package.name for a in plan.wheels}
    return {
        "torch": str(build.torch),
        "torchvision": str(build.torchvision) if "torchvision" in names and build.torchvision else None,
        "tag": str(build.tag),
        "python": f"{python.major}.{python.minor}",
        "index_url": f"{PYTORCH_INDEX}/{build.tag}",
    }


def _requirements(lock: Lockfile, sizes: Mapping[str, int]) -> dict[str, Json]:
    """Return the requirements of the first platform as values, and those of all platforms as text."""
    matrix = load_matrix()
    needs = {platform: requirements_of(lock, platform, matrix, sizes) for platform in lock.platforms}
    row = requirements_json(needs[lock.platforms[0]])
    if len(needs) > 1:
        row["words"] = " | ".join(f"{platform}: {each.words}" for platform, each in needs.items())
    return row


def _sizes(plans: list[Plan], size_of: Callable[[Artifact], int | None]) -> dict[str, int]:
    """Return the known file sizes in bytes, by SHA-256."""
    artifacts = [artifact for plan in plans for artifact in (*plan.conda, *plan.wheels)]
    return {a.digest.hex: size for a in artifacts if (size := size_of(a)) is not None}
