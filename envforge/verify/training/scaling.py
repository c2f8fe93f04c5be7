"""Check the GradScaler, repeated runs, and resumed runs."""

from __future__ import annotations

from functools import partial

from envforge.verify.environment.say import passed, skipped
from envforge.verify.machine.judging import counted
from envforge.verify.training.facts import DeviceFacts, RepeatFacts, ScalerFacts
from envforge.verify.training.learning import cause_of
from envforge.verify.training.say import absent, check_of_device, failed
from envforge.verify.values import Judgement

_LARGEST_ERROR = 0.25  # without scaling, or with clipping before unscaling, gradients are off by factors
_SOURCE = "fp16, three updates"


def _usable(device: DeviceFacts) -> Judgement | ScalerFacts:
    facts, learning = device.scaler.value, device.learning.value
    if facts is None:
        return absent(device, "scaler")
    if learning is not None and (cause := cause_of(learning)) is not None:
        return skipped(f"nothing to judge: see `{cause}`")
    return facts


def _is_wrong(facts: ScalerFacts) -> bool:
    """Return whether the first gradients differ from fp32 or are missing; other errors follow from that."""
    return facts.gradient_error is None or facts.gradient_error > _LARGEST_ERROR


def _gradients(device: DeviceFacts) -> Judgement:
    facts = _usable(device)
    if isinstance(facts, Judgement):
        return absent(device, "scaler", leads=True) if device.scaler.value is None else facts
    wanted = f"within {_LARGEST_ERROR:g} of the fp32 gradients"
    if facts.gradient_error is None:
        return failed(f"the gradients could not be compared: {facts.gradient_problem}", wanted, _SOURCE)
    said = f"off by {facts.gradient_error:.2g}"
    if _is_wrong(facts):
        ratio = facts.gradient_ratio or 0.0
        return failed(
            f"{said}: {ratio:.3g} times the fp32 gradients",
            wanted,
            _SOURCE,
            why="The loss was not scaled, or gradients were clipped or used before they were unscaled.",
        )
    return passed(said, wanted=wanted, source=_SOURCE)


def _steps(device: DeviceFacts) -> Judgement:
    facts = _usable(device)
    if isinstance(facts, Judgement):
        return facts
    if _is_wrong(facts):
        return skipped("nothing to judge: see `scaled-gradients-wrong`")
    run = facts.clean
    wanted = f"changed weights after three updates at scale {run.wanted_scale:g}"
    if run.error is not None and len(run.losses) == 0:
        return failed(run.error, wanted, _SOURCE)
    if run.moved == 0:
        return failed(f"no weight changed after {counted(len(run.losses), 'clean update')}", wanted, _SOURCE)
    if run.wild:
        return failed(f"{run.wild} of {run.weights} weights are not finite", wanted, _SOURCE)
    return passed(f"{counted(len(run.losses), 'update')} changed {run.moved} of {run.weights} weights", source=_SOURCE)


def _backs_off(device: DeviceFacts) -> Judgement:  # noqa: PLR0911 - one line for each case
    facts = _usable(device)
    if isinstance(facts, Judgement):
        return facts
    if _is_wrong(facts):
        return skipped("nothing to judge: see `scaled-gradients-wrong`")
    if facts.clean.moved == 0:
        return skipped("nothing to judge: see `scaler-no-step`")
    run = facts.overflow
    halved = [run.wanted_scale / 2**number for number in range(len(run.scales))]
    wanted = "a skipped update and half the scale after each overflow"
    said = "scale " + ", ".join(f"{scale:.3g}" for scale in run.scales)
    problem = run.error or facts.clean.error
    if problem is not None:
        return failed(f"{said}; {problem}", wanted, _SOURCE)
    if list(run.scales) != halved or len(run.scales) < 2:
        return failed(f"{said}: not halved", wanted, _SOURCE)
    if run.moved or run.wild:
        return failed(f"{said}; {run.moved} weights changed, {run.wild} not finite", wanted, _SOURCE)
    return passed(f"{said}; no weight changed", wanted=wanted, source=_SOURCE)


def _repeats(device: DeviceFacts) -> Judgement:
    facts = device.repeat.value
    if facts is None:
        return absent(device, "repeat", leads=True)
    if _is_repeated(facts):
        return passed(f"two bit-identical runs of {counted(facts.updates, 'update')}, state {facts.state[:12]}")
    pairs = list(zip(facts.losses, facts.second_losses, strict=False))
    first = next((n for n, (one, other) in enumerate(pairs, start=1) if one != other), None)
    where = f"the losses differ from update {first} on" if first else "the losses agree, but the weights don't"
    return failed(f"two deterministic runs differ: {where}", "bit-identical runs with the same seed")


def _is_repeated(facts: RepeatFacts) -> bool:
    return facts.state == facts.second_state and facts.losses == facts.second_losses


def _resumes(device: DeviceFacts) -> Judgement:
    facts = device.repeat.value
    if facts is None:
        return absent(device, "repeat")
    if not _is_repeated(facts):
        return skipped("nothing to judge: see `not-repeatable`")
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
            f"a run resumed after {counted(facts.updates // 2, 'update')} differs in {', '.join(lost)}",
            "the same result as a run without a stop",
        )
    return passed(f"resumed after {counted(facts.updates // 2, 'update')}, bit-identical to a run without a stop")


_check = partial(check_of_device, group="learning")

CHECKS = (
    _check(
        "scaled-gradients-wrong",
        "Scaled fp16 gradients compared with fp32",
        "Clipping before unscale_, or an unscaled loss, shrinks every update, so the loss doesn't change.",
        _gradients,
    ),
    _check(
        "scaler-no-step",
        "GradScaler on clean updates",
        "A scaler that skips every update leaves the weights unchanged, without an error.",
        _steps,
    ),
    _check(
        "scaler-no-backoff",
        "GradScaler after an overflow",
        "If the scale doesn't decrease after an overflow, all following updates are skipped.",
        _backs_off,
    ),
    _check(
        "not-repeatable",
        "Repeatability of a training run",
        "A run that can't be repeated can't be debugged or compared.",
        _repeats,
        row=46,
    ),
    _check(
        "resume-differs",
        "Resumed run compared with an uninterrupted one",
        "A checkpoint without optimizer, random generators, or position continues a different run.",
        _resumes,
    ),
)
