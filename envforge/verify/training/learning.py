"""Check the project's own training: that the model learns, the GradScaler, and repeated runs.

One problem explains others: if the loss is NaN, the gradients can't be judged. ``earlier_problem`` returns the first
problem in the order of causes; the checks that it explains are skipped.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from envforge.verify.judging import Judged, View, check, counted, failed, passed, skipped, warned
from envforge.verify.training.devices import EACH_DEVICE, LEARNING, absent, measured
from envforge.verify.training.facts import DeviceFacts, LearningFacts, RepeatFacts, ScalerFacts
from envforge.verify.values import Check, Judgement

_SHOWN = 3
_LEAST_FALL = 0.9  # of the first loss, even if the project's own threshold is higher
_PART = 10  # the first and the last tenth of the run are compared
_LARGEST_ERROR = 0.25  # without scaling, or with clipping before unscaling, gradients are off by factors
_SCALER_SOURCE = "fp16, three updates"

_check = partial(check, group="learning", cost="default")


class _Trend(NamedTuple):
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
    return _Trend(first, last, first * min(_LEAST_FALL, 1 / ratio))


# the checks that explain the following ones, in the order of causes
_CAUSES: dict[str, Callable[[LearningFacts], bool]] = {
    "loss-not-finite": lambda run: bool(None in run.losses or run.weights_wild or run.wild_gradient),
    "loss-constant": lambda run: len(run.losses) > 2 and len(set(run.losses)) == 1,  # two equal ones can be chance
    "gradients-missing": lambda run: bool(run.parameters) and len(run.without_gradient) == run.parameters,
    "gradients-zero": lambda run: (
        bool(run.parameters) and len(run.without_gradient) + len(run.zero_gradient) == run.parameters
    ),
    "weights-still": lambda run: run.weights_moved == 0,
    "learning-stopped": lambda run: run.error is not None,
    "loss-does-not-fall": lambda run: (trend := _trend(run)) is not None and trend.last > trend.bound,
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
    return _check(check_id, title, of=LEARNING.part(lambda facts: earlier_problem(facts, check_id) or facts))


@_check(
    "loss-not-finite", "Finiteness of loss, gradients, and weights", of=measured("learning", LearningFacts, leads=True)
)
def _loss_not_finite(facts: LearningFacts) -> Judgement:
    """After one NaN in the weights, training continues but nothing is learned."""
    if not _CAUSES["loss-not-finite"](facts):
        return passed(f"{counted(facts.updates, 'finite loss')}; {counted(facts.skipped, 'update')} skipped")
    parts = [f"{facts.losses.count(None)} of {len(facts.losses)} losses are not finite"]
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
    if _CAUSES["loss-constant"](facts):
        observed = f"the same loss {facts.losses[0]} in {counted(len(facts.losses), 'update')}"
        return failed(observed, "a loss that depends on the batch")
    return passed("the loss changes from update to update")


@_check_of_run("gradients-missing", "Presence of gradients")
def _gradients_missing(facts: LearningFacts) -> Judgement:
    """Without gradients, the optimizer changes nothing and reports no error."""
    if facts.parameters is None:
        return skipped("training stopped before the gradients were observed")
    if _CAUSES["gradients-missing"](facts):
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
    if _CAUSES["gradients-zero"](facts):
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
    return (failed if trend.last > trend.bound else passed)(observed, wanted)


@_check_of_run("metric-not-reached", "Metric on unseen data")
def _metric_not_reached(facts: LearningFacts) -> Judgement:
    """A falling loss can be memorization; only unseen data shows that the model generalizes."""
    if facts.metric is None or facts.reach is None:
        return skipped("the project defines no metric for its smoke test")
    if facts.score is None:
        return failed(f"{facts.metric} is not a number", f"{facts.reach:g} on unseen data")
    observed = f"{facts.metric} {facts.score:.3f} on unseen data"
    wanted = f"{'at least' if facts.higher_is_better else 'at most'} {facts.reach:g}"
    return (failed if _is_better(facts.reach, facts.score, facts) else passed)(observed, wanted)


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
    # without a place for the NaN, nothing was tested, which is not a pass
    if not guard.planted:
        return skipped("the model's output is not a single tensor, so no NaN could be inserted")
    wanted = "unchanged weights and running statistics after a bad batch"
    if guard.wild:
        return failed(f"an inserted NaN spread to {_some(guard.wild)}", wanted)
    if guard.changed:  # but finite, such as running statistics
        return warned(f"an inserted NaN changed {_some(guard.changed)}", wanted)
    return passed("an inserted NaN changed nothing" + (f"; {guard.error}" if guard.error else ""), wanted)


def _scaler(*, leads: bool) -> View[ScalerFacts]:
    """Return the view of the GradScaler; checks that don't lead are skipped if its gradients are wrong."""

    def scaler_of(device: DeviceFacts) -> ScalerFacts | Judgement:
        facts = device.scaler.value
        if facts is None:
            return absent(device, "scaler", leads=leads)
        # a loss that doesn't fall doesn't affect these checks
        problem = earlier_problem(device.learning.value, "loss-does-not-fall")
        if problem is None and not leads and _has_wrong_gradients(facts):
            problem = skipped("nothing to judge: see `scaled-gradients-wrong`")
        return problem or facts

    return EACH_DEVICE.part(scaler_of, ("learning", "scaler"))


def _has_wrong_gradients(facts: ScalerFacts) -> bool:
    """Return whether the first gradients differ from fp32 or are missing; other errors follow from that."""
    return facts.gradient_error is None or facts.gradient_error > _LARGEST_ERROR


@_check("scaled-gradients-wrong", "Scaled fp16 gradients compared with fp32", of=_scaler(leads=True))
def _scaled_gradients_wrong(facts: ScalerFacts) -> Judgement:
    """Clipping before unscale_, or an unscaled loss, shrinks every update, so the loss doesn't change."""
    wanted = f"within {_LARGEST_ERROR:g} of the fp32 gradients"
    if facts.gradient_error is None:
        return failed(f"the gradients could not be compared: {facts.gradient_problem}", wanted, _SCALER_SOURCE)
    observed = f"off by {facts.gradient_error:.2g}"
    if not _has_wrong_gradients(facts):
        return passed(observed, wanted, _SCALER_SOURCE)
    observed += f": {facts.gradient_ratio or 0.0:.3g} times the fp32 gradients"
    why = "The loss was not scaled, or gradients were clipped or used before they were unscaled."
    return failed(observed, wanted, _SCALER_SOURCE, why=why)


@_check("scaler-no-step", "GradScaler on clean updates", of=_scaler(leads=False))
def _scaler_no_step(facts: ScalerFacts) -> Judgement:
    """A scaler that skips every update leaves the weights unchanged, without an error."""
    run = facts.clean
    wanted = f"changed weights after three updates at scale {run.wanted_scale:g}"
    if run.error is not None and len(run.losses) == 0:  # a later error is that of `scaler-no-backoff`
        return failed(run.error, wanted, _SCALER_SOURCE)
    if run.moved == 0:
        return failed(f"no weight changed after {counted(len(run.losses), 'clean update')}", wanted, _SCALER_SOURCE)
    if run.wild:
        return failed(f"{run.wild} of {run.weights} weights are not finite", wanted, _SCALER_SOURCE)
    observed = f"{counted(len(run.losses), 'update')} changed {run.moved} of {run.weights} weights"
    return passed(observed, source=_SCALER_SOURCE)


@_check("scaler-no-backoff", "GradScaler after an overflow", of=_scaler(leads=False))
def _scaler_no_backoff(facts: ScalerFacts) -> Judgement:
    """If the scale doesn't decrease after an overflow, all following updates are skipped."""
    if facts.clean.moved == 0:
        return skipped("nothing to judge: see `scaler-no-step`")
    run, problem = facts.overflow, facts.overflow.error or facts.clean.error
    # PyTorch halves the scale after an overflow (backoff_factor of GradScaler)
    halved = [run.wanted_scale / 2**number for number in range(len(run.scales))]
    wanted = "a skipped update and half the scale after each overflow"
    observed = "scale " + ", ".join(f"{scale:.3g}" for scale in run.scales)
    if problem is not None:
        return failed(f"{observed}; {problem}", wanted, _SCALER_SOURCE)
    if list(run.scales) != halved or len(run.scales) < 2:
        return failed(f"{observed}: not halved", wanted, _SCALER_SOURCE)
    if run.moved or run.wild:
        return failed(f"{observed}; {run.moved} weights changed, {run.wild} not finite", wanted, _SCALER_SOURCE)
    return passed(f"{observed}; no weight changed", wanted, _SCALER_SOURCE)


@_check("not-repeatable", "Repeatability of a training run", of=measured("repeat", RepeatFacts, leads=True), row=46)
def _not_repeatable(facts: RepeatFacts) -> Judgement:
    """A run that can't be repeated can't be debugged or compared."""
    if _is_repeated(facts):
        return passed(f"two bit-identical runs of {counted(facts.updates, 'update')}, state {facts.state[:12]}")
    pairs = list(zip(facts.losses, facts.second_losses, strict=False))
    first = next((number for number, (one, other) in enumerate(pairs, start=1) if one != other), None)
    where = f"the losses differ from update {first} on" if first else "the losses agree, but the weights don't"
    return failed(f"two deterministic runs differ: {where}", "bit-identical runs with the same seed")


def _is_repeated(facts: RepeatFacts) -> bool:
    return facts.state == facts.second_state and facts.losses == facts.second_losses


@_check("resume-differs", "Resumed run compared with an uninterrupted one", of=measured("repeat", RepeatFacts))
def _resume_differs(facts: RepeatFacts) -> Judgement:
    # without determinism, a difference says nothing about the checkpoint
    """A checkpoint without optimizer, random generators, or position continues a different run."""
    if not _is_repeated(facts):
        return skipped("nothing to judge: see `not-repeatable`")
    resumed_after = f"resumed after {counted(facts.updates // 2, 'update')}"
    lost = [f"the {name} generator" for name in facts.lost_generators]
    # the resumed run has only the second half
    if facts.resumed_losses != facts.losses[len(facts.losses) - len(facts.resumed_losses) :]:
        lost.append("the losses after it")
    if facts.resumed_state != facts.state:
        lost.append("the weights at the end")
    if facts.resumed_optimizer != facts.optimizer:
        lost.append("the optimizer's state at the end")
    if lost:
        wanted = "the same result as a run without a stop"
        return failed(f"a run {resumed_after} differs in {', '.join(lost)}", wanted)
    return passed(f"{resumed_after}, bit-identical to a run without a stop")
