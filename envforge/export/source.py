"""What is exported: a lock, the platforms that are meant, and the packages of each that ``install`` would install.

Enters: a lockfile, the platforms that were asked for, the platform of this computer. Leaves: a ``Source``, or an error
for what no other tool could check either: packages without a checksum, addresses with credentials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from envforge.catalogue import PLACEHOLDER
from envforge.errors import EnvforgeError, RequestError, printable
from envforge.install.plan import Plan, make_plan
from envforge.install.values import Artifact
from envforge.lock.inputs import refuse_credentials
from envforge.lockfile import Lockfile

MARK = "# Made by envforge export"


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """One lockfile to export. ``name`` is its name without the directory; there is a plan for each platform.

    ``requirement`` is what pip installs envforge by, for the formats whose files need envforge or mention it.
    """

    name: str
    channels: tuple[str, ...]
    plans: tuple[Plan, ...]
    lockfile: Lockfile
    requirement: str = ""

    @property
    def plan(self) -> Plan:
        """The only plan, for formats of one platform."""
        (plan,) = self.plans
        return plan


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """The text of an export, and the files that its tool wants beside it: (name, text)."""

    text: str
    beside: tuple[tuple[str, str], ...] = ()


def read_source(lockfile: Lockfile, where: Path, platforms: tuple[str, ...], requirement: str = "") -> Source:
    """Plan each platform; raises ``EnvforgeError`` for what cannot be exported with its checksum."""
    plans = tuple(make_plan(lockfile, platform, where, allow_builds=True) for platform in platforms)
    artifacts = [artifact for plan in plans for artifact in (*plan.conda, *plan.wheels)]
    addresses = [artifact.package.url for artifact in artifacts]
    refuse_credentials(str(where), (*lockfile.channels, *addresses))
    _refuse_spaces(where, artifacts)
    _refuse_placeholders(where, addresses)
    return Source(
        name=where.name,
        channels=lockfile.channels or _channels(artifacts),
        plans=plans,
        lockfile=lockfile,
        requirement=requirement,
    )


def choose_platforms(lockfile: Lockfile, asked: str | None, here: str, *, whole: bool) -> tuple[str, ...]:
    """The platforms to export: the one asked for, all where the format holds all, else this computer's or the only one.

    Raises ``RequestError`` where several are left to choose from.
    """
    if asked is not None:
        return (asked,)
    if whole or len(lockfile.platforms) == 1:
        return lockfile.platforms
    if here in lockfile.platforms:
        return (here,)
    names = ", ".join(f"`{name}`" for name in lockfile.platforms)
    raise RequestError(
        f"the lockfile has packages for {names}, but not for this machine (`{here}`)",
        hint=f"to select a platform, pass `--platform {lockfile.platforms[0]}`" if lockfile.platforms else "",
        code="which-platform",
    )


def build_of(artifact: Artifact) -> str:
    """The build string of a conda archive, ``py310hb13e2d6_0``."""
    stem = artifact.file_name.removesuffix(".conda").removesuffix(".tar.bz2")
    return stem.rsplit("-", 1)[-1]


def python_of(plan: Plan) -> str | None:
    """The version of the locked Python, ``3.10.20``."""
    return next((a.package.version for a in plan.conda if a.package.name == "python"), None)


def header(source: Source, *lines: str) -> str:
    """The remark at the top of an export: what made it, from what, and how it is used."""
    made = f"{MARK} from {source.name}; don't edit this file, export it again."
    return "\n".join([made, *(f"# {line}".rstrip() for line in lines)]) + "\n"


def channel_of(url: str) -> str:
    """The channel that an archive's address belongs to: all but the subdir and the file name."""
    return url.split("#", 1)[0].rsplit("/", 2)[0]


def subdir_of(url: str) -> str:
    """The subdir in an archive's address: ``linux-64``, ``noarch``."""
    return unquote(url.rsplit("/", 2)[1])


def _channels(artifacts: Iterable[Artifact]) -> tuple[str, ...]:
    """The channels of a lock that does not name them, in the order in which they occur."""
    return tuple(dict.fromkeys(channel_of(a.package.url) for a in artifacts if a.package.manager == "conda"))


def _refuse_placeholders(where: Path, addresses: Iterable[str]) -> None:
    """A lock as the catalogue stores it names files of the Python registry by an address that leads nowhere."""
    unfilled = sum(address.startswith(PLACEHOLDER) for address in addresses)
    if unfilled:
        raise EnvforgeError(
            f"`{where}` is a lockfile as the catalogue stores it: {unfilled} of its URLs are placeholders for your "
            "package index",
            hint="export the lockfile of a project instead; to create one",
            command="envforge new TEMPLATE",
            code="stored-lock",
        )


def _refuse_spaces(where: Path, artifacts: Iterable[Artifact]) -> None:
    """No name, version or address may end its line and begin another one in the exported file."""
    for artifact in artifacts:
        package = artifact.package
        for text in (package.name, package.version, package.url):
            if re.search(r"[\s\x00-\x1f\x7f]", text):
                raise EnvforgeError(
                    f"`{where}` can't be exported: `{printable(text)}` of the package `{printable(package.name)}` "
                    "contains a space or a control character",
                    hint="restore the lockfile from version control; to create it again",
                    command="envforge lock",
                    code="lockfile-damaged",
                )
