"""Run the smoke test and the hooks of a new project.

A GPU result is valid only for the torch build of the lockfile, so another build never passes or fails the GPU part.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import IO

from msgspec import Struct
from packaging.version import Version

from envforge.base.staging import PlannedFile
from envforge.errors import EnvforgeError, Hint, printable
from envforge.machine.values import Machine
from envforge.pytorch.fit import Misfit, fit, read_limits
from envforge.pytorch.matrix import Matrix, Selection

_CUDA = re.compile(r"^cuda\b[^=]*=\s*['\"](\d+\.\d+)", re.MULTILINE)
_SKIP = "--skip-gpu"


class TorchBuild(Struct, frozen=True, kw_only=True):
    """The torch of an interpreter; ``cuda`` is ``None`` for a build without CUDA."""

    version: Version
    cuda: Version | None

    def __str__(self) -> str:
        shows_cuda = self.cuda is not None and self.version.local is None
        return f"torch {self.version} (CUDA {self.cuda})" if shows_cuda else f"torch {self.version}"


class SmokeRun(Struct, frozen=True, kw_only=True):
    """One run of ``python -m PACKAGE.smoke``. ``skip_reason`` is why the GPU part isn't run."""

    python: str
    folder: Path
    package: str
    require_gpu: bool = False
    skip_reason: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """The options of the smoke module."""
        if self.skip_reason:
            return (_SKIP, self.skip_reason)
        return ("--require-gpu",) if self.require_gpu else ()


def require_torch() -> None:
    """Raise if this interpreter can't run the smoke test."""
    # looked up and not imported, because importing torch takes seconds
    missing = [name for name in ("torch", "sklearn", "matplotlib") if importlib.util.find_spec(name) is None]
    if missing:
        from envforge.base.distribution import extra_command  # noqa: PLC0415 - only this error needs it

        raise EnvforgeError(
            f"`--smoke` trains with this interpreter, but `{sys.executable}` has no `{missing[0]}`",
            hint=(
                Hint("to train in the project's own environment, add `--install`"),
                Hint("to install what the smoke test needs here", extra_command("smoke")),
            ),
            code="no-torch-for-smoke",
        )


def interpreter_torch() -> TorchBuild | None:
    """Return the torch of this interpreter without importing it; None if it has none that can be read."""
    found = importlib.util.find_spec("torch")
    try:
        version = Version(metadata.version("torch"))
        text = (Path(found.origin or "").parent / "version.py").read_text(encoding="utf-8") if found else ""
    except (metadata.PackageNotFoundError, ValueError, OSError):
        return None
    cuda = _CUDA.search(text)
    return TorchBuild(version=version, cuda=Version(cuda[1]) if cuda else None)


def is_other_build(found: TorchBuild | None, selection: Selection) -> bool:
    """Return whether an interpreter's torch isn't the build that the project's environment has."""
    build = selection.build
    return found is None or Version(found.version.public) != build.torch or found.cuda != build.tag.cuda


def gpu_skip_reason(
    selection: Selection, machine: Machine, matrix: Matrix, lock_name: str, found: TorchBuild | None
) -> str:
    """Return why the GPU part can't be run here; empty if it can.

    ``found`` is the torch that the test would run with, if that isn't the environment's. The project's own smoke test
    fails if it sees any sign of NVIDIA and no GPU, so a machine without a GPU needs a reason, too.
    """
    build, no_gpu = selection.build, _no_gpu(machine)
    if build.tag.is_cpu:
        return no_gpu or f"{lock_name} has the CPU build of torch"
    if found is not None and is_other_build(found, selection):
        return f"this interpreter has {found}, {lock_name} has torch {build.pin(build.torch)}"
    if no_gpu:
        return no_gpu
    misfit = fit(build, read_limits(machine, build.platform), matrix)
    if isinstance(misfit, Misfit):
        return f"this machine doesn't support the torch build of {lock_name}: {misfit.reason}"
    return ""


def _no_gpu(machine: Machine) -> str:
    if machine.visible_gpus:
        return ""
    if machine.gpus:
        return "CUDA_VISIBLE_DEVICES hides every NVIDIA GPU of this machine"
    return "envforge detects no NVIDIA GPU on this machine"


def can_skip_gpu(files: Iterable[PlannedFile], package: str) -> bool:
    """Return whether the project's smoke module has the option that skips the GPU part."""
    path = PurePosixPath(package, "smoke.py")
    return any(file.path == path and _SKIP.encode() in file.content for file in files)


def run_smoke(run: SmokeRun, output: IO[str] | None) -> None:
    """Stream the test to ``output`` (``None``: this process's own stdout); raise if it fails."""
    command = [run.python, "-m", f"{run.package}.smoke", *run.options]
    done = subprocess.run(command, cwd=run.folder, env=smoke_environment(), stdout=output, check=False)
    if done.returncode != 0:
        again = f"cd {shlex.quote(str(run.folder))} && {shlex.join(command)}"
        raise EnvforgeError(
            f"the smoke test of the project in `{run.folder}` failed with exit code {done.returncode}; the project is "
            "complete",
            hint="to run the smoke test again",
            command=again,
            code="smoke-failed",
        )


def smoke_environment() -> dict[str, str]:
    """Return the variables of a smoke test."""
    # PYTHONSAFEPATH would keep the project, which is the working directory, out of sys.path
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONSAFEPATH", "PYTHONPATH")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1"}  # the project must remain as it was written


_STDERR = 2


def shown_hook(command: tuple[str, ...]) -> str:
    """Return the command as it would be typed, with invisible characters escaped."""
    return printable(shlex.join(command))


def run_hook(command: tuple[str, ...], folder: Path) -> None:
    """Run one command in the project, without a shell; its output goes to stderr."""
    failed = f"the template's command `{shown_hook(command)}` failed in `{folder}`"
    try:
        done = subprocess.run(command, cwd=folder, stdout=_STDERR, check=False, stdin=subprocess.DEVNULL)
    except OSError as error:
        raise EnvforgeError(f"{failed}: {error}; the project is complete", code="hook-failed") from error
    if done.returncode != 0:
        raise EnvforgeError(
            f"{failed} with exit code {done.returncode}; the project is complete",
            hint="to repeat the command, run it in the project's directory",
            code="hook-failed",
        )
