"""Define machines for the tests of the selection, one line each."""

from __future__ import annotations

from msgspec.structs import replace
from packaging.version import Version

from envforge.base.terms import ComputeCapability, WheelTag
from envforge.machine.values import Driver, Gpu, Machine, Override
from envforge.pytorch.matrix import Matrix, load_matrix

NEWEST_TORCH, NEWEST_CUDA, NEWEST_PYTHON = Version("2.15.0"), Version("13.2"), Version("3.14")


def without_newer(matrix: Matrix) -> Matrix:
    """The matrix as the tests know it, so that a new release, CUDA tag, or Python doesn't change what they expect."""
    return replace(
        matrix,
        known_capabilities=tuple(each for each in matrix.known_capabilities if each <= ComputeCapability(12, 1)),
        builds=tuple(
            replace(build, pythons=tuple(python for python in build.pythons if python <= NEWEST_PYTHON))
            for build in matrix.builds
            if build.torch <= NEWEST_TORCH and (build.tag.cuda is None or build.tag.cuda <= NEWEST_CUDA)
        ),
    )


MATRIX = without_newer(load_matrix())
CU118 = WheelTag.parse("cu118")


def gpus(*capabilities: str) -> tuple[Gpu, ...]:
    """One GPU for each compute capability; ``?`` stands for one that is not known."""
    return tuple(
        Gpu(
            index=i,
            name=f"GPU-{i}",
            compute_capability=None if text == "?" else ComputeCapability.parse(text),
        )
        for i, text in enumerate(capabilities)
    )


def machine(
    *capabilities: str,
    driver: str | None = None,
    platform: str = "linux-64",
    glibc: str | None = "2.35",
    serves: str | None = None,
) -> Machine:
    """A machine with these GPUs, a driver of this version, or one that only says which CUDA it ``serves``."""
    known = None
    if driver is not None or serves is not None:
        known = Driver(user_version=Version(driver) if driver else None, cuda=Version(serves) if serves else None)
    return Machine(
        platform=platform,
        python=Version("3.11"),
        glibc=Version(glibc) if glibc else None,
        driver=known,
        gpus=gpus(*capabilities),
    )


def stated(cuda: str, *capabilities: str, driver: str | None = None) -> Machine:
    """A machine whose CUDA the user states in ``CONDA_OVERRIDE_CUDA``."""
    return Machine(
        platform="linux-64",
        python=Version("3.11"),
        glibc=Version("2.35"),
        driver=Driver(user_version=Version(driver) if driver else None, cuda=Version(cuda)),
        gpus=gpus(*capabilities),
        overrides=(Override(variable="CONDA_OVERRIDE_CUDA", value=cuda),),
    )
