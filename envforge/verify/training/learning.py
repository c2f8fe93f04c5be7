"""Check the precision of the project's own training, and that the model learns.

One problem explains others: if the loss is NaN, the gradients can't be judged. ``cause_of`` returns the first problem
in the order of causes; the checks that it explains are skipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from envforge.verify.findings import absent, check_of_device, failed, info, passed, skipped, warned
from envforge.verify.judging import counted
from envforge.verify.training.facts import DeviceFacts, LearningFacts
from envforge.verify.values import Judgement, Verdict

_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_SHOWN = 3
_LEAST_FALL = 0.9  # of the first loss, even if the project's own threshold is higher
_PART = 10  # the first and the last tenth of the run are compared


def cause_of(facts: LearningFacts) -> str | None:
    """Return the id of the first check that the training fails, in the order of causes."""
    for name, holds in (
        ("loss-not-finite", not _is_finite(facts)),
        ("loss-constant", _is_constant(facts)),
        ("gradients-missing", _has_no_gradients(facts)),
        ("gradients-zero", _all_zero(facts)),
        ("weights-still", facts.weights_moved == 0),
        ("learning-stopped", facts.error is not None),
    ):
        if holds:
            return name
    return None


def _is_finite(facts: LearningFacts) -> bool:
    return all(loss is not None for loss in facts.losses) and not facts.weights_wild and not facts.wild_gradient


def _is_constant(facts: LearningFacts) -> bool:
    return len(facts.losses) > 2 and len(set(facts.losses)) == 1


def _has_no_gradients(facts: LearningFacts) -> bool:
    return bool(facts.parameters) and len(facts.without_gradient) == facts.parameters


def _all_zero(facts: LearningFacts) -> bool:
    count = len(facts.without_gradient) + len(facts.zero_gradient)
    return bool(facts.parameters) and count == facts.parameters


def _guarded(device: DeviceFacts, own: str) -> Judgement | LearningFacts:
    """Return the facts, or the judgement of a check that an earlier problem makes meaningless."""
    facts = device.learning.value
    if facts is None:
        return absent(device, "learning")
    cause = cause_of(facts) or (None if _trend(facts).holds else "loss-does-not-fall")
    if cause is not None and _ORDER.index(cause) < _ORDER.index(own):
        return skipped(f"nothing to judge: see `{cause}`")
    return facts


_ORDER = (
    "loss-not-finite", "loss-constant", "gradients-missing", "gradients-zero", "weights-still", "learning-stopped",
    "loss-does-not-fall", "metric-not-reached", "control-learns", "smoke-thresholds",
)  # fmt: skip


def _autocast(device: DeviceFacts) -> Judgement:
    facts = device.learning.value
    if facts is None:
        return absent(device, "learning")
    wanted = f"a forward pass inside autocast to {_DTYPES.get(facts.precision, facts.precision)}"
    if facts.autocast_forward is None:
        return skipped("the model was not called as a module, so autocast could not be observed")
    if not facts.autocast_forward:
        return failed(
            f"precision {facts.precision} was requested, but autocast is off in the forward pass", wanted, _MODEL
        )
    if facts.autocast_dtype != _DTYPES.get(facts.precision):
        return failed(f"autocast casts to {facts.autocast_dtype}", wanted, _MODEL)
    return passed(f"autocast to {facts.autocast_dtype} in the forward pass", source=_MODEL)


_MODEL = "a hook on the model, in the first update"


def _low(device: DeviceFacts) -> Judgement:  # noqa: PLR0911 - one line for each case
    facts = device.learning.value
    if facts is None:
        return absent(device, "learning")
    if facts.autocast_forward is False:
        return skipped("nothing to judge: see `autocast-off`")
    if facts.heavy is None or facts.low is None:
        return skipped("the first update did not finish")
    wanted = f"matrix products and convolutions in {facts.precision}"
    if facts.heavy == 0:
        return skipped("the model has no matrix products or convolutions")
    said = ", ".join(f"{count} in {dtype}" for dtype, count in sorted(facts.dtypes.items()))
    if facts.low == 0:
        return failed(f"autocast is on, but {said}", wanted, "operations of the first update")
    if facts.low < facts.heavy / 2:
        return warned(said, wanted, "operations of the first update", command="envforge verify train --json")
    return passed(said, wanted=wanted, source="operations of the first update")


def _backward(device: DeviceFacts) -> Judgement:
    facts = device.learning.value
    if facts is None:
        return absent(device, "learning")
    if facts.autocast_backward is None:
        return skipped("no gradient was observed")
    if facts.autocast_backward:
        return warned("the backward pass runs inside autocast", "a backward pass outside autocast", _MODEL)
    return passed("the backward pass runs outside autocast", source=_MODEL)


def _finite(device: DeviceFacts) -> Judgement:
    facts = _guarded(device, "loss-not-finite")
    if isinstance(facts, Judgement):
        return absent(device, "learning", leads=True)
    bad = sum(loss is None for loss in facts.losses)
    if _is_finite(facts):
        return passed(f"{counted(facts.updates, 'finite loss')}; {counted(facts.skipped, 'update')} skipped")
    parts = [f"{bad} of {len(facts.losses)} losses are not finite"]
    if facts.wild_gradient:
        parts.append(f"gradients of {_some(facts.wild_gradient)}")
    if facts.weights_wild:
        parts.append(f"{facts.weights_wild} of {facts.weights} weights")
    return failed(", ".join(parts), "finite losses, gradients and weights", "the project's own training")


def _some(names: tuple[str, ...]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(f"`{name}`" for name in names[:_SHOWN]) + more


def _constant(device: DeviceFacts) -> Judgement:
    facts = _guarded(device, "loss-constant")
    if isinstance(facts, Judgement):
        return facts
    if _is_constant(facts):
        return failed(
            f"the same loss {facts.losses[0]} in {counted(len(facts.losses), 'update')}",
            "a loss that depends on the batch",
        )
    return passed("the loss changes from update to update")


def _missing(device: DeviceFacts) -> Judgement:
    facts = _guarded(device, "gradients-missing")
    if isinstance(facts, Judgement):
        return facts
    if facts.parameters is None:
        return skipped("training stopped before the gradients were observed")
    if _has_no_gradients(facts):
        return failed("no parameter has a gradient after an update", "a gradient for each parameter")
    if facts.without_gradient:
        count = len(facts.without_gradient)
        return warned(
            f"{counted(count, 'parameter')} without gradient: {_some(facts.without_gradient)}", "a gradient for each"
        )
    return passed(f"all {facts.parameters} parameters have a gradient")


def _zero(device: DeviceFacts) -> Judgement:
    facts = _guarded(device, "gradients-zero")
    if isinstance(facts, Judgement):
        return facts
    if facts.parameters is None:
        return skipped("training stopped before the gradients were observed")
    if _all_zero(facts):
        return failed(f"the gradients of all {facts.parameters} parameters are zero", "nonzero gradients")
    norm = "unknown" if facts.gradient_norm is None else f"{facts.gradient_norm:.3g}"
    return passed(f"gradient norm {norm}, {counted(len(facts.zero_gradient), 'parameter')} with zero gradient")


def _still(device: DeviceFacts) -> Judgement:
    facts = _guarded(device, "weights-still")
    if isinstance(facts, Judgement):
        return facts
    if facts.weights_moved == 0:
        return failed(
            f"no weight changed after {counted(facts.updates, 'update')} with gradients",
            "changed weights",
            why="The learning rate is zero, or the optimizer's step doesn't run.",
        )
    return passed(f"{facts.weights_moved} of {facts.weights} weights changed")


def _stopped(device: DeviceFacts) -> Judgement:
    facts = _guarded(device, "learning-stopped")
    if isinstance(facts, Judgement):
        return facts
    if facts.error is not None:
        return failed(f"error after {counted(facts.updates, 'update')}: {facts.error}", "a run without an error")
    return passed(f"{counted(facts.updates, 'update')} in {facts.seconds:.1f} s")


def _falls(device: DeviceFacts) -> Judgement:
    facts = _guarded(device, "loss-does-not-fall")
    if isinstance(facts, Judgement):
        return facts
    if len(facts.losses) < _PART:
        return skipped(f"{counted(len(facts.losses), 'update')}: too few for a trend")
    trend = _trend(facts)
    said = f"from {trend.first:.3f} to {trend.last:.3f} in {counted(len(facts.losses), 'update')}"
    wanted = f"at most {trend.bound:.3f}: the project's own threshold, and at most {_LEAST_FALL:g} of the first loss"
    return passed(said, wanted=wanted) if trend.holds else failed(said, wanted)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Trend:
    """The mean loss of the first and of the last tenth, and the bound of the last."""

    first: float
    last: float
    bound: float

    @property
    def holds(self) -> bool:
        return self.last <= self.bound


def _trend(facts: LearningFacts) -> _Trend:
    losses = [loss for loss in facts.losses if loss is not None]
    if len(losses) < _PART:
        return _Trend(first=0.0, last=0.0, bound=0.0)
    part = len(losses) // _PART
    first, last = sum(losses[:part]) / part, sum(losses[-part:]) / part
    ratio = facts.loss_ratio if facts.loss_ratio is not None and facts.loss_ratio > 1 else 1.0
    return _Trend(first=first, last=last, bound=first * min(_LEAST_FALL, 1 / ratio))


def reaches(value: float, bound: float, facts: LearningFacts) -> bool:
    """Return whether a value of the metric is as good as the bound."""
    return value >= bound if facts.higher_is_better else value <= bound


def _metric(device: DeviceFacts) -> Judgement:
    facts = _guarded(device, "metric-not-reached")
    if isinstance(facts, Judgement):
        return facts
    if facts.metric is None or facts.reach is None:
        return skipped("the project defines no metric for its smoke test")
    if facts.score is None:
        return failed(f"{facts.metric} is not a number", f"{facts.reach:g} on unseen data")
    said = f"{facts.metric} {facts.score:.3f} on unseen data"
    wanted = f"{'at least' if facts.higher_is_better else 'at most'} {facts.reach:g}"
    return passed(said, wanted=wanted) if reaches(facts.score, facts.reach, facts) else failed(said, wanted)


def _control(device: DeviceFacts) -> Judgement:
    facts, control = _guarded(device, "control-learns"), device.control.value
    if isinstance(facts, Judgement):
        return facts
    if control is None:
        return absent(device, "control", leads=True)
    if control.score is None or control.ceiling is None or facts.score is None:
        return skipped(f"the project defines no metric for its control run ({control.error or 'no error'})")
    said = f"{control.metric} {control.score:.3f} with shuffled labels, {facts.score:.3f} with true labels"
    wanted = f"{'at most' if control.higher_is_better else 'at least'} {control.ceiling:g} with shuffled labels"
    learns = control.score != control.ceiling and reaches(control.score, control.ceiling, control)
    if learns and reaches(control.score, facts.score, control):
        return failed(
            said, wanted, why="Shuffled labels do as well as true labels, so the model does not learn from the labels."
        )
    return failed(said, wanted) if learns else passed(said, wanted=wanted)


def _thresholds(device: DeviceFacts) -> Judgement:
    """Judge the thresholds of the smoke test, which a run without learning must not reach."""
    facts = _guarded(device, "smoke-thresholds")
    if isinstance(facts, Judgement):
        return facts
    if facts.reach is None or facts.ceiling is None:
        return skipped("the project defines no thresholds for its smoke test")
    faults = []
    # the right threshold depends on the project's model, so real and control thresholds are compared with each other
    if not _apart(facts.reach, facts.ceiling, facts):
        faults.append(
            f"the threshold for true labels ({facts.reach:g}) is not better than the control's ({facts.ceiling:g})"
        )
    if facts.loss_ratio is not None and facts.loss_ratio <= 1:
        faults.append(f"a loss that does not fall is accepted (loss_ratio {facts.loss_ratio:g})")
    if facts.skips is not None and facts.skips >= facts.updates > 0:
        faults.append(f"every update may be skipped (skips {facts.skips:g} of {facts.updates})")
    if faults:
        return failed("; ".join(faults), "thresholds that only a model that learns can reach", "SMOKE in train.py")
    return passed(f"true labels {facts.reach:g}, control {facts.ceiling:g}, loss to 1/{facts.loss_ratio or 1:g}")


def _apart(better: float, worse: float, facts: LearningFacts) -> bool:
    return better > worse if facts.higher_is_better else better < worse


def _guard(device: DeviceFacts) -> Judgement:
    guard = device.guard.value
    if guard is None:
        return absent(device, "guard", leads=True)
    facts = device.learning.value
    if facts is not None and cause_of(facts) is not None:
        return skipped(f"nothing to judge: see `{cause_of(facts)}`")
    if not guard.planted:
        return skipped("the model's output is not a single tensor, so no NaN could be inserted")
    wanted = "unchanged weights and running statistics after a bad batch"
    if guard.wild:
        return failed(f"an inserted NaN spread to {_some(guard.wild)}", wanted)
    if guard.changed:
        return warned(f"an inserted NaN changed {_some(guard.changed)}", wanted)
    return passed("an inserted NaN changed nothing" + (f"; {guard.error}" if guard.error else ""), wanted=wanted)


def _precision(device: DeviceFacts) -> Judgement:
    if device.low is None:
        return skipped("the device did not report its capabilities")
    if not device.is_gpu:
        return info("bf16 on the CPU; without a GPU, its precision is not measured")
    if device.low == "bf16":
        return info(f"compute capability {device.capability}: bf16 in hardware, without loss scaling")
    return info(f"compute capability {device.capability}: bf16 is only emulated, so fp16 with a GradScaler")


_of = partial(check_of_device, group="learning")

CHECKS = (
    _of(
        "low-precision",
        "Low precision of this device",
        "torch reports bf16 as supported even if it is emulated and slow.",
        _precision,
        severity=Verdict.INFO,
    ),
    _of(
        "autocast-off",
        "Autocast in the forward pass",
        "Without autocast, training runs in fp32: correct, but slower, and without a message.",
        _autocast,
    ),
    _of(
        "low-precision-unused",
        "Precision of heavy operations",
        "A model that disables autocast inside itself doesn't get its speed.",
        _low,
    ),
    _of(
        "backward-in-autocast",
        "Autocast in the backward pass",
        "The backward pass uses the dtypes of the forward pass; PyTorch recommends against autocast around it.",
        _backward,
        severity=Verdict.WARN,
    ),
    _of(
        "loss-not-finite",
        "Finiteness of loss, gradients, and weights",
        "After one NaN in the weights, training continues but nothing is learned.",
        _finite,
    ),
    _of(
        "loss-constant",
        "Variation of the loss",
        "If the loss doesn't depend on the batch, the model can't learn from it.",
        _constant,
    ),
    _of(
        "gradients-missing",
        "Presence of gradients",
        "Without gradients, the optimizer changes nothing and reports no error.",
        _missing,
    ),
    _of("gradients-zero", "Magnitude of gradients", "A graph that is cut produces zeros, not an error.", _zero),
    _of("weights-still", "Change of the weights", "The model learns only if updates change its weights.", _still),
    _of(
        "learning-stopped", "Completion of the training run", "The project's own code stopped with an error.", _stopped
    ),
    _of("loss-does-not-fall", "Trend of the loss", "If the loss doesn't fall, the model doesn't learn.", _falls),
    _of(
        "metric-not-reached",
        "Metric on unseen data",
        "A falling loss can be memorization; only unseen data shows that the model generalizes.",
        _metric,
    ),
    _of(
        "control-learns",
        "Control run with shuffled labels",
        "A model that also learns from shuffled labels gets its answers from somewhere else.",
        _control,
    ),
    _of(
        "smoke-thresholds",
        "Thresholds of the smoke test",
        "A smoke test that can't fail proves nothing.",
        _thresholds,
    ),
    _of(
        "non-finite-guard",
        "Effect of a non-finite batch",
        "bf16 has no GradScaler to skip a bad update, so without a guard one NaN batch makes every weight NaN.",
        _guard,
    ),
)
