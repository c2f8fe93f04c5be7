"""Check the precision of the project's own training, and that the model learns.

One problem explains others: if the loss is NaN, the gradients can't be judged. ``earlier_problem`` returns the first
problem in the order of causes; the checks that it explains are skipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from envforge.verify.judging import Judged, View, check, counted, failed, info, passed, skipped, warned
from envforge.verify.record import Record
from envforge.verify.training.devices import DTYPES, EACH_DEVICE, absent, measured
from envforge.verify.training.facts import DeviceFacts, LearningFacts
from envforge.verify.values import Check, Judgement, Verdict

_SHOWN = 3
_LEAST_FALL = 0.9  # of the first loss, even if the project's own threshold is higher
_PART = 10  # the first and the last tenth of the run are compared
_MODEL = "a hook on the model, in the first update"
_FIRST_UPDATE = "operations of the first update"

_check = partial(check, group="learning", cost="default", needs=("learning",))
_LEARNING = measured("learning", LearningFacts)


def _is_not_finite(facts: LearningFacts) -> bool:
    return any(loss is None for loss in facts.losses) or bool(facts.weights_wild or facts.wild_gradient)


def _is_constant(facts: LearningFacts) -> bool:
    # two equal losses can be chance
    return len(facts.losses) > 2 and len(set(facts.losses)) == 1


def _has_no_gradients(facts: LearningFacts) -> bool:
    return bool(facts.parameters) and len(facts.without_gradient) == facts.parameters


def _has_zero_gradients(facts: LearningFacts) -> bool:
    count = len(facts.without_gradient) + len(facts.zero_gradient)
    return bool(facts.parameters) and count == facts.parameters


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trend:
    """The mean loss of the first and of the last tenth, and the bound of the last."""

    first: float
    last: float
    bound: float


def _trend(facts: LearningFacts) -> _Trend | None:
    """Return the trend of the loss, or None if there are too few losses."""
    losses = [loss for loss in facts.losses if loss is not None]
    if len(losses) < _PART:
        return None
    part = len(losses) // _PART
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    # a ratio of 1 or less accepts a run without learning; `smoke-thresholds` reports that
    ratio = facts.loss_ratio if facts.loss_ratio is not None and facts.loss_ratio > 1 else 1.0
    return _Trend(first=first, last=last, bound=first * min(_LEAST_FALL, 1 / ratio))


def _does_not_fall(facts: LearningFacts) -> bool:
    trend = _trend(facts)
    return trend is not None and trend.last > trend.bound


# the checks that explain the following ones, in the order of causes
_CAUSES: dict[str, Callable[[LearningFacts], bool]] = {
    "loss-not-finite": _is_not_finite,
    "loss-constant": _is_constant,
    "gradients-missing": _has_no_gradients,
    "gradients-zero": _has_zero_gradients,
    "weights-still": lambda facts: facts.weights_moved == 0,
    "learning-stopped": lambda facts: facts.error is not None,
    "loss-does-not-fall": _does_not_fall,
}


def earlier_problem(facts: LearningFacts | None, before: str) -> Judgement | None:
    """Return SKIP if a check that precedes ``before`` in the order of causes fails."""
    for name, fails in _CAUSES.items():
        if name == before or facts is None:
            return None
        if fails(facts):
            return skipped(f"nothing to judge: see `{name}`")
    return None


def _check_of_run(check_id: str, title: str) -> Callable[[Callable[[LearningFacts], Judged]], Check]:
    """Return the decorator of a check that is skipped after an earlier problem."""

    def judged(record: Record, judge: Callable[[LearningFacts], Judged]) -> Iterable[Judgement]:
        return _LEARNING.judged(record, lambda facts: earlier_problem(facts, check_id) or judge(facts))

    return _check(check_id, title, of=View(question="training", judged=judged))


@_check("low-precision", "Low precision of this device", of=EACH_DEVICE, severity=Verdict.INFO, needs=("device",))
def _low_precision(device: DeviceFacts) -> Judgement:
    """torch reports bf16 as supported even if it is emulated and slow."""
    if device.low is None:
        return skipped("the device did not report its capabilities")
    if not device.is_gpu:
        return info("bf16 on the CPU; without a GPU, its precision is not measured")
    if device.low == "bf16":
        return info(f"compute capability {device.capability}: bf16 in hardware, without loss scaling")
    return info(f"compute capability {device.capability}: bf16 is only emulated, so fp16 with a GradScaler")


@_check("autocast-off", "Autocast in the forward pass", of=_LEARNING)
def _autocast_off(facts: LearningFacts) -> Judgement:
    """Without autocast, training runs in fp32: correct, but slower, and without a message."""
    dtype = DTYPES.get(facts.precision)
    wanted = f"a forward pass inside autocast to {dtype or facts.precision}"
    if facts.autocast_forward is None:
        return skipped("the model was not called as a module, so autocast could not be observed")
    # torch only warns when it disables autocast for a dtype that the device lacks
    if not facts.autocast_forward:
        observed = f"precision {facts.precision} was requested, but autocast is off in the forward pass"
        return failed(observed, wanted, _MODEL)
    if facts.autocast_dtype != dtype:
        return failed(f"autocast casts to {facts.autocast_dtype}", wanted, _MODEL)
    return passed(f"autocast to {facts.autocast_dtype} in the forward pass", source=_MODEL)


@_check("low-precision-unused", "Precision of heavy operations", of=_LEARNING)
def _low_precision_unused(facts: LearningFacts) -> Judgement:
    """A model that disables autocast inside itself doesn't get its speed."""
    if facts.autocast_forward is False:
        return skipped("nothing to judge: see `autocast-off`")
    if facts.heavy is None or facts.low is None:
        return skipped("the first update did not finish")
    if facts.heavy == 0:
        return skipped("the model has no matrix products or convolutions")
    wanted = f"matrix products and convolutions in {facts.precision}"
    observed = ", ".join(f"{count} in {dtype}" for dtype, count in sorted(facts.dtypes.items()))
    if facts.low == 0:
        return failed(f"autocast is on, but {observed}", wanted, _FIRST_UPDATE)
    # a model can keep some operations in fp32 on purpose, but not most of them
    if facts.low < facts.heavy / 2:
        return warned(observed, wanted, _FIRST_UPDATE, command="envforge verify train --json")
    return passed(observed, wanted, _FIRST_UPDATE)


@_check("backward-in-autocast", "Autocast in the backward pass", of=_LEARNING, severity=Verdict.WARN)
def _backward_in_autocast(facts: LearningFacts) -> Judgement:
    """The backward pass uses the dtypes of the forward pass; PyTorch recommends against autocast around it."""
    if facts.autocast_backward is None:
        return skipped("no gradient was observed")
    if facts.autocast_backward:
        return warned("the backward pass runs inside autocast", "a backward pass outside autocast", _MODEL)
    return passed("the backward pass runs outside autocast", source=_MODEL)


@_check(
    "loss-not-finite", "Finiteness of loss, gradients, and weights", of=measured("learning", LearningFacts, leads=True)
)
def _loss_not_finite(facts: LearningFacts) -> Judgement:
    """After one NaN in the weights, training continues but nothing is learned."""
    if not _is_not_finite(facts):
        return passed(f"{counted(facts.updates, 'finite loss')}; {counted(facts.skipped, 'update')} skipped")
    parts = [f"{sum(loss is None for loss in facts.losses)} of {len(facts.losses)} losses are not finite"]
    if facts.wild_gradient:
        parts.append(f"gradients of {_some(facts.wild_gradient)}")
    if facts.weights_wild:
        parts.append(f"{facts.weights_wild} of {facts.weights} weights")
    return failed(", ".join(parts), "finite losses, gradients and weights", "the project's own training")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + more


@_check_of_run("loss-constant", "Variation of the loss")
def _loss_constant(facts: LearningFacts) -> Judgement:
    """If the loss doesn't depend on the batch, the model can't learn from it."""
    if _is_constant(facts):
        observed = f"the same loss {facts.losses[0]} in {counted(len(facts.losses), 'update')}"
        return failed(observed, "a loss that depends on the batch")
    return passed("the loss changes from update to update")


@_check_of_run("gradients-missing", "Presence of gradients")
def _gradients_missing(facts: LearningFacts) -> Judgement:
    """Without gradients, the optimizer changes nothing and reports no error."""
    if facts.parameters is None:
        return skipped("training stopped before the gradients were observed")
    if _has_no_gradients(facts):
        return failed("no parameter has a gradient after an update", "a gradient for each parameter")
    # a parameter can be unused on purpose
    if facts.without_gradient:
        count = counted(len(facts.without_gradient), "parameter")
        return warned(f"{count} without gradient: {_some(facts.without_gradient)}", "a gradient for each")
    return passed(f"all {facts.parameters} parameters have a gradient")


@_check_of_run("gradients-zero", "Magnitude of gradients")
def _gradients_zero(facts: LearningFacts) -> Judgement:
    """A graph that is cut produces zeros, not an error."""
    if facts.parameters is None:
        return skipped("training stopped before the gradients were observed")
    if _has_zero_gradients(facts):
        return failed(f"the gradients of all {facts.parameters} parameters are zero", "nonzero gradients")
    norm = "unknown" if facts.gradient_norm is None else f"{facts.gradient_norm:.3g}"
    return passed(f"gradient norm {norm}, {counted(len(facts.zero_gradient), 'parameter')} with zero gradient")


@_check_of_run("weights-still", "Change of the weights")
def _weights_still(facts: LearningFacts) -> Judgement:
    """The model learns only if updates change its weights."""
    if facts.weights_moved:
        return passed(f"{facts.weights_moved} of {facts.weights} weights changed")
    observed = f"no weight changed after {counted(facts.updates, 'update')} with gradients"
    return failed(observed, "changed weights", why="The learning rate is zero, or the optimizer's step doesn't run.")


@_check_of_run("learning-stopped", "Completion of the training run")
def _learning_stopped(facts: LearningFacts) -> Judgement:
    """The project's own code stopped with an error."""
    if facts.error is not None:
        return failed(f"error after {counted(facts.updates, 'update')}: {facts.error}", "a run without an error")
    return passed(f"{counted(facts.updates, 'update')} in {facts.seconds:.1f} s")


@_check_of_run("loss-does-not-fall", "Trend of the loss")
def _loss_does_not_fall(facts: LearningFacts) -> Judgement:
    """If the loss doesn't fall, the model doesn't learn."""
    trend, updates = _trend(facts), counted(len(facts.losses), "update")
    if trend is None:
        return skipped(f"{updates}: too few for a trend")
    observed = f"from {trend.first:.3f} to {trend.last:.3f} in {updates}"
    wanted = f"at most {trend.bound:.3f}: the project's own threshold, and at most {_LEAST_FALL:g} of the first loss"
    return failed(observed, wanted) if _does_not_fall(facts) else passed(observed, wanted)


@_check_of_run("metric-not-reached", "Metric on unseen data")
def _metric_not_reached(facts: LearningFacts) -> Judgement:
    """A falling loss can be memorization; only unseen data shows that the model generalizes."""
    if facts.metric is None or facts.reach is None:
        return skipped("the project defines no metric for its smoke test")
    if facts.score is None:
        return failed(f"{facts.metric} is not a number", f"{facts.reach:g} on unseen data")
    observed = f"{facts.metric} {facts.score:.3f} on unseen data"
    wanted = f"{'at least' if facts.higher_is_better else 'at most'} {facts.reach:g}"
    reached = not _is_better(facts.reach, facts.score, facts)
    return passed(observed, wanted) if reached else failed(observed, wanted)


def _is_better(value: float, other: float, facts: LearningFacts) -> bool:
    """Return whether a value of the metric is better than another one."""
    return value > other if facts.higher_is_better else value < other


@_check("control-learns", "Control run with shuffled labels", of=EACH_DEVICE, needs=("learning", "control"))
def _control_learns(device: DeviceFacts) -> Judgement:
    """A model that also learns from shuffled labels gets its answers from somewhere else."""
    facts, control = device.learning.value, device.control.value
    if facts is None:
        return absent(device, "learning")
    if (problem := earlier_problem(facts, "control-learns")) is not None:
        return problem
    return absent(device, "control", leads=True) if control is None else _against_control(facts, control)


def _against_control(facts: LearningFacts, control: LearningFacts) -> Judgement:
    if control.score is None or control.ceiling is None or facts.score is None:
        return skipped(f"the project defines no metric for its control run ({control.error or 'no error'})")
    observed = f"{control.metric} {control.score:.3f} with shuffled labels, {facts.score:.3f} with true labels"
    wanted = f"{'at most' if control.higher_is_better else 'at least'} {control.ceiling:g} with shuffled labels"
    if not _is_better(control.score, control.ceiling, control):
        return passed(observed, wanted)
    if _is_better(facts.score, control.score, facts):
        return failed(observed, wanted)
    why = "Shuffled labels do as well as true labels, so the model does not learn from the labels."
    return failed(observed, wanted, why=why)


@_check_of_run("smoke-thresholds", "Thresholds of the smoke test")
def _smoke_thresholds(facts: LearningFacts) -> Judgement:
    """A smoke test that can't fail proves nothing."""
    reach, ceiling = facts.reach, facts.ceiling
    if reach is None or ceiling is None:
        return skipped("the project defines no thresholds for its smoke test")
    problems = []
    # the right threshold depends on the project's model, so real and control thresholds are compared with each other
    if not _is_better(reach, ceiling, facts):
        problems.append(f"the threshold for true labels ({reach:g}) is not better than the control's ({ceiling:g})")
    if facts.loss_ratio is not None and facts.loss_ratio <= 1:
        problems.append(f"a loss that does not fall is accepted (loss_ratio {facts.loss_ratio:g})")
    if facts.skips is not None and facts.skips >= facts.updates > 0:
        problems.append(f"every update may be skipped (skips {facts.skips:g} of {facts.updates})")
    if problems:
        return failed("; ".join(problems), "thresholds that only a model that learns can reach", "SMOKE in train.py")
    return passed(f"true labels {reach:g}, control {ceiling:g}, loss to 1/{facts.loss_ratio or 1:g}")


@_check("non-finite-guard", "Effect of a non-finite batch", of=EACH_DEVICE, needs=("learning", "guard"))
def _non_finite_guard(device: DeviceFacts) -> Judgement:
    """bf16 has no GradScaler to skip a bad update, so without a guard one NaN batch makes every weight NaN."""
    guard = device.guard.value
    if guard is None:
        return absent(device, "guard", leads=True)
    # a loss that doesn't fall doesn't affect this check
    if (problem := earlier_problem(device.learning.value, "loss-does-not-fall")) is not None:
        return problem
    if not guard.planted:
        return skipped("the model's output is not a single tensor, so no NaN could be inserted")
    wanted = "unchanged weights and running statistics after a bad batch"
    if guard.wild:
        return failed(f"an inserted NaN spread to {_some(guard.wild)}", wanted)
    if guard.changed:  # but finite, such as running statistics
        return warned(f"an inserted NaN changed {_some(guard.changed)}", wanted)
    return passed("an inserted NaN changed nothing" + (f"; {guard.error}" if guard.error else ""), wanted)
