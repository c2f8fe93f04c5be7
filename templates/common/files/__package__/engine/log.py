"""Record a run: ``metrics.jsonl``, ``run.json``, ``curves.png``, and reports to TensorBoard or Weights & Biases.

``metrics.jsonl`` has one line per event. A resumed run continues it without a gap and without repeated lines.
In ``run.json``, ``git`` and ``lock_sha256`` are null unless they describe this run.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import platform
import re
import subprocess
import sys
import uuid
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import torch
import torch.distributed as dist
from torch import Tensor

from . import distributed
from .checkpoint import write_aside, write_text
from .errors import ProjectError, library, naming

Report = Callable[[dict[str, float], int], Any]
PROJECT = Path(__file__).resolve().parents[2]


class Metrics:
    """Append one line per event; ``step`` is the step after which it was measured."""

    def __init__(self, run_dir: Path, *, resumed_at: int | None, report_to: list[str]) -> None:
        self._path = run_dir / "metrics.jsonl"
        kept = [line for line in read(self._path) if line["step"] <= resumed_at] if resumed_at is not None else []
        write_text(self._path, "".join(json.dumps(line) + "\n" for line in kept))
        reporters = {"tensorboard": tensorboard, "wandb": weights_and_biases}
        self._reports = [reporters[name](run_dir, resumed_at) for name in report_to]
        self._file = self._path.open("a", encoding="utf-8")

    def write(self, event: str, step: int, **values: Any) -> None:
        numbers = {name: value for name, value in values.items() if isinstance(value, (int, float))}
        with naming(self._path):
            self._file.write(to_json({"event": event, "step": step, **values}) + "\n")
            self._file.flush()
        for report, _ in self._reports:
            report({f"{event}/{name}": value for name, value in numbers.items()}, step)

    def close(self) -> None:
        self._file.close()
        for _, close in self._reports:
            close()


def to_json(value: Any, **settings: Any) -> str:
    """Return JSON, in which what is not finite is null: it has neither NaN nor infinity."""
    return json.dumps(json.loads(json.dumps(value), parse_constant=lambda name: None), **settings)


def tensorboard(run_dir: Path, resumed_at: int | None) -> tuple[Report, Callable[[], None]]:
    library("tensorboard", "`--report-to tensorboard`")
    from torch.utils.tensorboard import SummaryWriter

    board: Any = SummaryWriter(str(run_dir / "tensorboard"), purge_step=None if resumed_at is None else resumed_at + 1)
    return lambda numbers, step: [board.add_scalar(*number, step) for number in numbers.items()], board.close


def weights_and_biases(run_dir: Path, resumed_at: int | None) -> tuple[Report, Callable[[], None]]:
    """Report to a run of Weights & Biases, which a resumed run continues."""
    wandb = library("wandb", "`--report-to wandb`")
    name = run_dir / "wandb-id"
    if resumed_at is None or not name.is_file():
        name.write_text(uuid.uuid4().hex)
    try:
        run = wandb.init(project=PROJECT.name, dir=str(run_dir), id=name.read_text(), resume="allow")
    except wandb.errors.Error as error:
        hint = "log in to Weights & Biases, or set the variable WANDB_MODE to offline"
        raise ProjectError(f"cannot report to wandb: {error}", hint=hint) from error
    return run.log, run.finish


def mean_of(losses: list[Tensor]) -> float:
    """Return the mean of those that are finite, because others belong to skipped steps; NaN if there is none."""
    values = torch.stack(losses).cpu() if losses else torch.zeros(0)  # waits for the device
    return float(values[torch.isfinite(values)].mean())


def read(path: Path) -> list[dict[str, Any]]:
    """Return all lines, without a last line that a crash cut off."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(json.JSONDecodeError, FileNotFoundError):
        for text in path.read_text(encoding="utf-8").splitlines():
            lines.append(json.loads(text))
    return lines


def pyplot() -> Any:
    """Return matplotlib's pyplot with a backend that needs no screen; None if matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        return None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, picture: Path) -> None:
    """Write the figure as PNG, atomically, and close it."""
    picture.parent.mkdir(parents=True, exist_ok=True)
    write_aside(picture, lambda file: figure.savefig(file, format="png", dpi=120))
    pyplot().close(figure)


def draw_curves(run_dir: Path) -> str:
    """Draw every measurement over the steps as ``curves.png``; return a line to print."""
    plot = pyplot()
    if plot is None:
        return "no curves: matplotlib is missing"
    panels: dict[str, dict[str, list[tuple[int, float]]]] = {}  # the losses share one
    for line in read(run_dir / "metrics.jsonl"):
        measured = {name for name in line if name not in ("event", "step", "epoch") and line[name] is not None}
        names = {"train": measured & {"loss", "lr", "scale"}, "val": measured}
        for name in sorted(names.get(line["event"], ())):
            if (name, line[name]) != ("scale", 1.0):
                curves = panels.setdefault("learning rate" if name == "lr" else name.replace("_", " "), {})
                curves.setdefault(line["event"], []).append((line["step"], line[name]))
    rows, size = max(1, len(panels)), (8, 2.4 * len(panels) or 2.4)
    figure, axes = plot.subplots(rows, 1, figsize=size, sharex=True, layout="constrained", squeeze=False)
    for axis, (title, curves) in zip(axes[:, 0], panels.items()):
        for event, points in curves.items():
            steps, values = zip(*points)
            axis.plot(steps, values, marker=".", label=f"{event}, last {values[-1]:.4g}")
        axis.set(ylabel=title)
        axis.grid(alpha=0.3)
        axis.legend(loc="best")
    axes[0, 0].set_title(f"{PROJECT.name}: {run_dir.name}")
    axes[-1, 0].set_xlabel("step")
    save_figure(figure, run_dir / "curves.png")
    return f"curves: {run_dir / 'curves.png'}"


def environment(device: torch.device) -> dict[str, Any]:
    """Return what a run was made with as plain values, to compare it with another run and to reproduce it."""
    cuda, lockfile = device.type == "cuda", installed_lockfile(PROJECT, Path(sys.prefix))
    has_nccl = cuda and dist.is_available() and dist.is_nccl_available()
    return {
        "fp32_matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "processes": distributed.ranks(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if has_nccl else None,
        "device": torch.cuda.get_device_name(device) if cuda else platform.processor() or platform.machine(),
        "capability": torch.cuda.get_device_capability(device) if cuda else None,
        "lockfile": lockfile.relative_to(PROJECT).as_posix() if lockfile else None,
        "lock_sha256": hashlib.sha256(lockfile.read_bytes()).hexdigest() if lockfile else None,
        "git": git_revision(PROJECT),
        "command": sys.argv,
    }


def installed_lockfile(project: Path, prefix: Path) -> Path | None:
    """Return the lockfile of the project that the environment at ``prefix`` was made from, or None.

    The conda packages of ``prefix`` must be exactly those that are locked for a platform, and each wheel must be
    installed in its locked version. Other wheels are ignored. The environment needs no YAML library for this:
    conda-lock writes each field of a package on a line of its own.
    """
    installed = {path.stem for path in (prefix / "conda-meta").glob("*.json")}
    wheels = {_name(each.name, each.version) for each in metadata.distributions()} if installed else set()
    for lockfile in (project / "conda-lock.yml", *sorted(project.glob("lockfiles/*/conda-lock.yml"))):
        text = lockfile.read_text(encoding="utf-8") if lockfile.is_file() and installed else ""
        locked: dict[str, tuple[set[str], set[str]]] = {}
        for block in re.split(r"^- name:", text, flags=re.MULTILINE)[1:]:
            fields = dict(re.findall(r"^  (manager|platform|url): *['\"]?([^'\"\s]+)", block, flags=re.MULTILINE))
            file_name = unquote(fields.get("url", "").partition("#")[0].rpartition("/")[2])
            of_conda, of_pip = locked.setdefault(fields.get("platform", ""), (set(), set()))
            if fields.get("manager") == "conda":
                of_conda.add(re.sub(r"(\.conda|\.tar\.bz2)$", "", file_name))
            elif file_name.endswith(".whl"):
                of_pip.add(_name(*file_name.split("-")[:2]))
        if any(of_conda == installed and of_pip <= wheels for of_conda, of_pip in locked.values()):
            return lockfile
    return None


def _name(name: str, version: str) -> str:
    return f"{re.sub('[-_.]+', '-', name).lower()} {version}"


def git_revision(project: Path) -> str | None:
    """Return the commit, with ``+`` if files differ from it; None unless ``project`` is the root of its repository."""
    run = functools.partial(subprocess.run, capture_output=True, text=True, timeout=10, check=True)
    try:
        top = run(["git", "-C", str(project), "rev-parse", "--show-toplevel"]).stdout.strip()
        if not top or Path(top).resolve() != project.resolve():
            return None
        describe = ["git", "-C", top, "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"]
        return str(run(describe).stdout.strip())
    except (OSError, subprocess.SubprocessError):
        return None
