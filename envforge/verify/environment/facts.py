"""Define the facts of an environment: its comparison with the lockfile, and what its Python loads with torch."""

from __future__ import annotations

from msgspec import Struct, field

from envforge.base.process import ProcessEnd
from envforge.base.redact import quoted
from envforge.verify.values import Signal


class AuditDifference(Struct, frozen=True, kw_only=True):
    """One difference between the environment and its lockfile, or one risk, as ``envforge audit`` reports it."""

    kind: str
    text: str
    package: str = ""
    path: str = ""


class AuditFacts(Struct, frozen=True, kw_only=True):
    """The result of ``envforge audit``; ``drift`` has at most 50 of the ``drift_count`` differences."""

    lockfile: str
    platform: str
    digest: str
    packages: int
    files: int
    drift_count: int = 0
    drift: tuple[AuditDifference, ...] = ()
    warnings: tuple[AuditDifference, ...] = ()
    notes: tuple[str, ...] = ()


class LockedTorch(Struct, frozen=True, kw_only=True):
    """The locked torch. ``cuda`` is None for a CPU build, and empty for a CUDA build of unknown version."""

    version: str
    build: str
    cuda: str | None
    packages: dict[str, str] = field(default_factory=dict)


class VisibleGpu(Struct, frozen=True, kw_only=True):
    """A GPU that CUDA programs can use, as the driver or torch reports it."""

    index: int
    name: str
    capability: str | None = None


class PythonFacts(Struct, frozen=True, kw_only=True):
    """The interpreter as your own command starts it; lines of ``.pth`` files add directories or run code."""

    version: str
    executable: str
    prefix: str
    python_path: str | None = None
    user_site: str | None = None
    outside: tuple[str, ...] = ()
    pth: tuple[str, ...] = ()
    torch_origin: str | None = None


class TorchFacts(Struct, frozen=True, kw_only=True):
    """What torch reports after the import; ``numpy_warning`` is its warning about an incompatible NumPy."""

    version: str
    file: str
    cuda: str | None = None
    hip: str | None = None
    arch_list: tuple[str, ...] = ()
    cudnn: str | None = None
    nccl: str | None = None
    seconds: float = 0.0
    numpy_warning: str | None = None


class CudaFacts(Struct, frozen=True, kw_only=True):
    """What torch reports about GPUs; ``warnings`` are those of ``torch.cuda.is_available()``."""

    available: bool
    warnings: tuple[str, ...] = ()
    gpus: tuple[VisibleGpu, ...] = ()
    error: str | None = None


class NumpyFacts(Struct, frozen=True, kw_only=True):
    """Whether torch can convert an array of NumPy to a tensor and back."""

    version: str
    works: bool
    error: str | None = None


class Library(Struct, frozen=True, kw_only=True):
    """A library that the process loaded; ``family`` is its name without version and suffix."""

    family: str
    path: str
    inside: bool


class Toolchain(Struct, frozen=True, kw_only=True):
    """What ``torch.compile`` needs in addition to torch; None if it was not found."""

    compiler: str | None = None
    python_header: str | None = None
    triton: str | None = None


class EnvironmentFacts(Struct, frozen=True, kw_only=True):
    """The environment.

    ``state``: none, missing, not-an-environment, unfinished, damaged, finished, foreign, virtual.

    ``process`` is the exit of the process that imported torch. ``isolated_torch`` is the torch that Python finds
    without the user's variables, user site-packages, and current directory.
    """

    prefix: str | None
    state: str
    state_text: str
    platform: str
    driver: str | None = None
    driver_source: str = ""
    machine_gpus: tuple[VisibleGpu, ...] = ()
    conditions: tuple[str, ...] = ()
    locked: Signal[LockedTorch] = field(default_factory=Signal)
    audit: Signal[AuditFacts] = field(default_factory=Signal)
    process: ProcessEnd | None = None
    python: Signal[PythonFacts] = field(default_factory=Signal)
    isolated_torch: Signal[str] = field(default_factory=Signal)
    torch: Signal[TorchFacts] = field(default_factory=Signal)
    cuda: Signal[CudaFacts] = field(default_factory=Signal)
    numpy: Signal[NumpyFacts] = field(default_factory=Signal)
    libraries: Signal[tuple[Library, ...]] = field(default_factory=Signal)
    toolchain: Signal[Toolchain] = field(default_factory=Signal)

    def with_prefix(self, command: str) -> str:
        """Return a command with this environment's prefix."""
        return command if self.prefix is None else f"{command} --prefix {quoted(self.prefix)}"

    @property
    def repair_command(self) -> str:
        """The command that repairs this environment; one that envforge can't audit is only checked."""
        if self.state == "virtual" and self.prefix is not None:
            return f"{quoted(self.prefix)}/bin/python -m pip check"
        # `--fix` changes only environments that envforge manages
        return self.with_prefix("envforge install --force" if self.state == "foreign" else "envforge audit --fix")

    @property
    def command_without_library_path(self) -> str:
        """The command that shows whether LD_LIBRARY_PATH or LD_PRELOAD is the cause."""
        return f"env -u LD_LIBRARY_PATH -u LD_PRELOAD {self.with_prefix('envforge verify env')}"
