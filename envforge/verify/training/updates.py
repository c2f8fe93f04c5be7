"""Check single updates bit by bit: the GradScaler in fp16, a repeated run, and a resumed run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from envforge.verify.judging import Judged, View, check, counted, failed, passed, skipped
from envforge.verify.record import Record
from envforge.verify.training.devices import EACH_DEVICE, absent, measured
from envforge.verify.training.facts import DeviceFacts, RepeatFacts, ScalerFacts
from envforge.verify.training.learning import earlier_problem
from envforge.verify.values import Judgement

_LARGEST_ERROR = 0.25  # without scaling, or with clipping before unscaling, gradients are off by factors
_SOURCE = "fp16, three updates"

_check = partial(check, group="learning", cost="default")


def _scaler(*, leads: bool) -> View[ScalerFacts]:
    """Return the view of the GradScaler; checks that don't lead are skipped if its gradients are wrong."""

    def judged(record: Record, judge: Callable[[ScalerFacts], Judged]) -> Iterable[Judgement]:
        def one_device(device: DeviceFacts) -> Judged:
            facts = device.scaler.value
            if facts is None:
                return absent(device, "scaler", leads=leads)
            # a loss that doesn't fall doesn't affect these checks
            problem = earlier_problem(device.learning.value, "loss-does-not-fall")
            if problem is None and not leads and _is_wrong(facts):
                problem = skipped("nothing to judge: see `scaled-gradients-wrong`")
            return problem or judge(facts)

        return EACH_DEVICE.judged(record, one_device)

    return View(question="training", judged=judged)


def _is_wrong(facts: ScalerFacts) -> bool:
    """Return whether the first gradients differ from fp32 or are missing; other errors follow from that."""
    return facts.gradient_error is None or facts.gradient_error > _LARGEST_ERROR


@_check(
    "scaled-gradients-wrong",
    "Scaled fp16 gradients compared with fp32",
    of=_scaler(leads=True),
    needs=("learning", "scaler"),
)
def _scaled_gradients_wrong(facts: ScalerFacts) -> Judgement:
    """Clipping before unscale_, or an unscaled loss, shrinks every update, so the loss doesn't change."""
    wanted = f"within {_LARGEST_ERROR:g} of the fp32 gradients"
    if facts.gradient_error is None:
        return failed(f"the gradients could not be compared: {facts.gradient_problem}", wanted, _SOURCE)
    observed = f"off by {facts.gradient_error:.2g}"
    if not _is_wrong(facts):
        return passed(observed, wanted, _SOURCE)
    observed += f": {facts.gradient_ratio or 0.0:.3g} times the fp32 gradients"
    why = "The loss was not scaled, or gradients were clipped or used before they were unscaled."
    return failed(observed, wanted, _SOURCE, why=why)


@_check("scaler-no-step", "GradScaler on clean updates", of=_scaler(leads=False), needs=("learning", "scaler"))
def _scaler_no_step(facts: ScalerFacts) -> Judgement:
    """A scaler that skips every update leaves the weights unchanged, without an error."""
    run = facts.clean
    wanted = f"changed weights after three updates at scale {run.wanted_scale:g}"
    if run.error is not None and len(run.losses) == 0:  # a later error is that of `scaler-no-backoff`
        return failed(run.error, wanted, _SOURCE)
    if run.moved == 0:
        return failed(f"no weight changed after {counted(len(run.losses), 'clean update')}", wanted, _SOURCE)
    if run.wild:
        return failed(f"{run.wild} of {run.weights} weights are not finite", wanted, _SOURCE)
    return passed(f"{counted(len(run.losses), 'update')} changed {run.moved} of {run.weights} weights", source=_SOURCE)


@_check("scaler-no-backoff", "GradScaler after an overflow", of=_scaler(leads=False), needs=("learning", "scaler"))
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
        return failed(f"{observed}; {problem}", wanted, _SOURCE)
    if list(run.scales) != halved or len(run.scales) < 2:
        return failed(f"{observed}: not halved", wanted, _SOURCE)
    if run.moved or run.wild:
        return failed(f"{observed}; {run.moved} weights changed, {run.wild} not finite", wanted, _SOURCE)
    return passed(f"{observed}; no weight changed", wanted, _SOURCE)


@_check(
    "not-repeatable",
    "Repeatability of a training run",
    of=measured("repeat", RepeatFacts, leads=True),
    needs=("repeat",),
    row=46,
)
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


@_check(
    "resume-differs",
    "Resumed run compared with an uninterrupted one",
    of=measured("repeat", RepeatFacts),
    needs=("repeat",),
)
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
