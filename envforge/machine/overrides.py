"""Apply the variables that override facts of the machine; conda, mamba, and pixi read them too."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from packaging.version import InvalidVersion, Version

from envforge.cuda import ComputeCapability
from envforge.errors import Hint, RequestError
from envforge.machine import Condition, Driver, Machine, Override

CUDA = "CONDA_OVERRIDE_CUDA"
CUDA_ARCH = "CONDA_OVERRIDE_CUDA_ARCH"
GLIBC = "CONDA_OVERRIDE_GLIBC"
VARIABLES = (CUDA, CUDA_ARCH, GLIBC)


def apply_overrides(machine: Machine, environment: Mapping[str, str]) -> Machine:
    """Return the machine with the facts that the variables set; raise RequestError for an invalid version."""
    given = tuple(Override(variable=name, value=environment[name]) for name in VARIABLES if name in environment)
    changed = dataclasses.replace(machine, overrides=given)
    for override in given:
        changed = _APPLY[override.variable](changed, override.value.strip())
    return changed


def _cuda(machine: Machine, value: str) -> Machine:
    """Treat an empty value as a machine without CUDA, as conda does."""
    if value:
        driver = dataclasses.replace(machine.driver or Driver(), cuda=_version(CUDA, value, "12.4"))
        return _read(dataclasses.replace(machine, driver=driver), "driver.cuda", CUDA)
    if machine.driver is None and not machine.gpus:
        return machine
    switched_off = Condition(
        code="cuda-switched-off",
        symptom=f"the driver and {_count(len(machine.gpus))} of this machine are ignored",
        cause=f"{CUDA} is set to an empty value, which means a machine without CUDA, as in conda",
        remedy=f"to use the GPU, run `unset {CUDA}`",
    )
    sources = tuple(
        (fact, source) for fact, source in machine.sources if not fact.startswith(("driver", "gpus", "visible"))
    )
    return dataclasses.replace(
        machine, driver=None, gpus=(), visible=None, conditions=(*machine.conditions, switched_off), sources=sources
    )


def _count(gpus: int) -> str:
    return "1 GPU" if gpus == 1 else f"{gpus} GPUs"


def _cuda_arch(machine: Machine, value: str) -> Machine:
    """Ignore an empty value."""
    if not value:
        return machine
    try:
        capability = ComputeCapability.parse(value)
    except ValueError as error:
        raise _bad(CUDA_ARCH, value, "a compute capability such as `8.6`", "8.6") from error
    return _read(dataclasses.replace(machine, capability_override=capability), "capability_override", CUDA_ARCH)


def _glibc(machine: Machine, value: str) -> Machine:
    """Treat an empty value as a machine without glibc, as conda does."""
    glibc = _version(GLIBC, value, "2.28") if value else None
    return _read(dataclasses.replace(machine, glibc=glibc), "glibc", GLIBC)


_APPLY = {CUDA: _cuda, CUDA_ARCH: _cuda_arch, GLIBC: _glibc}


def _read(machine: Machine, fact: str, source: str) -> Machine:
    return dataclasses.replace(machine, sources=tuple(sorted({**dict(machine.sources), fact: source}.items())))


def _version(variable: str, value: str, example: str) -> Version:
    try:
        return Version(value)
    except InvalidVersion as error:
        raise _bad(variable, value, f"a version such as `{example}`", example) from error


def _bad(variable: str, value: str, wanted: str, example: str) -> RequestError:
    return RequestError(
        f"invalid value `{value}` for the environment variable `{variable}`: expected {wanted}",
        hint=(
            Hint("to set a valid value", f"export {variable}={example}"),
            Hint("to use what was detected", f"unset {variable}"),
        ),
        code="bad-override",
    )
