"""Train for seconds on real data, watch the training from outside, and check that a control doesn't learn.

Nothing that the project reports of itself is taken for granted if it can be seen in the calls of model and optimizer.
The exit code is 0 only if every check passes. A run on the CPU is never reported as a pass of the GPU.
"""

from __future__ import annotations

import math
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from .device import ability_of, choose_precision, nvidia_signs, prepare
from .errors import PACKAGE
from .log import PROJECT
from .options import Parser
from .run import Outcome, Say, Training

LOW_PRECISION = (torch.bfloat16, torch.float16)
LOW_SHARE = 0.98  # of the FLOPs of all matrix products and convolutions
EARLY = 10  # steps in which no output is so certain that its gradient is 0; later, not all of a sample are
MOST_STRIDE = 10.0  # AdamW changes a weight by about the rate


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The metric must reach ``reach`` on real data, and must not be better than ``control`` in the control.

    The loss must fall to ``1 / loss_ratio``, with at most ``skips`` skipped steps.
    """

    reach: float
    control: float
    loss_ratio: float = 5.0
    skips: int = 8
    shuffled: str = "labels"


@dataclass(frozen=True)
class Check:
    """One check with the expected and the found value."""

    name: str
    passed: bool
    wanted: str
    found: str


def main(project: Any, arguments: Sequence[str] | None = None) -> int:
    """Test a project by the functions of its module ``train``."""
    parser = Parser(
        program=f"python -m {PACKAGE}.smoke",
        description="Train for seconds on real data, and check that the model learns and that a control doesn't.",
    )
    gpu = parser.add_mutually_exclusive_group()
    gpu.add_argument("--require-gpu", action="store_true", help="Fail if torch can't use an NVIDIA GPU.")
    skip = "Train on the CPU only, and report the GPU part as not run, with a reason."
    gpu.add_argument("--skip-gpu", metavar="REASON", default="", help=skip)
    options = parser.parse_args(arguments)
    return 0 if run(project, print, require_gpu=options.require_gpu, skip_gpu=options.skip_gpu) else 1


def run(project: Any, say: Say, *, require_gpu: bool = False, skip_gpu: str = "") -> bool:
    """Run all checks, and return whether they passed."""
    works = torch.cuda.is_available() and torch.version.cuda is not None and not skip_gpu
    gpus = [torch.device("cuda", index) for index in range(torch.cuda.device_count())] if works else []
    if not gpus:
        torch.set_num_threads(1)  # threads that wait for each other on a busy machine cost minutes, and change the bits
    checks = [_gpu_check(gpus, require_gpu=require_gpu, skip_gpu=skip_gpu)]
    can_train = checks[0].passed
    for number, device in enumerate((gpus or [torch.device("cpu")]) if can_train else ()):
        checks += check_device(project, device, say, with_control=number == 0)
    for check in checks:
        say(f"{'ok  ' if check.passed else 'FAIL'} {check.name}: {check.found} (expected: {check.wanted})")
    passed = all(check.passed for check in checks)
    on_gpus = f" passed on {len(gpus)} {'GPU' if len(gpus) == 1 else 'GPUs'}"
    say(f"smoke test{' FAILED' if not passed else on_gpus if gpus else ': the CPU part passed'}")
    if not gpus and can_train:
        say_how_to_run_gpu_part(skip_gpu or "this machine has no NVIDIA device or driver", say)
    return passed


def _gpu_check(gpus: list[torch.device], *, require_gpu: bool, skip_gpu: str) -> Check:
    """Allow a run on the CPU only if the machine shows no sign of NVIDIA, or for a reason."""
    if gpus or skip_gpu:
        found = ", ".join(map(_device_name, gpus)) or "CPU"
        return Check("device", True, "the CPU" if skip_gpu else "an NVIDIA GPU", found)
    signs = "; ".join(nvidia_signs())
    if not signs and not require_gpu:
        return Check("device", True, "an NVIDIA GPU, if the machine has one", "CPU; no NVIDIA device or driver")
    built = torch.version.cuda or "none; this torch is a CPU build"
    seen = f"signs of NVIDIA: {signs}" if signs else "no NVIDIA device or driver"
    return Check("device", False, "training on the GPU", f"torch finds no GPU (CUDA of torch: {built}); {seen}")


def check_device(project: Any, device: torch.device, say: Say, *, with_control: bool) -> list[Check]:
    """Train on one device, and on the first one the control, too; return what was seen."""
    with tempfile.TemporaryDirectory(prefix="smoke-") as folder:
        real = observe(project, device, Path(folder) / "real", say, shuffled=False)
        checks = judge(real, project.SMOKE)
        if with_control:
            control = observe(project, device, Path(folder) / "control", say, shuffled=True)
            checks += judge_control(real, control, project.SMOKE)
    return [replace(each, name=f"{each.name} ({_device_name(device)})") for each in checks]


class Observer(TorchDispatchMode):
    """While entered, watch the calls of a training's model and optimizer, and the operations between them."""

    outcome: Outcome  # what the training reports
    evaluates_again: bool  # to the same result, and leaves the model unchanged

    def __init__(self, training: Training) -> None:
        cast(Any, super()).__init__()  # has no annotations
        self.training = training
        self.flops: Counter[torch.dtype] = Counter()  # by the dtype of the result, after all casts
        self.train_rows: Counter[int] = Counter()  # how often the model saw a sample, by its hash
        self.val_rows: Counter[int] = Counter()
        self.not_evaluating = 0  # calls without gradients of a model that is not completely in evaluation mode
        self.gradients = [0, 0]  # elements of the output with a gradient other than 0, and all
        self.rates: list[float] = []
        self.norms: list[float] = []  # of the gradients that the optimizer gets
        self.stale = 0  # micro-batches that start with gradients
        self.idle = 0  # steps that change no weight
        self.stride = 0.0  # the largest change of a weight in the last step, in multiples of the rate
        self.has_gradient: set[int] = set()  # parameters with a gradient other than 0 in any step
        self._start = self._last = [parameter.detach().clone() for parameter in training.model.parameters()]
        for model in {training.model, training.evaluated}:
            model.register_forward_pre_hook(self._before)
            model.register_forward_hook(self._after)
        training.optimizer.register_step_pre_hook(self._before_step)
        training.optimizer.register_step_post_hook(self._step)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        several = isinstance(result, (tuple, list))
        first = next((each for each in result if each is not None), None) if several else result
        if isinstance(first, Tensor):
            tensors = [each for each in args if isinstance(each, Tensor)]
            self.flops[first.dtype] += flops_of(str(function), tensors, first)
        return result

    def moved(self) -> list[float]:
        """Return how far each parameter is from its start."""
        parameters = self.training.model.parameters()
        return [float((now.detach() - then).double().norm()) for now, then in zip(parameters, self._start)]

    def _before(self, model: Any, inputs: tuple[Any, ...]) -> None:
        rows = self.train_rows if torch.is_grad_enabled() else self.val_rows
        if torch.is_grad_enabled():
            gradients = (each.grad for each in self.training.model.parameters())
            self.stale += any(gradient is not None and bool(gradient.any()) for gradient in gradients)
        else:
            self.not_evaluating += any(module.training for module in model.modules())
        tensors = [each.detach().cpu() for each in inputs if isinstance(each, Tensor)]
        for row in range(len(tensors[0])):
            content = b"".join(each[row].contiguous().view(-1).view(torch.uint8).numpy().tobytes() for each in tensors)
            rows[hash(content.rstrip(b"\0"))] += 1  # texts are filled up to different lengths

    def _after(self, model: Any, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._count)

    def _count(self, gradient: Tensor) -> None:
        found = gradient if len(self.rates) < EARLY else gradient.flatten(0, -2).any(dim=1)
        self.gradients[0] += int(found.count_nonzero())
        self.gradients[1] += found.numel()

    def _before_step(self, *_: Any) -> None:
        gradients = [each.grad for each in self.training.model.parameters()]
        norms = [0.0 if gradient is None else float(gradient.float().norm()) for gradient in gradients]
        self.has_gradient |= {place for place, norm in enumerate(norms) if norm}
        self.norms.append(math.hypot(*norms))

    def _step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self.rates.append(max(group["lr"] for group in optimizer.param_groups))
        before, self._last = self._last, [each.detach().clone() for each in self.training.model.parameters()]
        change = max(float((now - then).abs().max()) for now, then in zip(self._last, before))
        self.stride = change / (self.rates[-1] or 1.0)
        self.idle += change == 0


def flops_of(name: str, tensors: Sequence[Tensor], result: Tensor) -> int:
    """Return about how many operations a matrix product, convolution, or attention costs; 0 for all else."""
    name = name.split(".")[1] if "." in name else name
    if name in ("mm", "bmm", "addmm", "baddbmm"):
        return 2 * tensors[-2].numel() * tensors[-1].shape[-1]
    if "convolution" in name:
        backward = "backward" in name
        data, weight = tensors[1:3] if backward else tensors[:2]
        places = max(data.numel() // data.shape[1], result.numel() // result.shape[1])
        return (4 if backward else 2) * places * weight.numel()
    if "attention" in name:
        return 4 * tensors[0].numel() * tensors[1].shape[-2]
    return 0


def observe(project: Any, device: torch.device, folder: Path, say: Say, *, shuffled: bool) -> Observer:
    """Run the project's own training loop in low precision and watch it."""
    precision = choose_precision("auto", ability_of(device))
    name = "bf16" if device.type == "cpu" else "fp16" if precision.dtype is None else precision.name
    config = project.smoke_config(device=str(device), precision=name, run_dir=folder, shuffled=shuffled)
    say(f"training on {_device_name(device)} with {'shuffled' if shuffled else 'real'} {project.SMOKE.shuffled}")
    training = project.build(config, *prepare(config, say))
    seen = Observer(training)
    with seen:
        seen.outcome = project.fit(training, say=lambda line: None, draw=False)
    again = training.evaluate()
    same = all(math.isclose(again[name], value, rel_tol=1e-5) for name, value in seen.outcome.evaluation.items())
    seen.evaluates_again = same and training.state_hash() == seen.outcome.state_hash
    return seen


def judge(seen: Observer, limits: Limits) -> list[Check]:
    """Check a training on real data."""
    outcome, metric, moved = seen.outcome, seen.training.metric, seen.moved()
    bad = sum(not math.isfinite(loss) for loss in outcome.losses)
    first, last, score = outcome.losses[0], outcome.losses[-1], outcome.evaluation[metric.name]
    readings = f"{len(outcome.losses)} readings, {bad} not finite, {outcome.skipped} of {outcome.steps} steps skipped"
    falls, ratio = not bad and last * limits.loss_ratio <= first, f"at most 1/{limits.loss_ratio:g} of the first"
    reached, reach = metric.reaches(score, limits.reach), f"{metric.in_words(reach=True)} {limits.reach}"
    flops = sum(seen.flops.values())
    share = sum(seen.flops[dtype] for dtype in LOW_PRECISION) / max(flops, 1)
    low = f"{share:.1%} of {flops:.2g} FLOPs of matrix products and convolutions"
    movement = f"{sum(map(bool, moved))} of {len(moved)} moved, {len(seen.has_gradient)} had a gradient"
    return [
        Check("loss is finite", not bad and outcome.skipped <= limits.skips, "always", readings),
        Check("loss falls", falls, ratio, f"{first:.3f} to {last:.3f}"),
        Check(f"{metric.name} on unseen data", reached, reach, f"{score:.3f}"),
        Check("low precision is used", share >= LOW_SHARE, f"bf16 or fp16 in {LOW_SHARE:.0%}", low),
        *_steps(seen),
        *_samples(seen),
        Check("all weights are trained", all(moved) and len(seen.has_gradient) == len(moved), "every one", movement),
    ]


def _steps(seen: Observer) -> list[Check]:
    """Check that gradients start at zero in each step, are clipped, and change the weights, at the scheduled rate."""
    config, outcome, rates = seen.training.config, seen.outcome, seen.rates or [math.nan]
    bound = config.clip_grad or math.inf
    norms = sorted(filter(math.isfinite, seen.norms)) or [0.0]
    is_even = 1e-4 * norms[len(norms) // 2] < norms[0]
    is_fresh = is_even and seen.stale <= outcome.steps * (config.grad_accum_steps - 1)
    is_complete = is_fresh and seen.idle <= outcome.skipped and norms[-1] <= 1.01 * bound
    found = f"{seen.idle} change nothing, {seen.stale} keep old gradients, norms {norms[0]:.2g} to {norms[-1]:.2g}"
    top = rates.index(max(rates))
    is_curve = rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    is_high = math.isclose(rates[top], config.lr, rel_tol=1e-6) and max(rates[0], rates[-1]) < 0.5 * config.lr
    follows = is_curve and is_high and len(set(rates)) >= 0.8 * len(rates) and seen.stride <= MOST_STRIDE
    curve = (
        f"from {rates[0]:.2g} over {rates[top]:.2g} to {rates[-1]:.2g}, which moves a weight {seen.stride:.2g} times"
    )
    return [
        Check("learning rate follows its schedule", follows, f"a rise to {config.lr:g}, then a fall", curve),
        Check("every step is complete", is_complete, f"new gradients up to {bound:g} that change the weights", found),
    ]


def _samples(seen: Observer) -> list[Check]:
    """Check that training uses all samples and outputs, and evaluation all validation samples and no others."""
    training, config, size = seen.training, seen.training.config, len(seen.training.train_data)
    in_step = config.batch_size * config.grad_accum_steps
    epochs, rest = divmod(seen.outcome.steps, -(-size // in_step))
    expected = epochs * size + min(size, rest * in_step)
    rows, different = sum(seen.train_rows.values()), len(seen.train_rows)
    used = seen.gradients[0] / max(seen.gradients[1], 1)
    uses_all = rows == expected and different >= 0.9 * min(size, expected) and used >= 0.98
    of_val = len(cast(Any, training.data.validation))
    val_rows, val_different = seen.val_rows.total(), len(seen.val_rows)
    known = sum(count for row, count in seen.val_rows.items() if row in seen.train_rows)
    sees_all = val_rows % of_val == 0 and val_rows >= 2 * of_val and val_different >= 0.9 * of_val
    is_sound = sees_all and known <= 0.02 * val_rows and not seen.not_evaluating and seen.evaluates_again
    mode = "another mode in some calls" if seen.not_evaluating else "evaluation mode"
    result = "the same" if seen.evaluates_again else "another"
    return [
        Check(
            "batches are used completely",
            uses_all,
            f"{expected} samples, {min(size, expected)} different ones, and a gradient for each output",
            f"{rows} samples, {different} different ones, a gradient for {used:.1%}",
        ),
        Check(
            "evaluation is on unseen data only",
            is_sound,
            f"all {of_val} validation samples each time, evaluation mode, and the same result again",
            f"{val_rows} samples, {val_different} different ones, {known} trained on, {mode}, {result} result",
        ),
    ]


def judge_control(real: Observer, control: Observer, limits: Limits) -> list[Check]:
    """Check that the control was trained as long and on the same data, and that it learned nothing."""
    metric, score = real.training.metric, control.outcome.evaluation[real.training.metric.name]
    ceiling = f"{metric.name} {metric.in_words(reach=False)} {limits.control}"
    is_ignorant = metric.stays_short(score, limits.control)
    ratio = math.hypot(*control.moved()) / max(math.hypot(*real.moved()), 1e-12)
    same_data = control.train_rows == real.train_rows and control.val_rows == real.val_rows
    same_rates = control.rates == real.rates
    samples, rates = ("the same" if same else "other" for same in (same_data, same_rates))
    wanted = "the same samples and learning rates, and weights that move"
    found = f"{samples} samples, {rates} learning rates, weights move {ratio:.2f} times as far"
    return [
        Check(f"control with shuffled {limits.shuffled} doesn't learn", is_ignorant, ceiling, f"{score:.3f}"),
        Check("control trains like the run", same_data and same_rates and ratio > 0.3, wanted, found),
    ]


def _device_name(device: torch.device) -> str:
    return f"{device} {torch.cuda.get_device_name(device)}" if device.type == "cuda" else "CPU"


def say_how_to_run_gpu_part(reason: str, say: Say, project: Path = PROJECT) -> None:
    """Print why the GPU part did not run, and the commands that run it, from any directory."""
    lockfile = project / "conda-lock.yml"
    locked = lockfile.read_text(encoding="utf-8") if lockfile.is_file() else ""
    say(f"GPU: not run, because {reason}")
    if re.search(r"/torch-[^/\s]*(\+|%2[Bb])cpu-", locked) and not any(project.glob("lockfiles/cu*/conda-lock.yml")):
        say("The lockfile has only the CPU build of torch. To find the CUDA build for a machine, run there:")
        say("    envforge explain")
        say("To add it to the project, pass its tag to `envforge lock --variant`. Then install it and test again.")
        return
    say("To run the GPU part on a machine with an NVIDIA GPU:")
    python = r".conda\python.exe" if sys.platform == "win32" else ".conda/bin/python"
    lock = [] if lockfile.is_file() else ["envforge lock"]
    for command in (*lock, "envforge install", f"{python} -m {PACKAGE}.smoke --require-gpu"):
        say(f"    cd {shlex.quote(str(project))} && {command}")
