"""The words for a choice: why this build, what to know about it, and why none fits.

Enters: a ``Selection`` or the refusals, the ``Facts`` and the ``Matrix``. Leaves: sentences.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from packaging.version import Version

from envforge.errors import EnvforgeError
from envforge.matrix import Matrix
from envforge.select.fit import Facts, driver_text, has_cubin
from envforge.selection import Build, Candidate, Grade, Preference, Refusal, Request, Selection

# Refusals that only say that a row is not what was asked for; they explain nothing about the machine.
NOT_ASKED = ("platform", "torch", "tag", "python", "cpu-not-asked")
_PLAN_HINT = "plan for another machine: --machine PROFILE; or take the build without CUDA: --cuda cpu"


class NoBuildError(EnvforgeError):
    """No build fits; ``refused`` holds every build with its reason."""

    def __init__(self, message: str, *, hint: str, refused: tuple[Refusal, ...]) -> None:
        super().__init__(message, hint=hint, code="no-build")
        self.refused = refused


def why(selection: Selection, facts: Facts, matrix: Matrix, preferred: str = "") -> str:
    """Return clauses joined by `; `: why this build, how the driver supports it, and what rules a newer CUDA out."""
    build = selection.build
    head = f"torch {build.pin(build.torch)} {preferred or _preferred(selection)} for {_for_whom(selection, facts)}"
    shared = (
        [f"{build.platform} alone would get {_best(selection).torch}"] if _is_shared(selection) else _stopped(selection)
    )
    parts = [head, *_served(selection, facts, matrix), *shared]
    return "; ".join(parts)


def warn(selection: Selection, facts: Facts, matrix: Matrix) -> tuple[str, ...]:
    """What the user should know about the answer, most important first."""
    build = selection.build
    found = list(_cpu_warnings(selection, facts) if build.tag.is_cpu else _cuda_warnings(selection, facts, matrix))
    if not build.confirmed:
        found.append(f"torch {build.torch} for {build.tag} was announced or reported, not seen in the index")
    found += [f"{trouble.symptom} (remedy: {trouble.remedy})" for trouble in facts.troubles]
    if facts.is_known and build.glibc is not None and facts.glibc is None:
        found.append(f"the glibc of this machine is not known; the wheels need glibc {build.glibc} or newer")
    return tuple(found)


def no_build(
    facts: Facts, request: Request, refused: Sequence[Refusal], matrix: Matrix, instead: Sequence[Candidate] = ()
) -> NoBuildError:
    """The error where nothing fits: what exists when the request names no build, else one line for each reason.

    ``instead`` is the answer without the user's own words, where there is one.
    """
    hints = [f"--cuda auto gives torch {c.build.pin(c.build.torch)} ({c.grade.value})" for c in instead]
    asked = [r for r in refused if r.code not in NOT_ASKED]
    if not asked:
        message, hint = _does_not_exist(request, facts.platform, matrix)
        return NoBuildError(message, hint="; or ".join([hint, *hints]), refused=tuple(refused))
    if any(r.code == "driver" for r in asked):
        hints.append("install a newer NVIDIA driver")
    hints += [trouble.remedy for trouble in facts.troubles]
    lines = "\n".join(f"  {line}" for line in grouped(asked))
    message = f"no PyTorch build fits {_machine(facts)} on {facts.platform}:\n{lines}"
    return NoBuildError(message, hint="; or ".join([*hints, _PLAN_HINT]), refused=tuple(refused))


def no_common_torch(releases: Mapping[str, Sequence[Version]]) -> NoBuildError:
    """The error where each platform of a project has builds, but no torch release has them all."""
    lines = "\n".join(f"  {platform}: torch {span(torches)}" for platform, torches in releases.items())
    hint = "leave a platform out, or name an older CUDA: --cuda 11.8"
    return NoBuildError(f"no torch release has a build for every platform:\n{lines}", hint=hint, refused=())


def grouped(refused: Iterable[Refusal]) -> Iterator[str]:
    """One line for each reason, with the CUDA tags and torch releases that it stands for."""
    for reason, builds in by_reason(refused).items():
        yield f"{_tags(builds)} (torch {span([build.torch for build in builds])}): {reason}"


def by_reason(refused: Iterable[Refusal]) -> dict[str, list[Build]]:
    """The refused builds of each reason, in the order in which the reasons appear."""
    groups: dict[str, list[Build]] = {}
    for refusal in refused:
        groups.setdefault(refusal.reason, []).append(refusal.build)
    return groups


def span(versions: Sequence[Version]) -> str:
    """The lowest and the highest version."""
    lowest, highest = min(versions), max(versions)
    return str(lowest) if lowest == highest else f"{lowest} to {highest}"


def _tags(builds: Iterable[Build]) -> str:
    return ", ".join(sorted({str(build.tag) for build in builds}))


def _machine(facts: Facts) -> str:
    driver = _driver(facts) if facts.has_driver else "no NVIDIA driver"
    glibc = f", glibc {facts.glibc}" if facts.glibc else ""
    return f"{_gpus(facts)} with {driver}{glibc}"


def _gpus(facts: Facts) -> str:
    counts = Counter([*(f"{name} ({capability})" for name, capability in facts.gpus), *facts.unknown_gpus])
    return (
        " + ".join(name if n == 1 else f"{n} x {name}" for name, n in counts.items()) or "a machine without a known GPU"
    )


def _driver(facts: Facts) -> str:
    if facts.stated_cuda is not None:
        return f"a driver for CUDA {facts.stated_cuda} (stated by CONDA_OVERRIDE_CUDA)"
    if facts.driver is not None:
        return f"driver {driver_text(facts.driver)}"
    return f"a driver for CUDA {facts.driver_cuda}" if facts.driver_cuda else "a driver of unknown version"


def _is_shared(selection: Selection) -> bool:
    """Whether the release was chosen for the sake of a project's other platforms."""
    return _best(selection).torch != selection.build.torch


def _best(selection: Selection) -> Build:
    return selection.accepted[0].build


def _preferred(selection: Selection) -> str:
    request, build = selection.request, selection.build
    if _is_shared(selection):
        return "is the newest release that every platform of the project has, here"
    if request.torch is not None:
        return "is, as asked, the build"
    if build.platform.startswith("osx-"):
        return "is the newest release"  # the one build that a macOS release has
    kind = f"{build.tag} build" if request.cuda is not None else "build"
    return {
        Preference.NEWEST_TORCH: f"is the newest release with a {kind}",
        Preference.DIRECT: f"is the newest release with a {kind} that the driver serves best",
        Preference.WIDEST: f"is the newest release of the {kind} that runs on the oldest drivers and the most GPUs",
    }[request.prefer]


def _for_whom(selection: Selection, facts: Facts) -> str:
    if selection.build.tag.is_cpu or not facts.gpus:
        return selection.build.platform
    return _gpus(facts)


def _served(selection: Selection, facts: Facts, matrix: Matrix) -> Iterator[str]:
    build = selection.build
    if build.tag.cuda is None:
        yield "it runs on the CPU and on Apple GPUs (MPS)" if build.platform == "osx-arm64" else "it runs on the CPU"
        return
    direct, family = matrix.direct_minimum(build.tag.cuda), matrix.family_minimum(build.tag.cuda)
    own = f"{driver_text(direct.driver(windows=facts.windows_driver))} or newer" if direct else "not in the table"
    if selection.grade is Grade.DIRECT:
        yield f"{_driver(facts)} serves CUDA {build.tag.cuda} directly ({own})"
    elif selection.grade is Grade.MINOR_COMPATIBLE:
        lowest = f"{driver_text(family.driver(windows=facts.windows_driver))} or newer" if family else "any"
        yield (
            f"it runs on {_driver(facts)} by CUDA minor-version compatibility ({lowest}), "
            f"not directly (CUDA {build.tag.cuda}: {own})"
        )
    else:
        yield "whether it runs there is not verified"


def _stopped(selection: Selection) -> Iterator[str]:
    """Why no newer CUDA of the same release, or no newer release, was taken."""
    chosen = _age(selection.build)
    blocked = [r for r in selection.refused if r.code not in (*NOT_ASKED, "no-gpu") and r.build.confirmed]
    newer = sorted((r for r in blocked if _age(r.build) > chosen), key=lambda r: _age(r.build), reverse=True)
    latest: dict[str, Refusal] = {}
    for refusal in newer:
        latest.setdefault(str(refusal.build.tag), refusal)
    for reason, builds in by_reason(latest.values()).items():
        yield f"newer {_tags(builds)} builds are refused: {reason}"


def _age(build: Build) -> tuple[Version, Version]:
    return build.torch, build.tag.cuda or Version("0")


def _cpu_warnings(selection: Selection, facts: Facts) -> Iterator[str]:
    if selection.build.platform.startswith("osx-"):
        return
    if facts.has_nvidia:
        yield f"the machine has NVIDIA hardware or a driver ({_gpus(facts)}), which the CPU build does not use"
    elif selection.request.cuda is None and facts.is_known:
        yield "no NVIDIA driver or GPU was found; this is the CPU build (say --cuda or --machine for a GPU)"
    elif selection.request.cuda is None:
        yield f"nothing is known of the {facts.platform} machine; this is the CPU build (say --cuda or --machine)"


def _cuda_warnings(selection: Selection, facts: Facts, matrix: Matrix) -> Iterator[str]:
    build = selection.build
    if not facts.is_known:
        yield f"{build.tag} was not checked against a driver or GPU: nothing is known of the {facts.platform} machine"
        return
    if not facts.has_driver:
        yield f"{build.tag} was not checked against a driver: no NVIDIA driver was found"
    elif facts.driver is None and facts.driver_cuda is None:
        yield f"{build.tag} was not checked against the driver: its version is not known"
    if selection.grade is Grade.MINOR_COMPATIBLE:
        yield f"minor-version compatibility: the wheel's kernels run, PTX of CUDA {build.tag.cuda} does not compile"
    yield from _gpu_warnings(build, facts, matrix)
    if _has_forward_compatibility(facts, matrix):
        yield (
            f"the driver reports CUDA {facts.driver_cuda}, more than {_driver(facts)} brings: forward-compatibility "
            "libraries are active here, and the choice does not rely on them"
        )


def _has_forward_compatibility(facts: Facts, matrix: Matrix) -> bool:
    """Whether libcuda claims a CUDA whose own driver is newer than the one that is there."""
    if facts.driver is None or facts.driver_cuda is None or facts.stated_cuda is not None:
        return False
    own = matrix.direct_minimum(facts.driver_cuda)
    return own is not None and facts.driver < own.driver(windows=facts.windows_driver)


def _gpu_warnings(build: Build, facts: Facts, matrix: Matrix) -> Iterator[str]:
    if facts.hidden_gpus:
        yield f"CUDA_VISIBLE_DEVICES hides every GPU ({facts.hidden_gpus}); the choice is made for the hidden ones"
    for name in dict.fromkeys(facts.unknown_gpus):
        yield f"the compute capability of {name} is not known; whether the wheel has a kernel for it was not checked"
    if not facts.gpus and not facts.unknown_gpus:
        yield "no GPU is known; whether the wheel has a kernel for it was not checked"
    for name, capability in dict.fromkeys(facts.gpus):
        if capability not in matrix.known_capabilities:
            yield f"compute capability {capability} ({name}) is newer than the table of {matrix.checked}"
        if not has_cubin(build, capability, matrix):
            yield f"the wheel has only PTX for {name} ({capability}): the driver compiles it at the first start"
    if not build.capabilities_stated:
        yield f"which GPUs this {build.tag} wheel for {build.platform} serves is inferred from its nearest relatives"


def _does_not_exist(request: Request, platform: str, matrix: Matrix) -> tuple[str, str]:
    """Which word of the request rules the last build out, and what there is instead."""
    builds = [build for build in matrix.builds if build.platform == platform]
    if not builds:
        message = f"there is no PyTorch build for {platform}; there are builds for: {', '.join(matrix.platforms)}"
        return message, "plan for another platform: --platform linux-64"
    words = platform
    for option, value in (("cuda", request.cuda), ("torch", request.torch), ("python", request.python)):
        offers = [(build, _offer(build, option)) for build in builds]
        builds = [build for build, offer in offers if value is None or str(value) in offer]
        if not builds:
            exists = ", ".join(dict.fromkeys(word for _, offer in offers for word in offer)) or "nothing"
            message = f"there is no build for `--{option} {value}` on {words}; {words} has: {exists}"
            return message, "leave one of the options out"
        words = words if value is None else f"{words} with --{option} {value}"
    return f"there is no PyTorch build for {words}", "see what there is: envforge explain --all"


def _offer(build: Build, option: str) -> tuple[str, ...]:
    if option == "cuda":
        return (str(build.tag),)
    return (str(build.torch),) if option == "torch" else tuple(map(str, build.pythons))
