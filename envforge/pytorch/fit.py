"""Judge whether one build fits one computer: kernels and GPUs, toolkit and driver, wheel and glibc."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from packaging.version import Version

from envforge.base.terms import ComputeCapability
from envforge.machine.gpu_tables import driver_support, is_tegra
from envforge.machine.values import OTHER_GPU, Condition, Machine, driver_text
from envforge.pytorch.matrix import Build, Grade, Matrix

# conditions that don't affect the selection, or that it considers itself
_HARMLESS = ("wsl", "different-gpus", "gpus-hidden", "mig", "no-nvidia-device")


class Misfit(Struct, frozen=True, kw_only=True):
    """The reason why a build doesn't fit, with what it requires and what was found."""

    code: str
    wanted: str
    found: str
    reason: str


class MachineLimits(Struct, frozen=True, kw_only=True):
    """What constrains the selection on one platform. ``is_known`` is false if the platform's machine is unknown.

    ``gpus`` holds each GPU with its name; ``stated_cuda`` is the CUDA version that the user set for the driver;
    ``troubles`` are conditions that keep CUDA programs from the GPU. ``unsupported`` holds the GPUs that the driver
    doesn't support, whatever the build. ``other_gpu`` is the condition of GPUs that no build here is made for.
    """

    platform: str
    is_known: bool = False
    has_nvidia: bool = False
    windows_driver: bool = False
    glibc: Version | None = None
    driver: Version | None = None
    driver_cuda: Version | None = None
    has_driver: bool = False
    stated_cuda: Version | None = None
    gpus: tuple[tuple[str, ComputeCapability], ...] = ()
    unknown_gpus: tuple[str, ...] = ()
    hidden_gpus: int = 0
    has_no_glibc: bool = False
    troubles: tuple[Condition, ...] = ()
    unsupported: tuple[Misfit, ...] = ()
    other_gpu: Condition | None = None


def read_limits(machine: Machine, platform: str) -> MachineLimits:
    """Return the machine's facts if the platform is its own, else none: unknown facts don't constrain."""
    is_windows = platform.startswith("win-")
    # a lockfile for another platform is for another computer, of which nothing is known
    if platform != machine.platform:
        return MachineLimits(platform=platform, windows_driver=is_windows)
    driver = machine.driver
    hides_all = machine.visible is not None and not machine.visible_gpus and bool(machine.gpus)
    # CUDA_VISIBLE_DEVICES may be set only in this shell, but the project keeps its build
    gpus = machine.gpus if hides_all else machine.visible_gpus
    known = tuple((gpu.name, gpu.compute_capability) for gpu in gpus if gpu.compute_capability is not None)
    if machine.capability_override is not None:
        known = (("the GPU set by CONDA_OVERRIDE_CUDA_ARCH", machine.capability_override),)
    unknown = () if machine.capability_override else tuple(g.name for g in gpus if g.compute_capability is None)
    # the numbers of Tegra drivers have nothing to do with those of server drivers: only their CUDA says what they run
    on_tegra = any(c.code == "jetson" for c in machine.conditions) or any(is_tegra(each) for _, each in known)
    version = driver.version if driver and not on_tegra else None
    return MachineLimits(
        platform=platform,
        is_known=True,
        has_nvidia=machine.has_nvidia,
        windows_driver=is_windows or machine.is_wsl,
        glibc=machine.glibc,
        driver=version,
        driver_cuda=driver.cuda if driver else None,
        has_driver=driver is not None,
        stated_cuda=driver.cuda if driver and machine.cuda_is_stated else None,
        gpus=known,
        unknown_gpus=unknown,
        hidden_gpus=len(machine.gpus) if hides_all else 0,
        has_no_glibc=any(condition.code == "no-glibc" for condition in machine.conditions),
        troubles=tuple(condition for condition in machine.conditions if condition.code not in _HARMLESS),
        other_gpu=next((condition for condition in machine.conditions if condition.code == OTHER_GPU), None),
        unsupported=() if version is None or machine.cuda_is_stated else tuple(_unsupported(version, known)),
    )


def _unsupported(driver: Version, gpus: Iterable[tuple[str, ComputeCapability]]) -> Iterator[Misfit]:
    """Yield the GPUs that the driver's branch doesn't support yet or doesn't support anymore.

    Source: NVIDIA data center drivers, "CUDA Toolkit, Driver, and Architecture Matrix".
    """
    for name, capability in gpus:
        support = driver_support(capability)
        if support.last is not None and driver.major > support.last:
            code, wanted, text = "driver-dropped", f"{support.last} or older", f"{support.last} is the last branch"
        elif support.first is not None and driver.major < support.first:
            code, wanted, text = "driver", f"{support.first} or newer", f"{support.first} is the first branch"
        else:
            continue
        found = f"driver {driver_text(driver)}"
        yield Misfit(
            code=code,
            wanted=f"NVIDIA driver {wanted}, for {name} ({capability})",
            found=found,
            reason=f"{found} doesn't support {name} ({capability}): {text} that does",
        )


def fit(build: Build, facts: MachineLimits, matrix: Matrix) -> Grade | Misfit:
    """Return how well the build runs there, or the one reason why it doesn't."""
    too_old = build.glibc is not None and facts.glibc is not None and facts.glibc < build.glibc
    if too_old or (build.glibc is not None and facts.has_no_glibc):
        wanted = f"glibc {build.glibc} or newer"
        found = "a system without glibc" if facts.has_no_glibc else f"glibc {facts.glibc}"
        return Misfit(code="glibc", wanted=wanted, found=found, reason=f"the wheel requires {wanted}, found {found}")
    if build.tag.cuda is None:
        return Grade.CPU if build.confirmed else Grade.UNVERIFIED
    return _fit_cuda(build, build.tag.cuda, facts, matrix) if facts.is_known else Grade.UNVERIFIED


def _fit_cuda(build: Build, cuda: Version, facts: MachineLimits, matrix: Matrix) -> Grade | Misfit:
    if facts.unsupported:
        return facts.unsupported[0]
    refused = next((m for gpu in facts.gpus if (m := _no_kernel(build, gpu, matrix)) is not None), None)
    if refused is not None:
        return refused
    grade = driver_grade(cuda, facts, matrix)
    if isinstance(grade, Misfit):
        return grade
    # an older driver of the same CUDA major runs kernels, but can't compile the PTX of a newer toolkit
    foreign = next((gpu for gpu in facts.gpus if not has_cubin(build, gpu[1], matrix)), None)
    if foreign is not None and grade is Grade.MINOR_COMPATIBLE:
        return _no_jit(build, foreign, facts, matrix)
    return Grade.UNVERIFIED if any(missing_limits(build, facts, matrix)) else grade


def missing_limits(build: Build, facts: MachineLimits, matrix: Matrix) -> Iterator[str]:
    """Yield each fact that would have to be known to say that a CUDA build runs there; a build without any is verified.

    The words complete "it is not known".
    """
    cuda = build.tag.cuda
    if not build.confirmed:
        yield f"whether the index has torch {build.torch} for {build.tag}"
    if not facts.is_known:
        yield f"which driver and GPU the {facts.platform} machine has"
        return
    if not facts.has_driver:
        yield "which driver the machine has"
    elif facts.driver is None and facts.driver_cuda is None:
        yield "which version the driver has"
    elif cuda is not None and facts.stated_cuda is None and facts.driver and matrix.direct_minimum(cuda) is None:
        yield f"which driver CUDA {cuda} requires"
    yield from _missing_of_gpus(build, facts, matrix)


def _missing_of_gpus(build: Build, facts: MachineLimits, matrix: Matrix) -> Iterator[str]:
    if not facts.gpus and not facts.unknown_gpus:
        yield "which GPU the machine has"
    elif not build.capabilities_stated:
        yield f"which GPUs this {build.tag} wheel for {build.platform} supports: its kernels are inferred from others"
    for name in dict.fromkeys(facts.unknown_gpus):
        yield f"which compute capability {name} has"
    for name, capability in dict.fromkeys(facts.gpus):
        if capability not in matrix.known_capabilities:
            yield f"which kernels run on compute capability {capability} ({name})"
        elif not has_cubin(build, capability, matrix):
            if has_code(build, capability, matrix):
                yield f"whether code for servers runs on {name}, a Tegra chip ({capability})"
            else:
                yield f"whether the driver can compile PTX of the wheel, which is all it has for {name} ({capability})"


def has_cubin(build: Build, capability: ComputeCapability, matrix: Matrix) -> bool:
    """Return whether the wheel holds machine code for the GPU: same major version and no higher minor.

    Source: CUDA C++ programming guide, binary compatibility. Tegra chips run only code that was built for them.
    """
    if capability in matrix.tegra:
        return capability in build.capabilities
    return any(
        kernel.major == capability.major and kernel.minor <= capability.minor and kernel not in matrix.tegra
        for kernel in build.capabilities
    )


def has_code(build: Build, capability: ComputeCapability, matrix: Matrix) -> bool:
    """Return whether the GPU may run code of the wheel without compiling PTX.

    That is machine code for it, or on Tegra, from a certain CUDA on, for servers (pytorch/pytorch pull request 186285).
    """
    sbsa = driver_support(capability).sbsa_cuda
    if sbsa is None or build.tag.cuda is None or build.tag.cuda < sbsa or not build.platform.endswith("-aarch64"):
        return has_cubin(build, capability, matrix)
    return any(each.major == capability.major and each.minor <= capability.minor for each in build.capabilities)


def has_ptx(build: Build, capability: ComputeCapability, matrix: Matrix) -> bool:
    """Return whether the driver can compile a kernel for the GPU from PTX in the wheel."""
    return capability not in matrix.tegra and any(ptx <= capability for ptx in build.ptx)


def driver_grade(cuda: Version, facts: MachineLimits, matrix: Matrix) -> Grade | Misfit:
    """Return how well the driver supports a toolkit, by the driver's version or the CUDA that the user set for it."""
    if facts.stated_cuda is not None or facts.driver is None:
        return _grade_by_cuda(cuda, facts.stated_cuda or facts.driver_cuda)
    direct, family = matrix.direct_minimum(cuda), matrix.family_minimum(cuda)
    # the first toolkit of a major version may come with an older driver than the later ones run on
    lowest = family or direct
    if direct is not None and family is not None and cuda.minor == 0:
        lowest = min(direct, family, key=lambda row: row.driver(windows=facts.windows_driver))
    if lowest is not None and facts.driver < lowest.driver(windows=facts.windows_driver):
        wanted = f"NVIDIA driver {driver_text(lowest.driver(windows=facts.windows_driver))} or newer"
        found = f"driver {driver_text(facts.driver)}"
        reason = f"CUDA {cuda.major}.x requires {wanted}, found {found}"
        return Misfit(code="driver", wanted=wanted, found=found, reason=reason)
    if direct is None:
        return Grade.UNVERIFIED
    return Grade.DIRECT if facts.driver >= direct.driver(windows=facts.windows_driver) else Grade.MINOR_COMPATIBLE


def _grade_by_cuda(cuda: Version, served: Version | None) -> Grade | Misfit:
    if served is None:
        return Grade.UNVERIFIED
    if cuda <= served:
        return Grade.DIRECT
    if cuda.major == served.major and served.major >= 11:
        return Grade.MINOR_COMPATIBLE
    wanted, found = f"a driver that supports CUDA {cuda.major}.0 or newer", f"one that supports CUDA {served}"
    return Misfit(
        code="driver", wanted=wanted, found=found, reason=f"CUDA {cuda.major}.x requires {wanted}, found {found}"
    )


def _no_kernel(build: Build, gpu: tuple[str, ComputeCapability], matrix: Matrix) -> Misfit | None:
    name, capability = gpu
    if has_code(build, capability, matrix) or has_ptx(build, capability, matrix):
        return None
    has = ", ".join(map(str, build.capabilities))
    wanted, found = f"a kernel for compute capability {capability} ({name})", f"kernels for {has}"
    reason = f"the wheel has no kernel for compute capability {capability} ({name}), {_boundary(build, capability)}"
    if capability in matrix.tegra:
        reason = f"the wheel has no kernel for {name}, a Tegra chip ({capability}); NVIDIA publishes PyTorch for Jetson"
        sbsa = driver_support(capability).sbsa_cuda
        reason += f", and builds of CUDA {sbsa} or newer may run there" if sbsa else ""
    return Misfit(code="compute-capability", wanted=wanted, found=found, reason=reason)


def _boundary(build: Build, capability: ComputeCapability) -> str:
    lowest, highest = min(build.capabilities), max(build.capabilities)
    if capability > highest:
        return f"the newest is {highest}"
    if capability < lowest:
        return f"the oldest is {lowest}"
    return "only for " + ", ".join(map(str, build.capabilities))


def _no_jit(build: Build, gpu: tuple[str, ComputeCapability], facts: MachineLimits, matrix: Matrix) -> Misfit:
    name, capability = gpu
    direct = matrix.direct_minimum(build.tag.cuda) if build.tag.cuda else None
    minimum = driver_text(direct.driver(windows=facts.windows_driver)) if direct else "of the toolkit itself"
    found = f"driver {driver_text(facts.driver)}" if facts.driver else f"one that supports CUDA {facts.driver_cuda}"
    if has_code(build, capability, matrix):
        wanted = f"a driver that supports CUDA {build.tag.cuda} or newer, for {name}, a Tegra chip ({capability})"
        reason = f"the wheel requires {wanted}, found {found}"
        return Misfit(code="driver", wanted=wanted, found=found, reason=reason)
    wanted = f"NVIDIA driver {minimum} or newer, to compile PTX for compute capability {capability} ({name})"
    reason = f"the wheel has only PTX for compute capability {capability} ({name}): it requires {wanted}, found {found}"
    return Misfit(code="ptx-driver", wanted=wanted, found=found, reason=reason)
