"""Load a machine: this computer, a record in a file, or a built-in profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from envforge.base.data_files import read_data
from envforge.base.suggest import nearest
from envforge.base.terms import ComputeCapability
from envforge.errors import Hint, RequestError
from envforge.machine.nvidia_text import branch_cuda
from envforge.machine.record import RECORD_COMMAND, read_machine
from envforge.machine.values import Driver, Gpu, Machine

PYTHON = Version("3.12")
GLIBC = Version("2.35")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Profile:
    """A table of ``profiles.toml``; without ``driver`` it describes a machine without a GPU."""

    title: str
    platform: str = "linux-64"
    name: str = ""
    compute_capability: ComputeCapability | None = None
    memory_mib: int = 0
    driver: Version | None = None
    driver_source: str = ""


def load_machine(spec: str | None, environment: Mapping[str, str]) -> Machine:
    """Return the machine that ``--machine`` names; ``None`` probes this computer.

    The variables of ``environment`` describe this computer and don't apply to a record or a profile. A name with a
    path separator or the ending ``.json`` is a file, and so is every name of an existing file that is no profile.
    Raises RequestError for a name that is neither, MachineRecordError for an invalid file.
    """
    if spec is None:
        from envforge.machine.probe import probe  # noqa: PLC0415 - a record needs no probing
        from envforge.machine.world import World  # noqa: PLC0415 - a record needs no probing

        return probe(World.here(environment))
    profiles = read_data("profiles.toml", dict[str, _Profile])
    if spec in profiles:
        return _profile_machine(spec, profiles[spec])
    path = Path(spec)
    if path.is_file() or "/" in spec or "\\" in spec or spec.lower().endswith(".json"):
        return read_machine(path)
    near = nearest(spec.lower(), profiles)
    record = Hint("to create a record on that machine", RECORD_COMMAND)
    raise RequestError(
        f"`{spec}` is not a machine record or a known profile; available profiles: {', '.join(profiles)}",
        hint=(Hint(f"did you mean `--machine {near}`?") if near else record,),
        code="no-such-machine",
    )


def profile_titles() -> tuple[tuple[str, str], ...]:
    """Return the names of the profiles, each with the machines that it describes."""
    return tuple((name, row.title) for name, row in read_data("profiles.toml", dict[str, _Profile]).items())


def _profile_machine(name: str, row: _Profile) -> Machine:
    source = f"profile {name}"
    facts = {"platform": source, "python": source, "glibc": source}
    driver: Driver | None = None
    gpus: tuple[Gpu, ...] = ()
    if row.driver is not None:
        driver = Driver(kernel_version=row.driver, user_version=row.driver, cuda=branch_cuda(row.driver))
        gpus = (
            Gpu(
                index=0,
                name=row.name,
                compute_capability=row.compute_capability,
                memory_bytes=row.memory_mib * 1024 * 1024,
            ),
        )
        facts |= {
            "driver.cuda": "table of driver branches",
            "driver.kernel_version": f"{source}: {row.driver_source}",
            "driver.user_version": source,
            "gpus": source,
        }
    return Machine(
        platform=row.platform,
        python=PYTHON,
        glibc=GLIBC,
        driver=driver,
        gpus=gpus,
        sources=tuple(sorted(facts.items())),
    )
