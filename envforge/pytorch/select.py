"""Read the versions that someone requests, and select the PyTorch build that fits them and a machine.

An error about a version lists the versions that exist, and suggests the nearest.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from msgspec import Struct
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.terms import CPU, WheelTag
from envforge.base.urls import Url, has_secrets, show_url
from envforge.errors import Hint, RequestError
from envforge.machine.values import OTHER_GPU, Machine
from envforge.pytorch.fit import MachineLimits, Misfit, driver_grade, fit, read_limits
from envforge.pytorch.matrix import (
    PYTORCH_INDEX,
    Build,
    Candidate,
    Grade,
    Matrix,
    Preference,
    Refusal,
    Request,
    Selection,
)
from envforge.pytorch.reasons import VERSIONS, NoBuildError, WayOut, no_build, no_common_torch, warn, why

_Rank: TypeAlias = tuple[bool | int | Version, ...]
_GRADES = (Grade.CPU, Grade.UNVERIFIED, Grade.MINOR_COMPATIBLE, Grade.DIRECT)


class _PlatformBuilds(Struct, frozen=True, kw_only=True):
    """Every build of the matrix, judged for one platform; the best accepted one comes first.

    ``eligible`` are those accepted builds that also suit the other platforms of the project.
    """

    facts: MachineLimits
    request: Request
    accepted: tuple[Candidate, ...]
    eligible: tuple[Candidate, ...]
    refused: tuple[Refusal, ...]


def select(machine: Machine, request: Request, matrix: Matrix) -> Selection:
    """Return the best build for one platform; raise ``NoBuildError`` with every rejected build if none fits."""
    judged = _judge(machine, request, matrix)
    if not judged.accepted:
        raise no_build(judged.facts, judged.request, judged.refused, matrix, _ways_out(machine, request, matrix))
    return _answer(judged, judged.accepted[0], matrix)


def select_platforms(
    machine: Machine, request: Request, platforms: Sequence[str], matrix: Matrix, *, preferred: str = ""
) -> tuple[Selection, ...]:
    """Select one build for each platform of a project, all of one torch release and one Python, in the order given.

    The machine's facts apply only to its own platform. A platform that has no wheels with the tag gets the CPU build.
    ``preferred`` is a clause that replaces the reason why this build was preferred (``is the newest …``).
    """
    first = machine.platform if machine.platform in platforms or not platforms else platforms[0]
    # the first platform decides the tag: the others have no machine here that could
    alone = select(machine, replace(request, platform=first), matrix)
    tags = tuple(dict.fromkeys(candidate.build.tag for candidate in alone.accepted))
    plans = (_plan(machine, alone, tag, platforms, matrix) for tag in tags)
    judged = next((plan for plan in plans if _common_torches(plan)), None)
    if judged is None:
        raise _no_plan(_plan(machine, alone, tags[0], platforms, matrix), matrix)
    common = _common_torches(judged)
    torch = next(c.build.torch for c in judged[first].eligible if c.build.torch in common)
    chosen = {p: next(c for c in each.eligible if c.build.torch == torch) for p, each in judged.items()}
    # one Python, because environment.yml has one line for it
    python = _common_python(tuple(chosen.values()), request, matrix)
    answers = (_answer(judged[p], replace(chosen[p], python=python), matrix, preferred) for p in judged)
    return tuple(_note_common(answer, alone) for answer in answers)


def _ways_out(machine: Machine, request: Request, matrix: Matrix) -> tuple[WayOut, ...]:
    """Return which requested versions to omit, and the CPU build, each with the best build that then fits."""
    stated = tuple(option for option in VERSIONS if getattr(request, option) is not None)
    ways = [_way_out(machine, request, matrix, (option,)) for option in stated]
    if not any(ways) and len(stated) > 1:
        ways = [_way_out(machine, request, matrix, stated)]
    # a macOS release has one build, so there is no other to offer
    if request.cuda != CPU and not (request.platform or machine.platform).startswith("osx-"):
        ways.append(_way_out(machine, replace(request, cuda=CPU), matrix, ()))
    return tuple(way for way in ways if way is not None)


def _way_out(machine: Machine, request: Request, matrix: Matrix, omitted: tuple[str, ...]) -> WayOut | None:
    without: dict[str, Any] = dict.fromkeys(omitted)
    accepted = _judge(machine, replace(request, **without), matrix).accepted
    return WayOut(omitted=omitted, candidate=accepted[0]) if accepted else None


def _plan(
    machine: Machine, alone: Selection, tag: WheelTag, platforms: Sequence[str], matrix: Matrix
) -> dict[str, _PlatformBuilds]:
    """Judge each platform for one tag, or for the CPU build if that tag has no wheels."""
    plan = {}
    for platform in dict.fromkeys(platforms or (alone.build.platform,)):
        if platform == alone.build.platform:
            judged = _judge(machine, alone.request, matrix)
            plan[platform] = replace(judged, eligible=tuple(c for c in judged.accepted if c.build.tag == tag))
        else:
            has_tag = any(build.platform == platform and build.tag == tag for build in matrix.builds)
            request = replace(alone.request, platform=platform, cuda=tag if has_tag else CPU)
            plan[platform] = _judge(machine, request, matrix)
    return plan


def _no_plan(judged: Mapping[str, _PlatformBuilds], matrix: Matrix) -> NoBuildError:
    for each in judged.values():
        if not each.eligible:
            return no_build(each.facts, each.request, each.refused, matrix)
    return no_common_torch({p: [c.build.torch for c in each.eligible] for p, each in judged.items()})


def _judge(machine: Machine, request: Request, matrix: Matrix) -> _PlatformBuilds:
    platform = request.platform or machine.platform
    facts = read_limits(machine, platform)
    accepted, refused = [], []
    for build in matrix.builds:
        misfit = _not_asked(build, request, facts, platform)
        verdict = misfit or fit(build, facts, matrix)
        if isinstance(verdict, Misfit):
            refused.append(
                Refusal(
                    build=build, code=verdict.code, wanted=verdict.wanted, found=verdict.found, reason=verdict.reason
                )
            )
        else:
            accepted.append(Candidate(build=build, python=_python(build, request, matrix), grade=verdict))
    best_first = sorted(accepted, key=lambda c: _rank(c, request.prefer, facts, matrix), reverse=True)
    ranked = tuple(best_first)
    return _PlatformBuilds(facts=facts, request=request, accepted=ranked, eligible=ranked, refused=tuple(refused))


def _not_asked(build: Build, request: Request, facts: MachineLimits, platform: str) -> Misfit | None:
    """Return the first requested value, or rule of ``--cuda auto``, that the build doesn't meet."""
    if build.platform != platform:
        return _other("platform", platform, build.platform)
    if request.torch is not None and build.torch != request.torch:
        return _other("torch", f"torch {request.torch}", f"torch {build.torch}")
    if request.cuda is not None and build.tag != request.cuda:
        return _other("tag", f"a {request.cuda} build", f"a {build.tag} build")
    if request.python is not None and request.python not in build.pythons:
        has = f"{build.pythons[0]} to {build.pythons[-1]}"
        wanted = f"Python {request.python}"
        return Misfit(
            code="python", wanted=wanted, found=f"wheels for {has}", reason=f"no wheel for {wanted}; it has {has}"
        )
    return None if request.cuda is not None else _not_automatic(build, facts)


def _not_automatic(build: Build, facts: MachineLimits) -> Misfit | None:
    if build.platform.startswith("osx-"):
        return None
    if build.tag.is_cpu and facts.has_nvidia:
        wanted, found = "a CUDA build: the machine has an NVIDIA driver or GPU", "a CPU build"
        return Misfit(
            code="cpu-not-asked", wanted=wanted, found=found, reason="a CPU build is selected only with `--cuda cpu`"
        )
    if build.tag.is_cpu and facts.other_gpu is not None:
        symptom = facts.other_gpu.symptom
        return Misfit(code=OTHER_GPU, wanted="an NVIDIA GPU, or a machine without a GPU", found=symptom, reason=symptom)
    if not build.tag.is_cpu and not facts.has_nvidia:
        found = (
            "no NVIDIA driver or GPU was found"
            if facts.is_known
            else f"nothing is known about the {facts.platform} machine"
        )
        reason = f"{found}; a CUDA build is selected only with `--cuda` and its version"
        return Misfit(code="no-gpu", wanted="an NVIDIA driver and GPU", found=found, reason=reason)
    # a CPU build for a GPU without a driver would hide the problem until the first slow epoch, so `auto` fails here
    if not build.tag.is_cpu and not facts.has_driver:
        gpus = ", ".join([*(name for name, _ in facts.gpus), *facts.unknown_gpus]) or "this machine"
        found = f"{gpus} without an NVIDIA driver"
        return Misfit(code="no-driver", wanted="an NVIDIA driver", found=found, reason=f"{gpus} has no NVIDIA driver")
    return None


def _other(code: str, wanted: str, found: str) -> Misfit:
    return Misfit(code=code, wanted=wanted, found=found, reason=f"{wanted} was requested, this is {found}")


def _python(build: Build, request: Request, matrix: Matrix) -> Version:
    return request.python or _default_python(build.pythons, matrix.python_default(build.tag).at_most)


def _default_python(pythons: Sequence[Version], at_most: Version) -> Version:
    return max((python for python in pythons if python <= at_most), default=min(pythons))


def _rank(candidate: Candidate, prefer: Preference, facts: MachineLimits, matrix: Matrix) -> _Rank:
    """Return the sort key of a build, most important first.

    A verified build always comes before an unverified one (docs/decisions/0022).
    """
    build, cuda = candidate.build, candidate.build.tag.cuda or Version("0")
    verified = build.confirmed and candidate.grade is not Grade.UNVERIFIED
    # among unverified builds, one that the driver supports directly is still the safer one
    served = driver_grade(cuda, facts, matrix) if candidate.grade is Grade.UNVERIFIED else candidate.grade
    grade = _GRADES.index(served) if isinstance(served, Grade) else 0
    if prefer is Preference.DIRECT:
        return (verified, build.confirmed, grade, build.torch, cuda)
    if prefer is Preference.WIDEST:
        return (verified, build.confirmed, *_width(build, facts, matrix), build.torch, grade, cuda)
    return (verified, build.confirmed, build.torch, grade, cuda)


def _width(build: Build, facts: MachineLimits, matrix: Matrix) -> tuple[int, ...]:
    """Return how many machines a build supports: the oldest driver that runs it, then its kinds of GPU."""
    family = matrix.family_minimum(build.tag.cuda) if build.tag.cuda else None
    oldest = family.driver(windows=facts.windows_driver).release if family else (0,)
    return (-oldest[0], len(build.capabilities))


def _answer(judged: _PlatformBuilds, candidate: Candidate, matrix: Matrix, preferred: str = "") -> Selection:
    build = candidate.build
    selection = Selection(
        request=judged.request,
        build=build,
        python=candidate.python,
        grade=candidate.grade,
        index_url=f"{judged.request.torch_index.rstrip('/')}/{build.tag}",
        reason="",
        accepted=judged.accepted,
        refused=judged.refused,
    )
    warnings = warn(selection, judged.facts, matrix)
    return replace(selection, reason=why(selection, judged.facts, matrix, preferred), warnings=warnings)


def _common_torches(judged: Mapping[str, _PlatformBuilds]) -> set[Version]:
    """Return the torch releases that every platform has; only confirmed ones, if there are any."""
    confirmed = [{c.build.torch for c in each.eligible if c.build.confirmed} for each in judged.values()]
    return set.intersection(*confirmed) or set.intersection(
        *({c.build.torch for c in each.eligible} for each in judged.values())
    )


def _common_python(chosen: Sequence[Candidate], request: Request, matrix: Matrix) -> Version:
    pythons = set.intersection(*(set(candidate.build.pythons) for candidate in chosen))
    at_most = min(matrix.python_default(candidate.build.tag).at_most for candidate in chosen)
    return request.python or _default_python(sorted(pythons), at_most)


def _note_common(answer: Selection, alone: Selection) -> Selection:
    """Add a warning if the other platforms of a project hold its first one back, or have no wheels of its tag."""
    notes, build, wanted = [], answer.build, alone.build
    if build.platform == wanted.platform and build.torch != wanted.torch:
        notes.append(f"the other platforms of the project hold it back: without them it would get torch {wanted.torch}")
    if build.tag.is_cpu and not wanted.tag.is_cpu and not build.platform.startswith("osx-"):
        notes.append(f"{build.platform} has no {wanted.tag} wheels, so it gets the CPU build")
    return replace(answer, warnings=(*answer.warnings, *notes))


_OLDEST_PYTHON = "3.10"  # the oldest version that the code of the templates supports
_ALIKE = 0.8  # the ratio of difflib; `cu99` is not near `cu129`


def read_request(
    matrix: Matrix,
    *,
    cuda: str = "auto",
    torch: str | None = None,
    python: str | None = None,
    prefer: str = "newest-torch",
    torch_index: str | None = None,
) -> Request:
    """Return the request of these versions, without its platform; raise ``RequestError`` if one doesn't exist.

    ``auto`` and None leave the choice to ``select``.
    """
    return Request(
        cuda=_read_tag(cuda, matrix),
        torch=None if torch is None else _read_torch(torch, matrix),
        python=None if python is None else _read_python(python, matrix),
        prefer=Preference(prefer),
        torch_index=PYTORCH_INDEX if torch_index is None else _read_index(torch_index),
    )


def known_platforms(matrix: Matrix, platforms: Iterable[str]) -> tuple[str, ...]:
    """Return the platforms, each once; raise ``RequestError`` if one has no builds."""
    for platform in platforms:
        if platform not in matrix.platforms:
            raise _unknown("platform", platform, matrix.platforms, _nearest(platform.lower(), matrix.platforms, 0.5))
    return tuple(dict.fromkeys(platforms))


def _read_tag(text: str, matrix: Matrix) -> WheelTag | None:
    if text.strip().lower() == "auto":
        return None
    try:
        tag = WheelTag.parse(text)
    except ValueError:
        tag = None
    if tag in matrix.tags:
        return tag
    versions = [known.cuda for known in matrix.tags if known.cuda is not None]
    other = ["auto", "cpu", *(str(known) for known in matrix.tags if not known.is_cpu)]
    number = text.strip().lower().removeprefix("cu")
    is_series = re.fullmatch(r"\d{1,2}", number) is not None
    asked = tag.cuda if tag is not None and not is_series else _read_version(number)
    table = _Table(option="cuda", versions=versions, names=[*other, *map(str, versions)], checked=matrix.checked)
    if asked is not None and asked.major <= max(versions).major + 1:
        raise _unknown_version(text, asked, table)
    mistyped = re.match(r"\d{2}", number)  # such as `cu1118` or `12x`
    newest = _newest_of(mistyped[0], versions) if mistyped else None
    tagged = str(WheelTag(newest)) if newest is not None and not text[:1].isdecimal() else newest
    near = tagged or _nearest(text.strip().lower(), table.names)
    raise _unknown("cuda", text, table.names, near)


def _read_torch(text: str, matrix: Matrix) -> Version:
    """Return a release by its number, or the newest of a series such as ``2.7``; confirmed builds come first."""
    exists = {str(version): version for version in matrix.torches}
    if text in exists:
        return exists[text]
    confirmed = {build.torch for build in matrix.builds if build.confirmed}
    series = [version for version in matrix.torches if f"{version.major}.{version.minor}" == text]
    if series:
        return max(series, key=lambda version: (version in confirmed, version))
    table = _Table(option="torch", versions=sorted(confirmed), names=[*exists], checked=matrix.checked)
    raise _unknown_version(text, _read_version(text), table)


def _read_python(text: str, matrix: Matrix) -> Version:
    supported = [version for version in matrix.pythons if version >= Version(_OLDEST_PYTHON)]
    exists = {str(version): version for version in supported}
    if text in exists:
        return exists[text]
    asked = _read_version(text)
    if asked is not None and asked < supported[0] and asked.release != (3,):
        raise RequestError(
            f"`--python {text}` is older than {_OLDEST_PYTHON}, the oldest version that projects support",
            hint=f"to use the oldest version, pass `--python {_OLDEST_PYTHON}`",
            code="unknown-python",
        )
    raise _unknown_version(
        text, asked, _Table(option="python", versions=supported, names=[*exists], checked=matrix.checked)
    )


def _read_version(text: str) -> Version | None:
    try:
        return Version(text)
    except ValueError:
        return None


def _read_index(url: str) -> str:
    """Return the URL of a wheel index without the tag, which is added to it; a lockfile records it."""
    trimmed = url.strip().rstrip("/")
    last = trimmed.rsplit("/", 1)[-1]
    if not _is_url(trimmed):
        problem = "is not the URL of a wheel index"
        hint = "to use a mirror, pass its URL, such as `--torch-index https://mirror.example/pytorch/whl`"
    elif has_secrets(trimmed) or "@" in trimmed.split("/", 3)[2]:
        problem = "contains credentials, which a lockfile would record"
        hint = "to provide credentials for the host, add them to ~/.netrc, and omit them from `--torch-index`"
    elif re.fullmatch(r"cpu|cu\d+", last):
        problem = f"ends with the tag `{last}`, which envforge adds itself"
        hint = f"to use this index, pass `--torch-index {trimmed.removesuffix('/' + last)}`"
    else:
        return trimmed
    raise RequestError(f"`--torch-index {show_url(url)}` {problem}", hint=hint, code="bad-torch-index")


def _is_url(text: str) -> bool:
    """Return whether ``text`` is an absolute HTTP or file URL, without a query and a fragment."""
    if re.fullmatch(r"(https?|file)://[^\s?#]+", text) is None:
        return False
    try:
        url = Url.parse(text)
    except ValueError:
        return False
    return url.port != 0 and (bool(url.host) if url.scheme != "file" else len(url.path) > 1)


class _Table(Struct, frozen=True, kw_only=True):
    """The values of one option: ``names`` are all of them, ``versions`` those to suggest, oldest first."""

    option: str
    versions: Sequence[Version]
    names: Sequence[str]
    checked: str


def _unknown_version(text: str, asked: Version | None, table: _Table) -> RequestError:
    """Return the error for a version that isn't in the table: newer than its end, or between its rows."""
    option, versions = table.option, table.versions
    if asked is None:
        series = re.match(r"\d+(\.\d+)*", text)
        newest = _newest_of(series[0], versions) if series else None
        return _unknown(option, text, table.names, newest or _nearest(text, table.names))
    if asked > max(versions):
        end = table.names[-1]
        confirmed = "" if end == str(max(versions)) else ", whose builds aren't confirmed yet"
        return RequestError(
            f"`--{option} {text}` is newer than the table of {table.checked}, which ends at {end}{confirmed}",
            hint=(
                Hint(f"to use the newest version with confirmed builds, pass `--{option} {max(versions)}`"),
                Hint("to read newer facts", "envforge facts refresh"),
            ),
            code=f"unknown-{option}",
        )
    if asked < min(versions) and _newest_of(str(asked), versions) is None:
        return RequestError(
            f"`--{option} {text}` is older than {min(versions)}, the oldest version in the table",
            hint=f"to use the oldest version, pass `--{option} {min(versions)}`",
            code=f"unknown-{option}",
        )
    return _unknown(option, text, table.names, _nearest_version(asked, versions))


def _newest_of(series: str, versions: Sequence[Version]) -> Version | None:
    """Return the newest version of a series such as ``12``; None if it has none."""
    asked = series.split(".")
    found = (version for version in versions if [str(number) for number in version.release[: len(asked)]] == asked)
    return max(found, default=None)


def _nearest_version(asked: Version, versions: Sequence[Version]) -> Version:
    """Return the newest version of a series such as ``12``, else the nearest version."""
    return _newest_of(str(asked), versions) or min(versions, key=lambda version: _distance(version, asked))


def _nearest(text: str, names: Sequence[str], alike: float = _ALIKE) -> str | None:
    from envforge.base.suggest import nearest  # noqa: PLC0415 - only errors need it

    return nearest(text, names, alike=alike)


def _distance(version: Version, asked: Version) -> tuple[int, int, int]:
    return abs(version.major - asked.major), abs(version.minor - asked.minor), abs(version.micro - asked.micro)


def _unknown(option: str, value: str, names: Sequence[str], near: Version | str | None) -> RequestError:
    """Return the error for a value that doesn't exist, with what exists and the nearest value."""
    return RequestError(
        f"unknown value `{value}` for `--{option}`; expected one of: {', '.join(names)}",
        hint=f"did you mean `--{option} {near}`?" if near else f"to let envforge choose, omit `--{option}`",
        code=f"unknown-{option}",
    )
