"""Choose the lockfile of a project for a machine: ``conda-lock.yml`` or ``lockfiles/NAME/conda-lock.yml``.

The project's own lockfile is compared under the name of its PyTorch build.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from envforge.base.terms import WheelTag
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.lock.lockfile import list_variants, order_of
from envforge.lock.needs import Needs, concerns, describe, read_needs, unmet
from envforge.lock.plan import make_plan, read_any_lock
from envforge.lock.project import LOCK_FILE, VARIANTS_DIRECTORY
from envforge.machine.values import Machine
from envforge.pytorch.matrix import Matrix, load_matrix


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The variant for a machine. ``reason`` includes why others were skipped."""

    name: str
    lockfile: Path
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class _Candidate:
    """A lockfile that may be chosen; ``needs`` is a message if the lockfile can't be read for this platform."""

    name: str
    lockfile: Path
    needs: Needs | str

    @property
    def label(self) -> str:
        """Name of the variant, followed by the file name for the project's own lockfile."""
        own = self.lockfile.parent.parent.name != VARIANTS_DIRECTORY and self.name != LOCK_FILE
        return f"{self.name} ({LOCK_FILE})" if own else self.name


def list_locks(project: Path, platform: str) -> tuple[str, ...]:
    """Return the names of all lockfiles that ``choose_variant`` considers, in its order."""
    return tuple(one.label for one in _candidates(project, platform, load_matrix()))


def variant_lock(project: Path, name: str, platform: str) -> Path:
    """Return the lockfile of a variant; raise ``RequestError`` if there is none of that name."""
    names = list_variants(project)
    if name in names:
        return project / VARIANTS_DIRECTORY / name / LOCK_FILE
    own = [_candidate(None, project / LOCK_FILE, platform, load_matrix())] if (project / LOCK_FILE).exists() else []
    if own and own[0].name == name:
        return own[0].lockfile
    known = ", ".join(f"`{other}`" for other in (*(one.label for one in own), *names)) or "none"
    raise RequestError(
        f"unknown variant `{name}` of `{project.absolute()}`; expected one of: {known}",
        hint="to create it",
        command=f"envforge lock --variant {shlex.quote(name)}",
        code="no-such-variant",
    )


def choose_variant(project: Path, machine: Machine) -> Choice:
    """Return the first lockfile that fits the machine without concerns, or else the first one that fits.

    Raises ``EnvforgeError`` with the reasons if there is none.
    """
    reasons, usable = [], []
    matrix = load_matrix()
    for one in _candidates(project, machine.platform, matrix):
        if isinstance(one.needs, str):
            reasons.append(f"{one.label}: {one.needs}")
            continue
        against, but = unmet(one.needs, machine, matrix), concerns(one.needs, machine)
        if not against and not but:
            reason = _said(f"requires {describe(one.needs, matrix)}", reasons)
            return Choice(name=one.label, lockfile=one.lockfile, reason=reason)
        reasons.append(f"{one.label}: {'; '.join(against or but)}")
        if not against:
            usable.append(Choice(name=one.label, lockfile=one.lockfile, reason="; ".join(but)))
    if usable:
        return usable[0]
    lines = "".join(f"\n  {reason}" for reason in reasons)
    raise EnvforgeError(
        f"no lockfile of `{project.absolute()}` supports this machine:{lines}",
        hint=(
            Hint("to see which builds this machine supports", "envforge explain"),
            Hint("to install one anyway", "envforge install --variant NAME --ignore-machine"),
        ),
        code="no-variant-fits",
    )


def _candidates(project: Path, platform: str, matrix: Matrix) -> Iterator[_Candidate]:
    """Yield the lockfiles in order of preference, each read on demand; the project's own is first of its name."""
    own = project / LOCK_FILE
    known = [_candidate(None, own, platform, matrix)] if own.exists() else []
    names = [*((one.name, one) for one in known), *((name, None) for name in list_variants(project))]
    for name, read in sorted(names, key=lambda each: order_of(each[0])):
        yield read or _candidate(name, project / VARIANTS_DIRECTORY / name / LOCK_FILE, platform, matrix)


def _candidate(name: str | None, lockfile: Path, platform: str, matrix: Matrix) -> _Candidate:
    """Read a lockfile; without ``name``, it is named after its PyTorch build, or its file if it has none."""
    try:
        plan = make_plan(read_any_lock(lockfile, platform), platform, lockfile, allow_builds=True)
    except EnvforgeError as error:
        return _Candidate(name=name or LOCK_FILE, lockfile=lockfile, needs=error.message)
    needs = read_needs(plan, matrix)
    return _Candidate(name=name or _build_name(needs) or LOCK_FILE, lockfile=lockfile, needs=needs)


def _build_name(needs: Needs) -> str | None:
    if needs.build is not None:
        return str(needs.build.tag)
    return str(WheelTag(needs.cuda.version)) if needs.cuda is not None else None


def _said(head: str, passed_over: Iterable[str]) -> str:
    return "; ".join([head, *(f"not {reason}" for reason in passed_over)])
