"""Train for seconds on real data, check that the model learns, and check that a control doesn't.

The exit code is 0 only if every check passes. A run on the CPU is never reported as a pass of the GPU.
"""

from __future__ import annotations

import json
import math
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from . import train
from .device import ability_of, choose_precision
from .errors import exit_code
from .loop import fit
from .nvidia import nvidia_signs
from .observe import Observer
from .options import Parser
from .start import prepare
from .task import Metric, Outcome

SCHEMA = 1
NO_GPU = "this machine has no NVIDIA device or driver"


@dataclass(frozen=True)
class Check:
    """One check with the expected and the found value."""

    name: str
    passed: bool
    wanted: str
    found: str


def main(arguments: Sequence[str] | None = None) -> int:
    parser = Parser(
        program=f"python -m {__package__}.smoke",
        description="Train for seconds on real data, and check that the model learns and that a control doesn't.",
    )
    gpu = parser.add_mutually_exclusive_group()
    gpu.add_argument("--require-gpu", action="store_true", help="Fail if torch can't use an NVIDIA GPU.")
    gpu.add_argument(
        "--skip-gpu", metavar="REASON", help="Train on the CPU only, and report the GPU part as not run, with a reason."
    )
    parser.add_argument("--json", action="store_true", help="Print the result as JSON.")
    options = parser.parse_args(arguments)
    talk = sys.stderr if options.json else sys.stdout
    report = run(
        require_gpu=options.require_gpu,
        skip_gpu=options.skip_gpu or "",
        say=lambda line: print(line, file=talk, flush=True),
    )
    if options.json:
        print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1


def run(*, require_gpu: bool, say: Callable[[str], None], skip_gpu: str = "") -> dict[str, Any]:
    """Run all checks and return the report. ``skip_gpu``: the reason why the GPU part must not run here."""
    started = time.perf_counter()
    signs = nvidia_signs()
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    if skip_gpu or not _cuda_works():
        gpus = []
    if not gpus:
        torch.set_num_threads(1)  # threads that wait for each other on a busy machine cost minutes, and change the bits
    checks = [
        Check("device", True, "the CPU", "CPU") if skip_gpu else _gpu_check(gpus, signs, require_gpu=require_gpu),
    ]
    if checks[0].passed:
        for number, device in enumerate(gpus or [torch.device("cpu")]):
            checks += _train_and_judge(device, say, with_control=number == 0)
    passed = all(check.passed for check in checks)
    gpu = ("passed" if passed else "failed") if gpus else ("not-run" if checks[0].passed else "failed")
    seconds = round(time.perf_counter() - started, 1)
    for check in checks:
        say(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.found} (expected: {check.wanted})")
    say(_verdict(passed, gpus))
    if gpu == "not-run":
        _say_how_to_run_gpu_part(skip_gpu, say)
    return {
        "schema": SCHEMA,
        "passed": passed,
        "gpu": gpu,
        "gpu_reason": (skip_gpu or NO_GPU) if gpu == "not-run" else "",
        "devices": [_device_name(device) for device in gpus] or ["cpu"],
        "nvidia_signs": list(signs),
        "torch": torch.__version__,
        "seconds": seconds,
        "checks": [asdict(check) for check in checks],
    }


def _cuda_works() -> bool:
    return torch.cuda.is_available() and torch.version.cuda is not None


def _gpu_check(gpus: list[torch.device], signs: tuple[str, ...], *, require_gpu: bool) -> Check:
    """Allow a run on the CPU only if the machine shows no sign of NVIDIA."""
    if gpus:
        return Check("device", True, "an NVIDIA GPU", ", ".join(_device_name(device) for device in gpus))
    if not signs and not require_gpu:
        return Check("device", True, "an NVIDIA GPU, if the machine has one", "CPU; no NVIDIA device or driver")
    built = torch.version.cuda or "none; this torch is a CPU build"
    seen = f"signs of NVIDIA: {'; '.join(signs)}" if signs else "no NVIDIA device or driver"
    return Check("device", False, "training on the GPU", f"torch finds no GPU (CUDA of torch: {built}); {seen}")


def _train_and_judge(device: torch.device, say: Callable[[str], None], *, with_control: bool) -> list[Check]:
    where = _device_name(device)
    precision = _precision(device)
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        learnt, observer, metric = _train(device, precision, Path(folder) / "real", say, control=False)
        checks = _judge(learnt, observer, metric, where)
        if with_control:
            control, _, _ = _train(device, precision, Path(folder) / "control", say, control=True)
            bound = train.SMOKE.control
            score = control.evaluation[metric.name]
            checks.append(
                Check(
                    f"control with shuffled {train.SMOKE.shuffled} doesn't learn ({where})",
                    metric.stays_short(score, bound),
                    f"{metric.name} {metric.in_words(reach=False)} {bound}",
                    f"{score:.3f}",
                )
            )
    return checks


def _train(
    device: torch.device, precision: str, folder: Path, say: Callable[[str], None], *, control: bool
) -> tuple[Outcome, Observer, Metric]:
    """Run the project's own training; its first update runs in an ``Observer``."""
    config = train.smoke_config(device=str(device), precision=precision, run_dir=folder, shuffled=control)
    say(f"training on {_device_name(device)} with {'shuffled' if control else 'real'} {train.SMOKE.shuffled}")
    training = train.build(config, *prepare(config, say))
    observer = Observer()
    with observer:
        training.train_step(next(training.groups()))
    return fit(training, say=lambda line: None, draw=False), observer, training.task.metric


def _judge(outcome: Outcome, observer: Observer, metric: Metric, where: str) -> list[Check]:
    limits = train.SMOKE
    first, last = outcome.losses[0], outcome.losses[-1]
    finite = all(math.isfinite(loss) for loss in outcome.losses)
    score = outcome.evaluation[metric.name]
    low = f"{observer.low} of {observer.all} matrix products and convolutions"
    return [
        Check(f"loss is finite ({where})", finite and outcome.skipped <= limits.skips, "always", _losses(outcome)),
        Check(
            f"loss falls ({where})",
            finite and last * limits.loss_ratio <= first,
            f"at most 1/{limits.loss_ratio:g} of the first",
            f"{first:.3f} to {last:.3f}",
        ),
        Check(
            f"{metric.name} on unseen data ({where})",
            metric.reaches(score, limits.reach),
            f"{metric.in_words(reach=True)} {limits.reach}",
            f"{score:.3f}",
        ),
        Check(f"low precision is used ({where})", observer.low > 0, "operations in bf16 or fp16", low),
    ]


def _losses(outcome: Outcome) -> str:
    bad = sum(not math.isfinite(loss) for loss in outcome.losses)
    return f"{len(outcome.losses)} readings, {bad} not finite, {outcome.skipped} of {outcome.updates} updates skipped"


def _precision(device: torch.device) -> str:
    """Return a low precision in any case, because the test is about it."""
    if device.type == "cpu":
        return "bf16"
    chosen = choose_precision("auto", ability_of(device))
    return chosen.name if chosen.dtype is not None else "fp16"


def _device_name(device: torch.device) -> str:
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "CPU"


def _verdict(passed: bool, gpus: list[torch.device]) -> str:
    if not passed:
        return "smoke test FAILED"
    if gpus:
        return f"smoke test passed on {len(gpus)} {'GPU' if len(gpus) == 1 else 'GPUs'}"
    return "smoke test: the CPU part passed"


def _say_how_to_run_gpu_part(reason: str, say: Callable[[str], None]) -> None:
    """Print why the GPU part did not run, and the commands that run it, from any directory."""
    project = Path(__file__).resolve().parent.parent
    python = r".conda\python.exe" if sys.platform == "win32" else ".conda/bin/python"
    say(f"GPU: not run, because {reason or NO_GPU}")
    if only_cpu_is_locked(project):
        say("The lockfile has only the CPU build of torch. To find the CUDA build for a machine, run there:")
        say("    envforge explain")
        say("To add it to the project, pass its tag to `envforge lock --variant`. Then install it and test again.")
        return
    say("To run the GPU part on a machine with an NVIDIA GPU:")
    lock = [] if (project / "conda-lock.yml").is_file() else ["envforge lock"]
    for command in (*lock, "envforge install", f"{python} -m {__package__}.smoke --require-gpu"):
        say(f"    cd {shlex.quote(str(project))} && {command}")


def only_cpu_is_locked(project: Path) -> bool:
    """Return whether the project has a lockfile with the CPU build of torch, and none with a CUDA build."""
    lockfile = project / "conda-lock.yml"
    text = lockfile.read_text(encoding="utf-8") if lockfile.is_file() else ""
    is_cpu = re.search(r"/torch-[^/\s]*(\+|%2[Bb])cpu-", text) is not None
    return is_cpu and not any(project.glob("lockfiles/cu*/conda-lock.yml"))


if __name__ == "__main__":
    sys.exit(exit_code(main))
