"""Test the selection on the entire matrix and generated machines, against a second implementation of its rules."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from packaging.version import Version

from envforge.base.terms import ComputeCapability, WheelTag
from envforge.machine.values import Driver, Gpu, Machine
from envforge.pytorch.fit import missing_limits, read_limits
from envforge.pytorch.matrix import Build, Candidate, Grade, Matrix, Preference, Request, Selection
from envforge.pytorch.reasons import NoBuildError
from envforge.pytorch.select import select
from tests.pytorch.machines import MATRIX

# Written by hand from NVIDIA's tables, not read from the package's data.
FLOOR = {
    "linux": {11: (450, 80, 2), 12: (525, 60, 13), 13: (580,)},
    "windows": {11: (452, 39), 12: (528, 33), 13: (580,)},
}
OWN = {
    "linux": {
        "11.7": (515, 43, 4), "11.8": (520, 61, 5), "12.1": (530, 30, 2), "12.4": (550, 54, 14), "12.6": (560, 28, 3),
        "12.8": (570, 26), "12.9": (575, 51, 3), "13.0": (580, 65, 6), "13.2": (595, 45, 4),
    },
    "windows": {
        "11.7": (516, 1), "11.8": (520, 6), "12.1": (531, 14), "12.4": (551, 61), "12.6": (560, 76), "12.8": (570, 65),
        "12.9": (576, 2), "13.0": (580,), "13.2": (595,),
    },
}  # fmt: skip
TEGRA = {(5, 3), (6, 2), (7, 2), (8, 7)}
OWN_DRIVERS = TEGRA | {(11, 0)}  # whose drivers have numbers of their own
NEWEST_KNOWN = (12, 1)

majors = [
    (3, 5),
    (3, 7),
    (5, 0),
    (5, 2),
    (6, 0),
    (6, 1),
    (7, 0),
    (7, 2),
    (7, 5),
    (8, 0),
    (8, 6),
    (8, 7),
    (8, 9),
    (9, 0),
]
newer = [(10, 0), (10, 3), (11, 0), (12, 0), (12, 1), (12, 9), (13, 0)]
capabilities = st.sampled_from(majors + newer).map(lambda pair: ComputeCapability(*pair))
drivers = st.one_of(
    st.sampled_from(["440.33", "450.80.02", "470.57.02", "516.01", "520.06", "520.61.05", "525.60.13", "527.41"]),
    st.sampled_from(["535.216.01", "550.54.14", "560.28.03", "570.26", "576.02", "580.65.06", "595.45.04", "640.1"]),
    st.builds("{}.{}.{:02}".format, st.integers(430, 620), st.integers(0, 130), st.integers(0, 20)),
).map(Version)


# docs.nvidia.com/datacenter/tesla/drivers/cuda-toolkit-driver-and-architecture-matrix.html
FIRST_DRIVER = {(7, 0): 384, (7, 5): 410, (8, 0): 450, (8, 6): 455} | {
    **dict.fromkeys([(8, 9), (9, 0)], 520),
    **dict.fromkeys([(10, 0), (12, 0)], 570),
    **dict.fromkeys([(10, 3), (12, 1)], 575),
}
LAST_DRIVER = dict.fromkeys([(3, 5), (3, 7)], 470) | dict.fromkeys([(5, 0), (5, 2), (6, 0), (6, 1), (7, 0)], 580)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    found = draw(st.lists(st.one_of(st.none(), capabilities), max_size=4))
    all_gpus = tuple(Gpu(index=i, name=f"GPU-{i}", compute_capability=c) for i, c in enumerate(found))
    version = draw(st.one_of(st.none(), drivers))
    return Machine(
        platform=draw(st.sampled_from(["linux-64", "linux-64", "linux-aarch64", "win-64", "osx-arm64", "osx-64"])),
        python=Version("3.11"),
        glibc=draw(st.sampled_from([None, Version("2.17"), Version("2.27"), Version("2.28"), Version("2.39")])),
        driver=Driver(user_version=version) if version else None,
        gpus=all_gpus,
        visible=draw(st.one_of(st.none(), st.permutations(range(len(all_gpus))).map(lambda p: tuple(p[:2])))),
        is_wsl=draw(st.booleans()),
    )


@st.composite
def requests(draw: st.DrawFn) -> Request:
    return Request(
        cuda=draw(st.one_of(st.none(), st.none(), st.sampled_from(MATRIX.tags))),
        torch=draw(st.one_of(st.none(), st.none(), st.sampled_from(MATRIX.torches))),
        python=draw(st.one_of(st.none(), st.none(), st.sampled_from(MATRIX.pythons))),
        platform=draw(st.one_of(st.none(), st.none(), st.sampled_from(MATRIX.platforms))),
        prefer=draw(st.sampled_from(list(Preference))),
    )


def judged(machine: Machine, request: Request) -> tuple[tuple[Candidate, ...], tuple[Build, ...], Candidate | None]:
    try:
        answer = select(machine, request, MATRIX)
    except NoBuildError as error:
        return (), tuple(refusal.build for refusal in error.refused), None
    chosen = Candidate(build=answer.build, python=answer.python, grade=answer.grade)
    return answer.accepted, tuple(refusal.build for refusal in answer.refused), chosen


def bound(machine: Machine) -> tuple[Gpu, ...]:
    visible = machine.visible_gpus
    return visible or machine.gpus


def has_code(build: Build, pair: tuple[int, int]) -> bool:
    kernels = {(k.major, k.minor) for k in build.capabilities}
    if pair in TEGRA:
        return pair in kernels
    return any(k not in TEGRA and k[0] == pair[0] and k[1] <= pair[1] for k in kernels)


def expected_grade(build: Build, machine: Machine, request: Request) -> Grade | None:
    """None where the build must be refused; the rules of DESIGN.md in their plainest form."""
    own = build.platform == machine.platform
    nvidia = own and (machine.driver is not None or bool(machine.gpus))
    wrong = [
        build.platform != (request.platform or machine.platform),
        request.torch not in (None, build.torch),
        request.cuda not in (None, build.tag),
        request.python is not None and request.python not in build.pythons,
        own and machine.glibc is not None and build.glibc is not None and machine.glibc < build.glibc,
    ]
    if request.cuda is None and not build.platform.startswith("osx"):
        wrong += [build.tag.is_cpu is nvidia, not build.tag.is_cpu and machine.driver is None]
    if any(wrong):
        return None
    if build.tag.cuda is None:
        return Grade.CPU if build.confirmed else Grade.UNVERIFIED
    return expected_cuda_grade(build, build.tag.cuda, machine) if own else Grade.UNVERIFIED


def expected_cuda_grade(build: Build, cuda: Version, machine: Machine) -> Grade | None:
    pairs = [(g.compute_capability.major, g.compute_capability.minor) for g in bound(machine) if g.compute_capability]
    lacking = [pair for pair in pairs if not has_code(build, pair)]
    for pair in lacking:
        sbsa = pair == (8, 7) and build.platform == "linux-aarch64" and cuda >= Version("13.2")
        if not sbsa and (pair in TEGRA or not any((p.major, p.minor) <= pair for p in build.ptx)):
            return None
    if machine.driver is None or any(pair in OWN_DRIVERS for pair in pairs):
        return Grade.UNVERIFIED  # the machines have no CUDA version that says what such a driver supports
    version = machine.driver.version
    assert version is not None
    ranges = [(FIRST_DRIVER.get(pair, 0), LAST_DRIVER.get(pair, version.major)) for pair in pairs]
    system = "windows" if machine.is_wsl or build.platform == "win-64" else "linux"
    release = (*version.release, 0, 0)[:3]
    if release < (*FLOOR[system][cuda.major], 0, 0)[:3] and release < (*OWN[system][str(cuda)], 0, 0)[:3]:
        return None
    direct = release >= (*OWN[system][str(cuda)], 0, 0)[:3]
    if (lacking and not direct) or not all(first <= version.major <= last for first, last in ranges):
        return None
    is_uncertain = lacking or len(pairs) < len(bound(machine)) or any(pair > NEWEST_KNOWN for pair in pairs)
    if not build.confirmed or not build.capabilities_stated or not bound(machine) or is_uncertain:
        return Grade.UNVERIFIED
    return Grade.DIRECT if direct else Grade.MINOR_COMPATIBLE


@settings(max_examples=150, deadline=None)
@given(machines(), requests())
def test_each_build_is_accepted_exactly_when_every_constraint_holds(machine: Machine, request: Request) -> None:
    accepted, refused, _ = judged(machine, request)
    expected = {id(b): g for b in MATRIX.builds if (g := expected_grade(b, machine, request)) is not None}
    assert {id(c.build): c.grade for c in accepted} == expected
    assert {id(b) for b in refused} == {id(b) for b in MATRIX.builds} - set(expected)
    assert len(accepted) + len(refused) == len(MATRIX.builds)


@settings(max_examples=150, deadline=None)
@given(machines(), requests())
def test_the_answer_is_the_best_of_the_accepted(machine: Machine, request: Request) -> None:
    accepted, _, chosen = judged(machine, request)
    if chosen is None:
        assert not accepted
        return
    assert chosen == accepted[0]
    verified = [c for c in accepted if c.build.confirmed and c.grade is not Grade.UNVERIFIED]
    assert not verified or chosen in verified
    rivals = verified or [c for c in accepted if c.build.confirmed] or accepted
    if request.prefer is Preference.NEWEST_TORCH:
        assert chosen.build.torch == max(c.build.torch for c in rivals)
        same = [c for c in rivals if c.build.torch == chosen.build.torch]
        assert chosen.grade is Grade.DIRECT or all(c.grade is not Grade.DIRECT for c in same)
    if request.prefer is Preference.DIRECT:
        assert chosen.grade is Grade.DIRECT or all(c.grade is not Grade.DIRECT for c in rivals)
    if request.prefer is Preference.WIDEST:
        assert major(chosen.build.tag) == min(major(c.build.tag) for c in rivals)


def major(tag: WheelTag) -> int:
    return tag.cuda.major if tag.cuda else 0


@settings(max_examples=60, deadline=None)
@given(machines(), requests(), st.randoms(use_true_random=False))
def test_the_order_of_matrix_and_gpus_does_not_change_the_answer(
    machine: Machine, request: Request, random: Random
) -> None:
    builds, gpus = list(MATRIX.builds), list(machine.gpus)
    random.shuffle(builds)
    random.shuffle(gpus)
    try:
        first = select(machine, request, MATRIX)
    except NoBuildError:
        return
    again = select(replace(machine, gpus=tuple(gpus)), request, replace(MATRIX, builds=tuple(builds)))
    assert (first.build, first.python, first.grade) == (again.build, again.python, again.grade)
    assert select(machine, request, MATRIX) == first


@settings(max_examples=150, deadline=None)
@given(machines())
def test_verified_build_has_a_kernel_and_a_driver_for_every_gpu(machine: Machine) -> None:
    """The promise of the grades, checked without the code that gives them."""
    accepted, _, _ = judged(machine, Request())
    for candidate in accepted:
        if candidate.grade not in (Grade.DIRECT, Grade.MINOR_COMPATIBLE):
            continue
        build, driver = candidate.build, machine.driver.version if machine.driver else None
        assert build.confirmed
        assert build.capabilities_stated
        assert driver is not None
        assert bound(machine)
        for gpu in bound(machine):
            assert gpu.compute_capability is not None
            pair = (gpu.compute_capability.major, gpu.compute_capability.minor)
            assert has_code(build, pair)
            assert FIRST_DRIVER.get(pair, 0) <= driver.major <= LAST_DRIVER.get(pair, driver.major)


@settings(max_examples=150, deadline=None)
@given(machines(), requests())
def test_unverified_cuda_build_names_what_is_missing(machine: Machine, request: Request) -> None:
    platform = request.platform or machine.platform
    facts = read_limits(machine, platform)
    accepted, _, _ = judged(machine, request)
    for candidate in accepted:
        if candidate.build.tag.cuda is not None:
            missing = tuple(missing_limits(candidate.build, facts, MATRIX))
            assert bool(missing) is (candidate.grade is Grade.UNVERIFIED)


def goodness(answer: Selection | None) -> tuple[bool, bool, bool]:
    """Whether there is an answer, it is verified, and its build was seen."""
    if answer is None:
        return False, False, False
    return True, answer.grade is not Grade.UNVERIFIED, answer.build.confirmed


def answered(machine: Machine, request: Request, matrix: Matrix) -> Selection | None:
    """The selection, after a check that each row is either accepted or rejected with a reason."""
    answer: Selection | None = None
    try:
        answer = select(machine, request, matrix)
        accepted, refused = answer.accepted, answer.refused
    except NoBuildError as error:
        accepted, refused = (), error.refused
    assert len(accepted) + len(refused) == len(matrix.builds)
    assert all(refusal.reason and refusal.wanted and refusal.found for refusal in refused)
    return answer


@settings(max_examples=100, deadline=None)
@given(machines(), requests(), st.integers(0, len(MATRIX.torches) - 1))
def test_newer_release_never_makes_an_answer_worse(machine: Machine, request: Request, newest: int) -> None:
    older = replace(MATRIX, builds=tuple(b for b in MATRIX.builds if b.torch < MATRIX.torches[newest]))
    newer = replace(MATRIX, builds=tuple(b for b in MATRIX.builds if b.torch <= MATRIX.torches[newest]))
    before, after = (answered(machine, request, matrix) for matrix in (older, newer))
    assert goodness(after) >= goodness(before)
    if before is not None and after is not None and request.prefer is Preference.NEWEST_TORCH:
        assert after.build.torch >= before.build.torch or goodness(after) > goodness(before)
