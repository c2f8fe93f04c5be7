"""Checks of the GradScaler, of resuming, and of the same run twice. Pure."""

from __future__ import annotations

from functools import partial

from envforge.verify.environment.say import passed, skipped
from envforge.verify.training.facts import DeviceFacts, RepeatFacts, ScalerFacts
from envforge.verify.training.learning import cause_of
from envforge.verify.training.say import absent, check_of_device, failed
from envforge.verify.values import Judgement

_LARGEST_ERROR = 0.25  # a scale that is forgotten, or clipped before it is taken out, is off by factors
_SOURCE = "fp16, three updates"


def _usable(device: DeviceFacts) -> Judgement | ScalerFacts:
    facts, learning = device.scaler.value, device.learning.value
    if facts is None:
        return absent(device, "scaler")
    if learning is not None and (cause := cause_of(learning)) is not None:
        return skipped(f"there is nothing to judge: see {cause}")
    return facts


def _is_wrong(facts: ScalerFacts) -> bool:
    """Whether the first gradients are not those of fp32, or could not be had; the rest follows from that."""
    return facts.gradient_error is None or facts.gradient_error > _LARGEST_ERROR


def _gradients(device: DeviceFacts) -> Judgement:
    facts = _usable(device)
    if isinstance(facts, Judgement):
        return absent(device, "scaler", leads=True) if device.scaler.value is None else facts
    wanted = f"the gradients of fp32 within {_LARGEST_ERROR:g}"
    if facts.gradient_error is None:
        return failed(f"the gradients could not be compared: {facts.gradient_problem}", wanted, _SOURCE)
    said = f"off by {facts.gradient_error:.2g}"
    if _is_wrong(facts):
        ratio = facts.gradient_ratio or 0.0
        return failed(
            f"{said}: {ratio:.3g} times as large as in fp32",
            wanted,
            _SOURCE,
            why="The loss was not scaled, or gradients were clipped or used before the scale was taken out.",
        )
    return passed(said, wanted=wanted, source=_SOURCE)


def _steps(device: DeviceFacts) -> Judgement:
    facts = _usable(device)
    if isinstance(facts, Judgement):
        return facts
    if _is_wrong(facts):
        return skipped("there is nothing to judge: see scaled-gradients-wrong")
    run = facts.clean
    wanted = f"three updates at scale {run.wanted_scale:g} that change the weights"
    if run.error is not None and len(run.losses) == 0:
        return failed(run.error, wanted, _SOURCE)
    if run.moved == 0:
        return failed(f"after {len(run.losses)} clean updates no weight has changed", wanted, _SOURCE)
    if run.wild:
        return failed(f"{run.wild} of {run.weights} weights are not finite", wanted, _SOURCE)
    return passed(f"{len(run.losses)} updates changed {run.moved} of {run.weights} weights", source=_SOURCE)


def _backs_off(device: DeviceFacts) -> Judgement:  # noqa: PLR0911 - one line for each case
    facts = _usable(device)
    if isinstance(facts, Judgement):
        return facts
    if _is_wrong(facts):
        return skipped("there is nothing to judge: see scaled-gradients-wrong")
    if facts.clean.moved == 0:
        return skipped("there is nothing to judge: see scaler-no-step")
    run = facts.overflow
    halved = [run.wanted_scale / 2**number for number in range(len(run.scales))]
    wanted = "each overflow skips the update and halves the scale"
    said = "scale " + ", ".join(f"{scale:.3g}" for scale in run.scales)
    problem = run.error or facts.clean.error
    if problem is not None:
        return failed(f"{said}; {problem}", wanted, _SOURCE)
    if list(run.scales) != halved or len(run.scales) < 2:
        return failed(f"{said}: it was not halved", wanted, _SOURCE)
    if run.moved or run.wild:
        return failed(f"{said}; {run.moved} weights changed, {run.wild} not finite", wanted, _SOURCE)
    return passed(f"{said}, and no weight changed", wanted=wanted, source=_SOURCE)


def _repeats(device: DeviceFacts) -> Judgement:
    facts = device.repeat.value
    if facts is None:
        return absent(device, "repeat", leads=True)
    if _is_repeated(facts):
        return passed(f"{facts.updates} updates twice, to the same bits: state {facts.state[:12]}")
    pairs = list(zip(facts.losses, facts.second_losses, strict=False))
    first = next((n for n, (one, other) in enumerate(pairs, start=1) if one != other), None)
    where = f"the losses part at update {first}" if first else "the losses agree, the weights do not"
    return failed(f"two deterministic runs differ: {where}", "the same bits from the same seed")


def _is_repeated(facts: RepeatFacts) -> bool:
    return facts.state == facts.second_state and facts.losses == facts.second_losses


def _resumes(device: DeviceFacts) -> Judgement:
    facts = device.repeat.value
    if facts is None:
        return absent(device, "repeat")
    if not _is_repeated(facts):
        return skipped("a run that is not repeatable cannot be resumed to the same bits: see not-repeatable")
    half = facts.losses[len(facts.losses) - len(facts.resumed_losses) :]
    lost = [f"the {name} generator" for name in facts.lost_generators]
    if facts.resumed_losses != half:
        lost.append("the losses after it")
    if facts.resumed_state != facts.state:
        lost.append("the weights at the end")
    if facts.resumed_optimizer != facts.optimizer:
        lost.append("the optimizer's state at the end")
    if lost:
        return failed(
            f"a run resumed after {facts.updates // 2} updates differs in {', '.join(lost)}",
            "a resumed run equal to one that was never stopped",
        )
    return passed(f"resumed after {facts.updates // 2} updates, to the same bits as without a stop")


_check = partial(check_of_device, group="learning")

CHECKS = (
    _check(
        "scaled-gradients-wrong",
        "Scaled gradients in fp16 are those of fp32",
        "Clipping before unscale_, or a loss that was not scaled, shrinks every update: the loss does not move.",
        _gradients,
    ),
    _check(
        "scaler-no-step",
        "The GradScaler lets clean updates through",
        "A scaler that skips every update leaves the weights as they are, without an error.",
        _steps,
    ),
    _check(
        "scaler-no-backoff",
        "The GradScaler backs off on an overflow",
        "A scale that does not fall after an overflow skips all updates that follow.",
        _backs_off,
    ),
    _check(
        "not-repeatable",
        "The same seed gives the same bits",
        "A run that cannot be repeated cannot be debugged or compared.",
        _repeats,
        row=46,
    ),
    _check(
        "resume-differs",
        "A resumed run equals one that was never stopped",
        "A checkpoint without optimizer, generators or position continues another run than the one that was stopped.",
        _resumes,
    ),
)
