"""Explain a selection: why this build, what to know about it, and why no build fits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from packaging.version import Version

from envforge.errors import EnvforgeError, Hint
from envforge.machine.gpu_tables import branch_cuda, driver_support, is_tegra
from envforge.machine.values import driver_text
from envforge.pytorch.fit import MachineLimits, has_code, missing_limits
from envforge.pytorch.matrix import Build, Candidate, Grade, Matrix, Preference, Refusal, Request, Selection

# refusals of rows that weren't requested; they explain nothing about the machine
NOT_ASKED = ("platform", "torch", "tag", "python", "cpu-not-asked")
VERSIONS = ("cuda", "torch", "python")


class NoBuildError(EnvforgeError):
    """No build fits; ``refused`` holds every build with its reason."""

    def __init__(self, message: str, *, hint: Iterable[Hint], refused: tuple[Refusal, ...]) -> None:
        super().__init__(message, hint=hint, code="no-build")
        self.refused = refused


def why(selection: Selection, facts: MachineLimits, matrix: Matrix, preferred: str = "") -> str:
    """Return clauses joined by `; `: why this build, how the driver supports it, and what rules a newer CUDA out."""
    build = selection.build
    head = f"torch {build.pin(build.torch)} {preferred or _preferred(selection)} for {_for_whom(selection, facts)}"
    best = f"without the other platforms, {build.platform} would get torch {_best(selection).torch}"
    shared = [best] if _is_shared(selection) else [*_unverified(selection), *_stopped(selection)]
    parts = [head, *_served(selection, facts, matrix), *shared]
    return "; ".join(parts)


def warn(selection: Selection, facts: MachineLimits, matrix: Matrix) -> tuple[str, ...]:
    """Return what the user should know about the selection, most important first."""
    build = selection.build
    found = list(_cpu_warnings(selection, facts) if build.tag.is_cpu else _cuda_warnings(selection, facts, matrix))
    if not build.confirmed:
        found.append(f"torch {build.torch} for {build.tag} was announced or reported, but not seen in the index")
    found += [f"{trouble.symptom} (remedy: {trouble.remedy})" for trouble in facts.troubles]
    if facts.is_known and build.glibc is not None and facts.glibc is None:
        found.append(f"the glibc version of this machine is unknown; the wheels require glibc {build.glibc} or newer")
    return tuple(found)


class WayOut(Struct, frozen=True, kw_only=True):
    """A build that fits if these options are omitted; without any, the CPU build."""

    omitted: tuple[str, ...]
    candidate: Candidate

    @property
    def hint(self) -> Hint:
        """The way out as a hint."""
        if not self.omitted:
            return Hint("to use the CPU build, pass `--cuda cpu`")
        build, options = self.candidate.build, " and ".join(f"`--{option}`" for option in self.omitted)
        return Hint(f"to use torch {build.pin(build.torch)} ({self.candidate.grade.value}), omit {options}")


def no_build(
    facts: MachineLimits, request: Request, refused: Sequence[Refusal], matrix: Matrix, ways: Sequence[WayOut] = ()
) -> NoBuildError:
    """Return the error if no build fits: what exists if the request matches no build, else one line for each reason."""
    hints = [way.hint for way in ways]
    asked = [r for r in refused if r.code not in NOT_ASKED]
    if not asked:
        message = _does_not_exist(request, facts.platform, matrix)
        if not ways:
            hints.append(Hint(f"to plan without {facts.platform}, pass `--platform` with other platforms only"))
        return NoBuildError(message, hint=hints, refused=tuple(refused))
    hints += _driver_hints(facts, {refusal.code for refusal in asked})
    hints += [Hint(trouble.remedy) for trouble in facts.troubles]
    hints.append(Hint("to plan for another machine, pass `--machine PROFILE`"))
    lines = "\n".join(f"  {line}" for line in grouped(asked))
    if facts.other_gpu is not None and request.cuda is None:
        return NoBuildError(facts.other_gpu.symptom, hint=hints, refused=tuple(refused))
    message = f"no PyTorch build fits {_machine(facts)} on {facts.platform}:\n{lines}"
    return NoBuildError(message, hint=hints, refused=tuple(refused))


def _driver_hints(facts: MachineLimits, codes: Collection[str]) -> Iterator[Hint]:
    if "driver" in codes:
        newer = "JetPack" if any(is_tegra(capability) for _, capability in facts.gpus) else "NVIDIA driver"
        yield Hint(f"to use the builds that require it, install a newer {newer}")
    if "driver-dropped" in codes:
        branches = [last for _, each in facts.gpus if (last := driver_support(each).last) is not None]
        yield Hint(f"to use the GPU, install an NVIDIA driver of the {min(branches)} branch, the last that supports it")


def no_common_torch(releases: Mapping[str, Sequence[Version]]) -> NoBuildError:
    """Return the error if each platform of a project has builds, but no torch release has all of them."""
    lines = "\n".join(f"  {platform}: torch {span(torches)}" for platform, torches in releases.items())
    hint = Hint("to create a project for fewer platforms, omit one `--platform`")
    return NoBuildError(f"no torch release has a build for every platform:\n{lines}", hint=(hint,), refused=())


def grouped(refused: Iterable[Refusal]) -> Iterator[str]:
    """Yield one line for each reason, with the CUDA tags and torch releases that it applies to."""
    for reason, builds in by_reason(refused).items():
        yield f"{_tags(builds)} (torch {span([build.torch for build in builds])}): {reason}"


def by_reason(refused: Iterable[Refusal]) -> dict[str, list[Build]]:
    """Return the rejected builds of each reason, in the order in which the reasons appear."""
    groups: dict[str, list[Build]] = {}
    for refusal in refused:
        groups.setdefault(refusal.reason, []).append(refusal.build)
    return groups


def span(versions: Sequence[Version]) -> str:
    """Return the lowest and the highest version."""
    lowest, highest = min(versions), max(versions)
    return str(lowest) if lowest == highest else f"{lowest} to {highest}"


def _tags(builds: Iterable[Build]) -> str:
    return ", ".join(sorted({str(build.tag) for build in builds}))


def _machine(facts: MachineLimits) -> str:
    driver = _driver(facts) if facts.has_driver else "no NVIDIA driver"
    glibc = f", glibc {facts.glibc}" if facts.glibc else ""
    return f"{_gpus(facts)} with {driver}{glibc}"


def _gpus(facts: MachineLimits) -> str:
    counts = Counter([*(f"{name} ({capability})" for name, capability in facts.gpus), *facts.unknown_gpus])
    return (
        " + ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items()) or "a machine without a known GPU"
    )


def _driver(facts: MachineLimits) -> str:
    if facts.stated_cuda is not None:
        return f"a driver for CUDA {facts.stated_cuda} (set by CONDA_OVERRIDE_CUDA)"
    if facts.driver is not None:
        return f"driver {driver_text(facts.driver)}"
    return f"a driver for CUDA {facts.driver_cuda}" if facts.driver_cuda else "a driver of unknown version"


def _is_shared(selection: Selection) -> bool:
    """Return whether the release was selected because of a project's other platforms."""
    return _best(selection).torch != selection.build.torch


def _best(selection: Selection) -> Build:
    return selection.accepted[0].build


def _preferred(selection: Selection) -> str:
    request, build = selection.request, selection.build
    if _is_shared(selection):
        return "is the build of the newest release that every platform of the project has,"
    if request.torch is not None:
        return "is the requested build"
    # the newest verified one: a newer release may exist, and `_unverified` names those that are known
    newest = "newest" if selection.grade is Grade.UNVERIFIED else "newest verified"
    if build.platform.startswith("osx-"):
        return f"is the {newest} release"  # a macOS release has one build
    kind = f"{build.tag} build" if request.cuda is not None else "build"
    return {
        Preference.NEWEST_TORCH: f"is the {newest} release with a {kind}",
        Preference.DIRECT: f"is the {newest} release with a {kind} that the driver supports best",
        Preference.WIDEST: f"is the {newest} release of the {kind} that runs on the oldest drivers and the most GPUs",
    }[request.prefer]


def _for_whom(selection: Selection, facts: MachineLimits) -> str:
    if selection.build.tag.is_cpu or not facts.gpus:
        return selection.build.platform
    return _gpus(facts)


def _served(selection: Selection, facts: MachineLimits, matrix: Matrix) -> Iterator[str]:
    build = selection.build
    if build.tag.cuda is None:
        yield "it runs on the CPU and on Apple GPUs (MPS)" if build.platform == "osx-arm64" else "it runs on the CPU"
        return
    direct, family = matrix.direct_minimum(build.tag.cuda), matrix.family_minimum(build.tag.cuda)
    own = f"{driver_text(direct.driver(windows=facts.windows_driver))} or newer" if direct else "not in the table"
    if selection.grade is Grade.DIRECT:
        # a driver without a number of its own, such as a Jetson's, has none to compare
        compared = f" ({own})" if facts.driver is not None or facts.stated_cuda is not None else ""
        yield f"{_driver(facts)} supports CUDA {build.tag.cuda} directly{compared}"
    elif selection.grade is Grade.MINOR_COMPATIBLE:
        lowest = f"{driver_text(family.driver(windows=facts.windows_driver))} or newer" if family else "any"
        yield (
            f"it runs on {_driver(facts)} through CUDA minor-version compatibility ({lowest}), "
            f"not directly (CUDA {build.tag.cuda}: {own})"
        )
    else:
        missing = " and ".join(missing_limits(build, facts, matrix))
        yield f"it is not verified that it runs there: it is not known {missing}"


def _unverified(selection: Selection) -> Iterator[str]:
    """Yield the releases that may fit and are newer than the newest verified one, in one line."""
    verified = [each.build.torch for each in selection.accepted if each.grade is not Grade.UNVERIFIED]
    newest = max(verified, default=selection.build.torch)
    newer: dict[Version, list[Build]] = {}
    for candidate in sorted(selection.accepted, key=lambda each: each.build.torch, reverse=True):
        if candidate.build.torch > newest:
            newer.setdefault(candidate.build.torch, []).append(candidate.build)
    if newer:
        names = ", ".join(f"torch {torch} ({_tags(builds)})" for torch, builds in newer.items())
        yield f"newer, but not verified: {names}"


def _stopped(selection: Selection) -> Iterator[str]:
    """Yield why no newer CUDA of the same release, or no newer release, was selected."""
    chosen = _age(selection.build)
    blocked = [r for r in selection.refused if r.code not in (*NOT_ASKED, "no-gpu") and r.build.confirmed]
    newer = sorted((r for r in blocked if _age(r.build) > chosen), key=lambda r: _age(r.build), reverse=True)
    latest: dict[str, Refusal] = {}
    for refusal in newer:
        latest.setdefault(str(refusal.build.tag), refusal)
    for reason, builds in by_reason(latest.values()).items():
        yield f"newer {_tags(builds)} builds don't fit: {reason}"


def _age(build: Build) -> tuple[Version, Version]:
    return build.torch, build.tag.cuda or Version("0")


def _cpu_warnings(selection: Selection, facts: MachineLimits) -> Iterator[str]:
    if selection.build.platform.startswith("osx-"):
        return
    if facts.has_nvidia:
        yield f"the machine has NVIDIA hardware or a driver ({_gpus(facts)}), which the CPU build doesn't use"
    elif facts.other_gpu is not None:
        return  # the warning of its condition says it
    elif selection.request.cuda is None and facts.is_known:
        yield "no NVIDIA driver or GPU was found, so this is the CPU build (for a GPU, pass --cuda or --machine)"
    elif selection.request.cuda is None:
        yield (
            f"nothing is known about the {facts.platform} machine, so this is the CPU build (for a GPU, pass --cuda or "
            "--machine)"
        )


def _cuda_warnings(selection: Selection, facts: MachineLimits, matrix: Matrix) -> Iterator[str]:
    build = selection.build
    if not facts.is_known:
        yield f"{build.tag} was not checked: nothing is known about the driver and GPU of the {facts.platform} machine"
        return
    if not facts.has_driver:
        yield f"{build.tag} was not checked against a driver: no NVIDIA driver was found"
    elif facts.driver is None and facts.driver_cuda is None:
        yield f"{build.tag} was not checked against the driver: its version is unknown"
    if selection.grade is Grade.MINOR_COMPATIBLE:
        yield (
            f"minor-version compatibility: the kernels in the wheel run, but PTX of CUDA {build.tag.cuda} doesn't "
            "compile on this driver"
        )
    yield from _gpu_warnings(build, facts, matrix)
    if _has_forward_compatibility(facts):
        yield (
            f"the driver reports CUDA {facts.driver_cuda}, which is newer than {_driver(facts)} supports: "
            "forward-compatibility libraries are active, and the selection doesn't rely on them"
        )


def _has_forward_compatibility(facts: MachineLimits) -> bool:
    """Return whether libcuda reports a newer CUDA than the driver's branch has; the libraries exist only for Linux."""
    if facts.windows_driver or facts.driver is None or facts.driver_cuda is None or facts.stated_cuda is not None:
        return False
    # the first drivers of a branch are older than the one that CUDA's release notes require, but report the same CUDA
    own = branch_cuda(facts.driver)
    return own is not None and facts.driver_cuda > own


def _gpu_warnings(build: Build, facts: MachineLimits, matrix: Matrix) -> Iterator[str]:
    if facts.hidden_gpus:
        yield f"CUDA_VISIBLE_DEVICES hides every GPU ({facts.hidden_gpus}); the build is selected for the hidden GPUs"
    for name in dict.fromkeys(facts.unknown_gpus):
        yield f"the compute capability of {name} is unknown, so it was not checked that the wheel has a kernel for it"
    if not facts.gpus and not facts.unknown_gpus:
        yield "no GPU is known, so it was not checked that the wheel has a kernel for it"
    for name, capability in dict.fromkeys(facts.gpus):
        if capability not in matrix.known_capabilities:
            yield f"compute capability {capability} ({name}) is newer than the table of {matrix.checked}"
        if not has_code(build, capability, matrix):
            yield f"the wheel has only PTX for {name} ({capability}), which the driver compiles at the first start"
    if not build.capabilities_stated:
        yield f"the GPUs that this {build.tag} wheel for {build.platform} supports are inferred from similar wheels"


def _does_not_exist(request: Request, platform: str, matrix: Matrix) -> str:
    """Return which option rules the last build out, and what exists instead."""
    builds = [build for build in matrix.builds if build.platform == platform]
    if not builds:
        return f"there is no PyTorch build for {platform}; there are builds for: {', '.join(matrix.platforms)}"
    words = platform
    for option in VERSIONS:
        value = getattr(request, option)
        offers = [(build, _offer(build, option)) for build in builds]
        builds = [build for build, offer in offers if value is None or str(value) in offer]
        if not builds:
            exists = ", ".join(dict.fromkeys(word for _, offer in offers for word in offer))
            return f"there is no build for `--{option} {value}` on {words}; available there: {exists}"
        words = words if value is None else f"{words} with `--{option} {value}`"
    return f"there is no PyTorch build for {words}"


def _offer(build: Build, option: str) -> tuple[str, ...]:
    if option == "cuda":
        return (str(build.tag),)
    return (str(build.torch),) if option == "torch" else tuple(map(str, build.pythons))
