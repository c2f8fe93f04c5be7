"""Read the file of refreshed facts, and layer it over the built-in table.

The file has one row for each build and each CUDA toolkit that the built-in table lacks or doesn't confirm. A confirmed
row of the built-in table is pinned: no file replaces it.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, cast

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.documents import Document, Printable, matching
from envforge.base.envelope import to_json
from envforge.base.files import regular
from envforge.base.terms import WheelTag
from envforge.errors import EnvforgeError, Hint, RequestError
from envforge.machine.values import driver_text
from envforge.pytorch.matrix import BUILT_IN, FACTS_VARIABLE, Build, FactsId, Matrix, Minimum, facts_path

SCHEMA_VERSION = 1
OLD_AFTER_DAYS = 60
MOST_BYTES = 4_000_000  # the built-in table with all its rows has 100,000
RELEASE = r"\d{1,5}(\.\d{1,5}){0,3}"  # no epoch, no post release, and no number that is a date or longer
_ORIGIN = ("source", "kernels_source", "checked")

# versions, not their text: `2.14.1.0` is another spelling of `2.14.1`
BuildKey: TypeAlias = tuple[Version, str, str]
_Tag = Annotated[str, matching(r"cpu|cu\d{2,3}", "`cpu` or a tag such as `cu118`")]
_CondaSubdir = Annotated[str, matching(r"[a-z]+-[a-z0-9]+", "a platform such as `linux-64`")]
_Dotted = Annotated[str, matching(RELEASE, "a version such as `12.4`, as a string")]
_Short = Annotated[str, matching(r"\d{1,2}\.\d", "two numbers such as `8.6`, as a string")]
_Some = Annotated[tuple[_Dotted, ...], msgspec.Meta(min_length=1)]


class FactsFileError(EnvforgeError):
    """A file of facts that is unreadable, invalid, or contradicts a pinned row."""


class BuildRow(Struct, frozen=True, kw_only=True):
    """A build, and where and when it was found; without ``kernels_source``, its kernels are inferred."""

    torch: _Dotted
    tag: _Tag
    platform: _CondaSubdir
    torchvision: _Dotted | None = None
    torchaudio: _Dotted | None = None
    glibc: _Dotted | None = None
    pythons: _Some
    capabilities: tuple[_Short, ...] = ()
    ptx: tuple[_Short, ...] = ()
    plain: tuple[Literal["torch", "torchvision", "torchaudio"], ...] = ()
    source: Printable
    kernels_source: Printable | None = None
    checked: dt.date

    @property
    def key(self) -> BuildKey:
        """What identifies the build."""
        return Version(self.torch), str(WheelTag.parse(self.tag)), self.platform

    def build(self) -> Build:
        """Return the row as a build of the table."""
        values = {name: value for name, value in _plain(self).items() if name not in _ORIGIN}
        stated = self.kernels_source is not None or self.tag == "cpu"
        extra = {
            "capabilities": (),
            "ptx": (),
            "local_version": "torch" not in self.plain,
            "confirmed": True,
            "capabilities_stated": stated,
        }
        return _document("a row of facts").convert({**extra, **values}, Build)


class ToolkitRow(Struct, frozen=True, kw_only=True):
    """The driver that comes with a CUDA toolkit, and where and when that was found."""

    cuda: _Short
    linux: _Dotted
    windows: _Dotted
    source: Printable
    checked: dt.date

    def minimum(self) -> Minimum:
        """Return the row as one of the table."""
        values = {"cuda": self.cuda, "linux": self.linux, "windows": self.windows}
        return _document("a row of facts").convert(values, Minimum)


class FactsFile(Struct, frozen=True, kw_only=True):
    """The contents of a file of refreshed facts."""

    schema_version: Literal[1] = 1
    checked: dt.date
    builds: tuple[BuildRow, ...] = ()
    toolkits: tuple[ToolkitRow, ...] = ()


def installed_facts() -> tuple[FactsFile, FactsId] | None:
    """Return the refreshed table of this computer; None if there is none."""
    path = facts_path()
    if path is None:
        return None
    if not path.exists():
        if os.environ.get(FACTS_VARIABLE):
            raise RequestError(
                f"`{FACTS_VARIABLE}` selects `{path}`, which doesn't exist",
                hint=f"to use only the built-in facts, set `{FACTS_VARIABLE}={BUILT_IN}`",
                code="no-facts-file",
            )
        return None
    return read_facts_file(path)


def read_facts_file(path: Path) -> tuple[FactsFile, FactsId]:
    """Read a file of facts; raise ``FactsFileError`` if it is invalid, and name what a newer envforge wrote."""
    return parse_facts(facts_bytes(path), path)


def facts_bytes(path: Path) -> bytes:
    """Return the contents of a file of facts; raise ``FactsFileError`` if it can't be read or is too large."""
    try:
        size = regular(path).stat().st_size
        data = path.read_bytes() if size <= MOST_BYTES else b""
    except OSError as error:
        raise FactsFileError(
            f"cannot read the facts `{path}`: {error.strerror or error}", hint=_hints(path), code="facts-unreadable"
        ) from error
    if size > MOST_BYTES:
        raise FactsFileError(
            f"the facts `{path}` have {size:,} bytes; expected at most {MOST_BYTES:,}",
            hint=_hints(path),
            code="facts-damaged",
        )
    return data


def parse_facts(data: bytes, path: Path | str) -> tuple[FactsFile, FactsId]:
    """Parse a file of facts; ``path`` names it in errors."""
    document = _document(f"the facts `{path}` are invalid", path)
    version = document.read_json(data, dict[str, Any]).get("schema_version")
    if type(version) is int and version > SCHEMA_VERSION:
        raise FactsFileError(
            f"the facts `{path}` were written by a newer envforge: expected schema_version `{SCHEMA_VERSION}`, "
            f"found `{version}`",
            hint=(Hint("to read them, upgrade envforge", _upgrade()), *_hints(path)),
            code="facts-newer",
        )
    facts = document.read_json(data, FactsFile)
    _check(facts, document)
    return facts, FactsId(checked=facts.checked, sha256=hashlib.sha256(data).hexdigest())


def _check(facts: FactsFile, document: Document) -> None:
    """Raise the document's error for rows that no table can have."""
    seen: dict[object, str] = {}
    for number, row in enumerate(facts.builds):
        where = f"builds[{number}]"
        if row.tag != "cpu" and not row.capabilities:
            raise document.fault(f"{where}.capabilities", "the kernels of a CUDA build", "none")
        # PTX is never inferred, because it would promise to run on any newer GPU
        if row.kernels_source is None and row.ptx:
            raise document.fault(f"{where}.ptx", "`kernels_source`, which states PTX", "none")
        if row.key in seen:
            raise document.fault(where, f"a build that differs from {seen[row.key]}", _named(row.key))
        seen[row.key] = where
        row.build()  # raises if a version is invalid
    for number, toolkit in enumerate(facts.toolkits):
        where = f"toolkits[{number}]"
        cuda = toolkit.minimum().cuda
        if cuda in seen:
            raise document.fault(where, f"a toolkit that differs from {seen[cuda]}", toolkit.cuda)
        seen[cuda] = where


def dump_facts(facts: FactsFile) -> bytes:
    """Return the bytes of a file of facts, sorted, with one row on each line; the same facts produce the same bytes."""
    head = {"schema_version": SCHEMA_VERSION, "checked": facts.checked.isoformat()}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    builds = sorted(facts.builds, key=lambda row: _order(row.build()))
    toolkits = sorted(facts.toolkits, key=lambda row: row.minimum().cuda)
    for name, rows in {"builds": map(_plain, builds), "toolkits": map(_plain, toolkits)}.items():
        texts = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)
        lines.append(f" {json.dumps(name)}: [\n{texts}\n ]" if texts else f" {json.dumps(name)}: []")
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


def _plain(row: BuildRow | ToolkitRow) -> dict[str, Any]:
    values = cast("dict[str, Any]", to_json(row, omit_none=True))
    return {name: value for name, value in values.items() if value != []}


def layered(matrix: Matrix, facts: FactsFile, identity: FactsId | None) -> Matrix:
    """Return the table with the rows of the file that it doesn't pin."""
    builds = {key_of(build): build for build in matrix.builds}
    rows = [row.build() for row in facts.builds]
    for build in rows:
        builds[key_of(build)] = _merged(builds.get(key_of(build)), build)
    # a file that is already in use may undercut a minimum, too
    fits = [row.minimum() for row in facts.toolkits if not any(_driver_faults(row, matrix, facts))]
    toolkits = {row.cuda: row for row in (*fits, *matrix.toolkits)}
    # inferred kernels don't make a compute capability known
    stated = {each for build in rows if build.capabilities_stated for each in build.capabilities}
    return replace(
        matrix,
        builds=tuple(sorted(builds.values(), key=_order)),
        toolkits=tuple(sorted(toolkits.values(), key=lambda row: row.cuda)),
        known_capabilities=tuple(sorted({*matrix.known_capabilities, *stated})),
        checked=max(matrix.checked, facts.checked.isoformat()),
        refreshed=identity,
    )


def _merged(pinned: Build | None, found: Build) -> Build:
    """Return a build of the built-in table with what the file adds: everything, or kernels that were inferred."""
    if pinned is None or not pinned.confirmed:
        return found
    if pinned.capabilities_stated or not found.capabilities_stated:
        return pinned
    return replace(pinned, capabilities=found.capabilities, ptx=found.ptx, capabilities_stated=True)


def contradictions(matrix: Matrix, facts: FactsFile) -> Iterator[str]:
    """Yield each row that states something else than a pinned row of ``matrix``, in words."""
    pinned = {key_of(build): build for build in matrix.builds if build.confirmed}
    for row in facts.builds:
        known = pinned.get(row.key)
        if known is not None:
            yield from (f"{_named(row.key)}: {text}" for text in _differences(known, row.build()))
    toolkits = {each.cuda: each for each in matrix.toolkits}
    for toolkit in facts.toolkits:
        minimum = toolkits.get(toolkit.minimum().cuda)
        if minimum is not None and minimum.linux != toolkit.minimum().linux:
            yield f"CUDA {toolkit.cuda}: driver {driver_text(minimum.linux)} is pinned, found {toolkit.linux}"
        yield from (f"CUDA {toolkit.cuda}: {text}" for text in _driver_faults(toolkit, matrix, facts))


def _driver_faults(toolkit: ToolkitRow, matrix: Matrix, facts: FactsFile) -> Iterator[str]:
    """Yield why the driver of a toolkit can't be right: too old for its CUDA, or out of order with its neighbours."""
    found = toolkit.minimum()
    pinned = {row.cuda: row for row in matrix.toolkits}
    if found.cuda in pinned:
        return
    family = matrix.family_minimum(found.cuda)
    # of two rows of the file, the newer toolkit's is the one at fault
    others = [*pinned.values(), *(row for each in facts.toolkits if (row := each.minimum()).cuda < found.cuda)]
    older = max((row for row in others if row.cuda < found.cuda), key=lambda row: row.cuda, default=None)
    newer = min((row for row in others if row.cuda > found.cuda), key=lambda row: row.cuda, default=None)
    for windows, system in ((False, "Linux"), (True, "Windows")):
        driver = found.driver(windows=windows)
        text = f"found {driver_text(driver)} ({system})"
        if family is not None and driver < family.driver(windows=windows):
            yield f"CUDA {found.cuda.major} requires driver {driver_text(family.driver(windows=windows))}, {text}"
        elif older is not None and _is_older(driver, older.driver(windows=windows), windows=windows):
            yield f"driver {driver_text(older.driver(windows=windows))} of CUDA {older.cuda} is newer, {text}"
        elif newer is not None and _is_older(newer.driver(windows=windows), driver, windows=windows):
            yield f"driver {driver_text(newer.driver(windows=windows))} of CUDA {newer.cuda} is older, {text}"


def _is_older(driver: Version, other: Version, *, windows: bool) -> bool:
    # the number of the branch stands for its driver of Windows, so only branches compare there
    return driver.major < other.major if windows else driver < other


def _differences(pinned: Build, found: Build) -> Iterator[str]:
    """Yield what differs; a Python that was added after the release contradicts nothing."""
    if pinned.glibc != found.glibc:
        yield f"glibc {pinned.glibc} is pinned, found {found.glibc}"
    missing = [str(each) for each in pinned.pythons if each not in found.pythons]
    if missing:
        yield f"Python {', '.join(missing)} is pinned, but not found"
    if pinned.local_version != found.local_version:
        yield f"the version `{pinned.pin(pinned.torch)}` is pinned, found `{found.pin(found.torch)}`"
    both_stated = pinned.capabilities_stated and found.capabilities_stated
    kernels = set(pinned.capabilities), set(found.capabilities)
    if both_stated and kernels[0] != kernels[1]:
        texts = [", ".join(map(str, sorted(each))) for each in kernels]
        yield f"kernels for {texts[0]} are pinned, found {texts[1]}"


def changes(before: FactsFile | None, after: FactsFile) -> Iterator[str]:
    """Yield the difference between two files: ``+`` and ``-`` lines, one for each row."""
    rows: list[dict[str, str]] = []
    for facts in (before, after):
        found = {} if facts is None else {_named(row.key): _shown(row) for row in facts.builds}
        found |= {} if facts is None else {f"CUDA {row.cuda}": _shown_toolkit(row) for row in facts.toolkits}
        rows.append(found)
    for name in sorted(rows[0].keys() | rows[1].keys()):
        old, new = (each.get(name) for each in rows)
        if old == new:
            continue
        yield from (f"{sign} {name}: {text}" for sign, text in (("-", old), ("+", new)) if text is not None)


def _shown(row: BuildRow) -> str:
    pythons = row.pythons[0] if len(row.pythons) == 1 else f"{row.pythons[0]} to {row.pythons[-1]}"
    words = [f"Python {pythons}"]
    words += [f"glibc {row.glibc}"] if row.glibc else []
    words += [f"torchvision {row.torchvision}"] if row.torchvision else []
    if row.tag != "cpu":
        ptx = f" and PTX {', '.join(row.ptx)}" if row.ptx else ""
        kernels = f"kernels {', '.join(row.capabilities)}{ptx}"
        words.append(kernels if row.kernels_source else f"unverified: {kernels} are inferred")
    return ", ".join(words)


def _shown_toolkit(row: ToolkitRow) -> str:
    return f"driver {row.linux} (Linux), {row.windows} (Windows)"


def key_of(build: Build) -> BuildKey:
    """Return what identifies a build."""
    return build.torch, str(build.tag), build.platform


def note_of_other_facts(recorded: FactsId | None, here: FactsId | None) -> str | None:
    """Return how to select with the facts that a project records; None if this computer has the same."""
    if recorded == here:
        return None
    if recorded is None:
        text = f"the project's builds were selected with the built-in facts, but this computer has those of {here}"
        return f"{text}; to use the built-in ones, set `{FACTS_VARIABLE}={BUILT_IN}`"
    other = f"has those of {here}" if here is not None else "has only the built-in ones"
    return (
        f"the project's builds were selected with the facts of {recorded}, but this computer {other}; to use the same, "
        "run `envforge facts export FILE` on the computer that has them, and `envforge facts import FILE` here"
    )


def _named(key: BuildKey) -> str:
    return f"torch {key[0]} {key[1]} {key[2]}"


def _order(build: Build) -> tuple[Any, str, str]:
    return build.torch, str(build.tag), build.platform


def _document(damaged: str, path: Path | str = "") -> Document:
    return Document(
        damaged=damaged, error=FactsFileError, code="facts-damaged", hints=lambda: _hints(path), closed=True
    )


def _hints(path: Path | str) -> tuple[Hint, ...]:
    """Return the way out for the file in use, which every command reads; for another file, its origin."""
    if isinstance(path, Path) and path == facts_path():
        if os.environ.get(FACTS_VARIABLE):
            return (Hint(f"to use only the built-in facts, set `{FACTS_VARIABLE}={BUILT_IN}`"),)
        return (Hint("to use the built-in facts again", "envforge facts reset"),)
    return (Hint("get the file again from where it was exported; a newer envforge may also have written it"),)


def _upgrade() -> str:
    from envforge.base.distribution import upgrade_command  # noqa: PLC0415 - only errors need it

    return upgrade_command()
