"""Train for seconds on real data, watch the training from outside, and check that a control doesn't learn.

Nothing that the project reports of itself is taken for granted: gradients are compared with numerical derivatives of
the loss, steps with AdamW as it was published, and evaluations with ones of other batches.
The exit code is 0 only if every check passes. A run on the CPU is never reported as a pass of the GPU.
"""

from __future__ import annotations

import math
import random
import re
import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from .checkpoint import random_state, set_random_state
from .device import ability_of, choose_precision, nvidia_signs, prepare
from .errors import PACKAGE
from .loader import Draw, MicroBatches, by_chance
from .log import PROJECT
from .optim import train_mode
from .options import Parser
from .run import Outcome, Say, Training

LOW_PRECISION = (torch.bfloat16, torch.float16)
LOW_SHARE = 0.98  # of the FLOPs of all matrix products and convolutions
ELEMENTS = 4096  # of each weight that are compared with AdamW
MOMENTS = 5  # steps that are compared with numerical derivatives, one in each part of a run
SINGLES = 30  # validation samples that are evaluated one at a time
WINDOW = 16  # tokens in a row that are text of the training data, not a phrase


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


@dataclass
class Moment:
    """A step: the state before it, its micro-batches with outputs, losses, and random numbers, and its gradients."""

    state: dict[str, Tensor] = field(default_factory=dict)
    batches: list[tuple[Any, list[Any], float, dict[str, Any]]] = field(default_factory=list)
    gradients: list[Tensor] = field(default_factory=list)


class Observer(TorchDispatchMode):
    """While entered, watch the calls of a training's loss, model, and optimizer, and the operations between them."""

    outcome: Outcome  # what the training reports
    repeated: dict[str, float]  # the last evaluation, again
    regrouped: dict[str, float]  # the last evaluation, again, with other batches
    missing: int  # samples, of ``SINGLES``, of which an evaluation finds nothing
    alike = 0  # pairs of samples, of as many, that are evaluated as one of them
    is_unchanged: bool  # by evaluations

    def __init__(self, training: Training) -> None:
        cast(Any, super()).__init__()  # has no annotations
        self.training, self.loss = training, training.task.loss
        named = [(name, each) for name, each in training.model.named_parameters() if each.requires_grad]
        self.names, self.weights = [name for name, _ in named], [each for _, each in named]
        self.flops: dict[int, Counter[torch.dtype]] = {}  # of each step, by the dtype of the result, after all casts
        self.val_flops: Counter[torch.dtype] = Counter()
        self.inputs: dict[bool, list[list[Tensor]]] = {True: [], False: []}  # of the model, in training or not
        self.pairs: Counter[tuple[int, int]] = Counter()  # of hashed inputs and answers in training
        self.wrong_mode = {
            True: 0,
            False: 0,
        }  # calls, in training or not, of a model that is not completely in this mode
        self.used: list[float] = []  # the part of each output in training that has a gradient
        self.rates: dict[int, float] = {}  # of each step
        self.norms: dict[int, Tensor] = {}  # of the gradients of each weight that the optimizer gets
        self.errors: dict[int, Tensor] = {}  # distance of each weight from where AdamW moves it, by the movement
        total, part = training.total_steps, max(1, training.total_steps // MOMENTS)
        draw = random.Random(training.config.seed)
        self.moments = {start + draw.randrange(part): Moment() for start in range(0, total, part)}
        numbers = [torch.full_like(each, number) for number, each in enumerate(self.weights)]
        self._part = self._sample(numbers).long()
        self._mean = self._square = torch.zeros(len(self._part), device=training.device)
        self._start = self._now = self._sample(self.weights)
        self._steps = 0  # that AdamW makes, without skipped ones
        self._outputs: list[Any] = []
        self._counted = self.val_flops
        self.hooks = [training.optimizer.register_step_pre_hook(self._before_step)]
        self.hooks += [training.optimizer.register_step_post_hook(self._after_step)]
        for model in {training.model, training.evaluated}:
            self.hooks += [model.register_forward_pre_hook(self._before_call)]
            self.hooks += [model.register_forward_hook(self._after_call)]
        cast(Any, training.task).loss = self._loss

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        several = isinstance(result, (tuple, list))
        first = next((each for each in result if each is not None), None) if several else result
        if isinstance(first, Tensor):
            tensors = [each for each in args if isinstance(each, Tensor)]
            self._counted[first.dtype] += flops_of(str(function), tensors, first)
        return result

    def rows(self, *, is_training: bool) -> Counter[int]:
        """Return how often the model saw each sample, by its hash."""
        return Counter(row for inputs in self.inputs[is_training] for row in hashes(inputs))

    def moved(self) -> float:
        return float((self._now - self._start).norm())

    def _norms(self, values: Tensor) -> Tensor:
        return values.new_zeros(len(self.weights)).index_add_(0, self._part, values.square()).sqrt().cpu()

    def _sample(self, tensors: Sequence[Tensor]) -> Tensor:
        """Return up to ``ELEMENTS`` elements of each tensor as one."""
        flat = (each.detach().flatten() for each in tensors)
        return torch.cat([each[:: -(-len(each) // ELEMENTS)] for each in flat]).float()

    def _loss(self, model: Any, batch: Any) -> Tensor:
        moment = self.moments.get(self.training.step)
        numbers = random_state() if moment else {}
        if moment and not moment.batches:
            moment.state = {name: each.detach().clone() for name, each in self.training.model.state_dict().items()}
        self._outputs = []
        loss = self.loss(model, batch)
        if moment:
            moment.batches.append((batch, self._outputs, float(loss.detach()), numbers))
            self._outputs = []  # not those of evaluations
        self.pairs.update(pairs_of(batch))
        return loss

    def _before_call(self, model: Any, inputs: tuple[Any, ...]) -> None:
        is_training = torch.is_grad_enabled()
        step = self.training.step
        self._counted = self.flops.setdefault(step, Counter()) if is_training else self.val_flops
        self.inputs[is_training].append([each.detach().cpu().clone() for each in inputs if isinstance(each, Tensor)])
        for module in model.modules():
            own = list(module.parameters(recurse=False))
            if module.training != is_training and (not own or own[0].requires_grad or not is_training):
                self.wrong_mode[is_training] += 1
                break

    def _after_call(self, model: Any, inputs: Any, output: Any) -> None:
        self._outputs.append(output.detach().clone() if isinstance(output, Tensor) else None)
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(self._count)

    def _count(self, gradient: Tensor) -> None:
        is_used = gradient.flatten(1).any(1) if gradient.dtype == torch.float16 else gradient != 0  # small ones are 0
        self.used.append(float(is_used.float().mean()))

    def _before_step(self, *_: Any) -> None:
        if (step := self.training.step) in self.rates:  # a patched step that calls the original one
            return
        gradients = [torch.zeros_like(each) if each.grad is None else each.grad.detach() for each in self.weights]
        if step in self.moments:
            self.moments[step].gradients = [each.float().clone() for each in gradients]
        self.norms[step] = torch.stack([each.float().norm() for each in gradients]).cpu()
        self.rates[step] = max(group["lr"] for group in self.training.optimizer.param_groups)
        self._before, self._expected = self._sample(self.weights), self._moved_by_adam(self._sample(gradients))

    def _moved_by_adam(self, gradient: Tensor) -> Tensor:
        """Return where AdamW moves the weights, by algorithm 2 of Loshchilov and Hutter (2019)."""
        before, all_groups = self._sample(self.weights), self.training.optimizer.param_groups
        if not bool(gradient.isfinite().all()):
            return before
        group_of = {id(weight): group for group in all_groups for weight in group["params"]}
        groups = [group_of.get(id(weight), all_groups[0]) for weight in self.weights]
        rows = [[group["lr"], group["weight_decay"], group.get("eps", 0.0)] for group in groups]
        rate, decay, epsilon = torch.tensor(rows, device=gradient.device)[self._part].unbind(1)
        (first, second), self._steps = all_groups[0].get("betas", (0.9, 0.999)), self._steps + 1
        self._mean = first * self._mean + (1 - first) * gradient
        self._square = second * self._square + (1 - second) * gradient.square()
        divisor = (self._square / (1 - second**self._steps)).sqrt() + epsilon
        moved: Tensor = before * (1 - rate * decay) - rate * self._mean / (1 - first**self._steps) / divisor
        return moved

    def _after_step(self, *_: Any) -> None:
        self._now = self._sample(self.weights)
        error = self._norms(self._now - self._expected) / self._norms(self._expected - self._before).clamp(min=1e-12)
        is_adam = isinstance(self.training.optimizer, torch.optim.AdamW)
        self.errors[self.training.step] = error if is_adam else 1.0 * (self._norms(self._now - self._before) == 0)


def hashes(tensors: Sequence[Tensor]) -> list[int]:
    """Return a hash of each sample of one or more tensors with its number, without zeros at the end."""
    rows = [each.detach().cpu().reshape(len(each), -1).contiguous().view(torch.uint8).numpy() for each in tensors]
    return [hash(b"".join(each.tobytes() for each in row).rstrip(b"\0")) for row in zip(*rows)]


def pairs_of(batch: Any) -> list[tuple[int, int]]:
    """Return the hashes of the input and the answer of each sample."""
    *inputs, answers = batch.values() if isinstance(batch, dict) else batch
    return list(zip(hashes(inputs), hashes([answers])))


def part_copied(old: Sequence[Sequence[Tensor]], new: Sequence[Sequence[Tensor]]) -> float:
    """Return the part of the new samples that are (nearly) old ones.

    These are numbers a tenth as far away as most, or texts of which half is in windows of old ones.
    """
    if not any(each.is_floating_point() for each in new[0]):
        known = torch.cat([windows(tokens[0])[0].flatten() for tokens in old]).unique()
        shares = []
        for tokens in new:
            found, is_text = windows(tokens[0])
            both = (torch.isin(found, known) & is_text, is_text)
            kept = [functional.pad(each, (WINDOW - 1, WINDOW - 1)).unfold(1, WINDOW, 1).any(2).sum(1) for each in both]
            shares.append(kept[0] / kept[1].clamp(min=1) >= 0.5)
        return float(torch.cat(shares).float().mean())
    rows = [[torch.cat([each.flatten(1).float() for each in call], 1) for call in calls] for calls in (old, new)]
    first, second = (torch.cat([each for each in part if each.shape[1] == rows[0][0].shape[1]]) for part in rows)
    distances = torch.cdist(second, first)
    return float((distances.amin(1) < 0.1 * distances.median()).float().mean())


def windows(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return a hash of each window of tokens in a row, and whether it has different tokens, so isn't padding."""
    cut = functional.pad(tokens.flatten(1).long(), (0, max(0, WINDOW - tokens[0].numel()))).unfold(1, WINDOW, 1)
    factors = torch.tensor([pow(31, power, 2**31) for power in range(WINDOW)])
    return (cut * factors).sum(2), (cut != cut[:, :, :1]).any(2)


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
    with nullcontext() if shuffled else seen:  # operations of the control are not counted
        seen.outcome = project.fit(training, say=lambda line: None, draw=False)
    for hook in seen.hooks:
        hook.remove()
    cast(Any, training.task).loss = seen.loss
    if not shuffled:
        evaluate_again(seen)
    return seen


def evaluate_again(seen: Observer) -> None:
    """Repeat the last evaluation as it was, in another order with larger batches, and with single samples."""
    training, data = seen.training, seen.training.data
    seen.repeated = training.evaluate()
    samples, count = MicroBatches(data.validation, data.collate), len(cast(Any, data.validation))

    def evaluate(parts: Sequence[Sequence[int]]) -> dict[str, float]:
        training.evaluated.eval()
        with torch.no_grad(), training.amp.autocast():
            try:
                batches = (training.on_device(samples[Draw(list(part), 0)]) for part in parts)
                return training.task.evaluate(training.evaluated, batches)
            except (ArithmeticError, IndexError, RuntimeError, ValueError):  # nothing is counted
                return {}

    order = by_chance(count, seed=1).tolist()
    size = 2 * training.config.batch_size + 1
    seen.regrouped = evaluate([order[start : start + size] for start in range(0, count, size)])
    singles = [evaluate([[index]]) for index in order[: SINGLES + 1]]
    missing = sum(not math.isfinite(each.get(training.metric.name, math.nan)) for each in singles)
    seen.missing = missing if missing < len(singles) else 0  # some metrics need more samples
    for number, both in enumerate(evaluate([[*pair]]) for pair in pairwise(order[: len(singles)])):
        seen.alike += any(same_values(both, each, 1e-3, 0.0) for each in singles[number : number + 2])
    seen.is_unchanged = training.state_hash() == seen.outcome.state_hash


@torch.no_grad()
def derivatives(seen: Observer) -> tuple[Tensor, list[float]]:
    """Return the relative error of each weight's gradients, and the norm of each moment's by the expected one.

    The loss is computed in fp32, with all signs of a weight changed by chance, and a step along the gradient.
    """
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    model, signs = seen.training.model, torch.Generator().manual_seed(1)
    errors, sizes, norms = torch.zeros(len(seen.names)), torch.zeros(len(seen.names)), []
    for moment in seen.moments.values():
        if not moment.gradients:
            continue
        model.load_state_dict(moment.state)
        train_mode(model)
        weights_norm, got = (
            float(torch.stack([tensor.norm() for tensor in each]).norm()) for each in (seen.weights, moment.gradients)
        )
        length = 1e-3 * weights_norm / max(got, 1e-30)
        steps = {number: length * gradient for number, gradient in enumerate(moment.gradients)}
        slope = change(seen, moment, steps) / (1e-3 * weights_norm)
        bound = min(slope, seen.training.config.clip_grad or math.inf)
        norms.append(got / bound if bound > 0 else math.inf)
        for number, (weight, gradient) in enumerate(zip(seen.weights, moment.gradients)):
            size = max(0.02 * float(weight.square().mean().sqrt()), 1e-3)
            step = size * (2.0 * torch.randint(2, weight.shape, generator=signs) - 1).to(weight)
            found, factor = change(seen, moment, {number: step}), max(slope, 1e-30) / max(got, 1e-30)
            errors[number] += (found - factor * float((gradient * step).sum())) ** 2
            rounding = 3e-6 * abs(moment.batches[0][2])
            sizes[number] += max(found**2, (factor * size * float(gradient.norm())) ** 2, rounding**2)
    return (errors / sizes).sqrt(), norms


def change(seen: Observer, moment: Moment, steps: dict[int, Tensor]) -> float:
    """Return half the difference of a moment's loss between weights plus and minus ``steps``."""
    task, half, total = seen.training.task, 0.0, 0.0
    before = {number: seen.weights[number].clone() for number in steps}
    for sign in (0.5, -0.5):
        for number, step in steps.items():
            seen.weights[number].copy_(before[number] + 2 * sign * step)
        for batch, _, _, numbers in moment.batches:
            set_random_state(numbers)
            weight = float(task.weight(batch))
            half, total = half + sign * weight * float(seen.loss(seen.training.model, batch)), total + weight / 2
    for number, each in before.items():
        seen.weights[number].copy_(each)
    return half / max(total, 1e-8)


@torch.no_grad()
def replay(seen: Observer) -> list[float]:
    """Return by how much each loss differs if computed again from the same outputs and answers, in another order."""
    found, model = [], seen.training.model
    for moment in seen.moments.values():
        for batch, outputs, loss, _ in moment.batches if moment.gradients else ():
            if len(outputs) != 1 or not isinstance(outputs[0], Tensor):
                continue
            order = by_chance(len(outputs[0]), seed=1).to(outputs[0].device)
            hook = model.register_forward_hook(lambda *_, output=outputs[0][order]: output)
            is_dict = isinstance(batch, dict)
            mixed: Any = {n: x[order] for n, x in batch.items()} if is_dict else tuple(x[order] for x in batch)
            with seen.training.amp.autocast():
                found.append(abs(float(seen.loss(model, mixed)) - loss) / max(abs(loss), 1e-3))
            hook.remove()
    return found


def judge(seen: Observer, limits: Limits) -> list[Check]:
    """Check a training on real data."""
    outcome, metric = seen.outcome, seen.training.metric
    bad = sum(not math.isfinite(loss) for loss in outcome.losses)
    first, last, score = outcome.losses[0], outcome.losses[-1], outcome.evaluation[metric.name]
    readings = f"{len(outcome.losses)} readings, {bad} not finite, {outcome.skipped} of {outcome.steps} steps skipped"
    falls, ratio = not bad and last * limits.loss_ratio <= first, f"at most 1/{limits.loss_ratio:g} of the first"
    reached, reach = metric.reaches(score, limits.reach), f"{metric.in_words(reach=True)} {limits.reach}"
    low_share, of_val = min(map(share_of_low, seen.flops.values()), default=0.0), share_of_low(seen.val_flops)
    low = f"{low_share:.1%} in the step with the least, {of_val:.1%} in evaluations"
    is_low = min(low_share, of_val) >= LOW_SHARE
    wanted = f"bf16 or fp16 in {LOW_SHARE:.0%} of the FLOPs of matrix products and convolutions"
    return [
        Check("loss is finite", not bad and outcome.skipped <= limits.skips, "always", readings),
        Check("loss falls", falls, ratio, f"{first:.3f} to {last:.3f}"),
        Check(f"{metric.name} on unseen data", reached, reach, f"{score:.3f}"),
        Check("low precision is used", is_low, wanted, low),
        *_steps(seen),
        *_gradients(seen),
        _batches(seen),
        *_evaluations(seen),
    ]


def share_of_low(flops: Counter[torch.dtype]) -> float:
    return sum(flops[dtype] for dtype in LOW_PRECISION) / max(sum(flops.values()), 1)


def _steps(seen: Observer) -> list[Check]:
    """Check that the learning rate follows its schedule, and that each step moves the weights by it."""
    config, rates = seen.training.config, list(seen.rates.values()) or [math.nan]
    top = rates.index(max(rates))
    is_curve = rates[: top + 1] == sorted(rates[: top + 1]) and rates[top:] == sorted(rates[top:], reverse=True)
    is_high = math.isclose(rates[top], config.lr, rel_tol=1e-6) and max(rates[0], rates[-1]) < 0.5 * config.lr
    follows = is_curve and is_high and len(set(rates)) >= 0.8 * len(rates)
    curve = f"from {rates[0]:.2g} over {rates[top]:.2g} to {rates[-1]:.2g}"
    errors = torch.stack(list(seen.errors.values()) or [torch.ones(len(seen.names))])
    step, number = divmod(int(errors.argmax()), len(seen.names))
    moves = f"{float(errors.max()):.1%} off at most, `{seen.names[number]}` in step {step + 1}"
    wanted = "as AdamW moves them at the learning rate, within 5%"
    return [
        Check("learning rate follows its schedule", follows, f"a rise to {config.lr:g}, then a fall", curve),
        Check("every step moves the weights", float(errors.max()) < 0.05, wanted, moves),
    ]


def _gradients(seen: Observer) -> list[Check]:
    """Check that each step has the gradients of the complete loss for all weights, clipped, in training mode."""
    bound = seen.training.config.clip_grad or math.inf
    norms = torch.stack(list(seen.norms.values()) or [torch.zeros(len(seen.names))])
    totals = norms.square().sum(1).sqrt()
    least, largest = float(totals.min() / totals.median().clamp(min=1e-30)), float(totals.max())
    missing = (norms == 0).float().mean(0)
    without = f", none for `{seen.names[int(missing.argmax())]}`" if float(missing.max()) > 0.2 else ""
    mode = f", {seen.wrong_mode[True]} calls in evaluation mode" if seen.wrong_mode[True] else ""
    is_complete = least > 0.01 and largest <= 1.01 * bound and not without + mode
    found = f"norms from {least:.2g} of the median to {largest:.3g}{without}{mode}"
    differing = max(replay(seen), default=0.0)
    errors, ratios = derivatives(seen)
    worst, ratio = int(errors.argmax()), max(ratios, key=lambda each: abs(math.log(max(each, 1e-30))), default=0.0)
    are_right = float(errors.max()) < 0.5 and 0.8 < ratio < 1.25
    right = f"{ratio:.2g} times as large, {float(errors.max()):.0%} off for `{seen.names[worst]}`"
    same = "the same from the same outputs and answers, in any order, within 1%"
    return [
        Check("every step is complete", is_complete, f"norms up to {bound:g}, all weights, training mode", found),
        Check("gradients are those of the loss", are_right, "numerical derivatives, within 50% for each weight", right),
        Check("loss counts all samples alike", differing < 0.01, same, f"{differing:.1%} off"),
    ]


def _batches(seen: Observer) -> Check:
    """Check that training uses all samples, and all outputs in the loss."""
    config, size = seen.training.config, len(seen.training.train_data)
    in_step = config.batch_size * config.grad_accum_steps
    epochs, rest = divmod(seen.outcome.steps, -(-size // in_step))
    expected = epochs * size + min(size, rest * in_step)
    counts, used = seen.rows(is_training=True), min(seen.used, default=0.0)
    rows, fresh = counts.total(), sum(min(count, -(-expected // size)) for count in counts.values())
    return Check(
        "batches are used completely",
        rows == expected and fresh >= 0.9 * expected and used >= 0.98,
        f"{expected} samples, each once in an epoch, and a gradient for each output in each step",
        f"{rows} samples, {rows - fresh} too often, a gradient for {used:.1%} in the step with the least",
    )


def _evaluations(seen: Observer) -> list[Check]:
    """Check that evaluation is on all validation samples, on no others, and independent of their batches."""
    training, counts = seen.training, seen.rows(is_training=False)
    size, rows, first = len(cast(Any, training.data.validation)), counts.total(), seen.inputs[True]
    first_epoch = first[: training.order.batches(training.order.size)]
    usual = part_copied(first_epoch[::2], first_epoch[1::2]) if len(first_epoch) > 1 else 0.0
    known = part_copied(first, seen.inputs[False])
    repeats = same_values(seen.repeated, seen.outcome.evaluation, 1e-5, 0.0) and seen.is_unchanged
    sees_all = rows > 0 and rows % size == 0 and len(counts) >= 0.9 * size
    is_sound = sees_all and known <= 0.05 + 1.5 * usual and not seen.wrong_mode[False] and repeats
    mode = f"training mode in {seen.wrong_mode[False]} calls" if seen.wrong_mode[False] else "evaluation mode"
    found = f"{rows} samples, {len(counts)} different ones, {known:.1%} (nearly) trained on, {mode}"
    metric, tested = training.metric.name, min(SINGLES, size - 1)
    is_same = same_values(seen.regrouped, seen.outcome.evaluation, 0.01, 1e-3)
    is_alike = is_same and not seen.missing and 2 * seen.alike <= tested
    regrouped, before = seen.regrouped.get(metric, math.nan), seen.outcome.evaluation[metric]
    other = f"{metric} {regrouped:.3f} instead of {before:.3f} in other batches"
    return [
        Check(
            "evaluation is on unseen data only",
            is_sound,
            f"all {size} validation samples each time, evaluation mode, and the same result again",
            f"{found}, {'the same' if repeats else 'another'} result",
        ),
        Check(
            "evaluation scores all samples alike",
            is_alike,
            "the same values in other batches, which depend on each sample",
            f"{other}, {seen.missing} samples without a value, {seen.alike} of {tested} pairs evaluated as one sample",
        ),
    ]


def same_values(left: dict[str, float], right: dict[str, float], relative: float, absolute: float) -> bool:
    """Return whether all values that are finite on the right are nearly the same on the left."""
    pairs = ((left.get(name, math.nan), value) for name, value in right.items() if math.isfinite(value))
    return all(math.isclose(one, other, rel_tol=relative, abs_tol=absolute) for one, other in pairs)


def judge_control(real: Observer, control: Observer, limits: Limits) -> list[Check]:
    """Check that the control was trained as long and on the same data, and that it learned nothing."""
    metric, score = real.training.metric, control.outcome.evaluation[real.training.metric.name]
    ceiling = f"{metric.name} {metric.in_words(reach=False)} {limits.control}"
    is_ignorant = metric.stays_short(score, limits.control)
    ratio = control.moved() / max(real.moved(), 1e-12)
    same_data = all(control.rows(is_training=each) == real.rows(is_training=each) for each in (True, False))
    same_rates = control.rates == real.rates
    samples, rates = ("the same" if same else "other" for same in (same_data, same_rates))
    changed, differing = changed_answers(control), max(replay(control), default=0.0)
    is_alike = same_data and same_rates and ratio > 0.3 and changed <= 0.2 and differing < 0.01
    wanted = "the same samples and learning rates, weights that move, and answers that stay the same"
    found = f"{samples} samples, {rates} learning rates, weights move {ratio:.2f} times as far"
    found += f", {changed:.0%} of the answers change, which changes a loss by {differing:.1%}"
    return [
        Check(f"control with shuffled {limits.shuffled} doesn't learn", is_ignorant, ceiling, f"{score:.3f}"),
        Check("control trains like the run", is_alike, wanted, found),
    ]


def changed_answers(seen: Observer) -> float:
    """Return the part of the samples that have another answer if they are read again."""
    training, known = seen.training, {source for source, _ in seen.pairs}
    indices = by_chance(len(training.train_data), seed=1).tolist()[: 8 * SINGLES]
    pairs = pairs_of(MicroBatches(training.train_data, training.data.collate)[Draw(indices, 0)])
    again = [pair for pair in pairs if pair[0] in known]
    return sum(pair not in seen.pairs for pair in again) / max(len(again), 1)


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
