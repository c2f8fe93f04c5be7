"""Check numerics, the GradScaler, resuming, reproducibility, and several GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from envforge.verify.findings import (
    OfDevice,
    absent,
    check_of_device,
    failed,
    on_each_device,
    on_training,
    passed,
    skipped,
    subject_of,
)
from envforge.verify.judging import counted
from envforge.verify.training.facts import DeviceFacts, KernelFacts, RepeatFacts, ScalerFacts, TrainingFacts
from envforge.verify.training.learning import cause_of
from envforge.verify.values import Check, Judgement, Signal, Verdict

# four to five times the rounding error of the dtype; a wrong kernel is off by orders of magnitude
# attention keeps its probabilities in low precision, so it is less exact
_BOUNDS = {"bf16": 0.02, "fp16": 0.004}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}


def _kernel(measure: str) -> OfDevice:
    def judge(device: DeviceFacts) -> Judgement:
        signal: Signal[KernelFacts] = getattr(device, measure)
        kernel = signal.value
        if kernel is None:
            return absent(device, measure, leads=True)
        bound = _BOUNDS[kernel.dtype]
        worst = [error for error in kernel.errors if error is not None]
        said = f"{kernel.dtype}, {' and '.join(kernel.shapes)}: "
        wanted = f"result and gradients within {bound:g} of float64"
        if len(worst) < len(kernel.errors):
            return failed(f"{said}a result or gradient is not finite", wanted, signal.source, command=_LOOK)
        if kernel.result_dtype != _DTYPES[kernel.dtype]:
            return failed(
                f"{said}the result is {kernel.result_dtype}", f"{kernel.dtype}, like the inputs", signal.source
            )
        if max(worst) > bound:
            return failed(f"{said}off by {max(worst):.2g}", wanted, signal.source, command=_LOOK)
        return passed(f"{said}off by {max(worst):.2g} at most", wanted=wanted, source=signal.source)

    return judge


_LOOK = "envforge verify machine"


def _same_bits(device: DeviceFacts) -> Judgement:
    facts = device.same_bits.value
    if facts is None:
        return absent(device, "same_bits", leads=True)
    if facts.different:
        return failed(
            f"{facts.different + 1} different results in {facts.times} runs of the same product",
            "bit-identical results",
            device.same_bits.source,
            why="The hardware computes wrong results without an error, so no result of this GPU can be trusted.",
            command=_LOOK,
        )
    return passed(f"{facts.times} bit-identical results", source=device.same_bits.source)


def _agree(facts: TrainingFacts) -> Iterator[Judgement]:
    """Compare the bits of the same kernels on GPUs of one model."""
    models: dict[str, list[DeviceFacts]] = {}
    for device in facts.devices:
        if device.is_gpu and device.same_bits.value is not None:
            models.setdefault(device.name, []).append(device)
    groups = {name: devices for name, devices in models.items() if len(devices) > 1}
    if not groups:
        yield skipped("no two GPUs of the same model were measured with --deep")
    for name, devices in groups.items():
        found: dict[tuple[str, ...], list[DeviceFacts]] = {}
        for device in devices:
            if device.same_bits.value is not None:
                found.setdefault(device.same_bits.value.digests, []).append(device)
        most = max(found.values(), key=len)
        others = [subject_of(device) for group in found.values() if group is not most for device in group]
        if others:
            judgement = failed(
                f"different results on {', '.join(others)}", "bit-identical results on all GPUs", command=_LOOK
            )
        else:
            judgement = passed(f"{len(devices)} GPUs compute bit-identical results")
        yield replace(judgement, subject=name)


def _check(measure: str, title: str) -> Check:
    return Check(
        id=f"{measure}-wrong",
        question="training",
        group="numerics",
        title=title,
        why="Only running a kernel, forward and backward, shows that this build computes correctly on this GPU.",
        severity=Verdict.FAIL,
        judge=on_each_device(_kernel(measure)),
        required=True,
        row=9,
    )


CHECKS = (
    _check("matmul", "Low-precision matrix products"),
    _check("convolution", "Low-precision convolutions"),
    _check("attention", "Low-precision attention"),
    Check(
        id="bits-change",
        question="training",
        group="numerics",
        title="Repeatability of a kernel",
        why="A GPU that sometimes computes wrong results reports no error; only the loss drifts.",
        severity=Verdict.FAIL,
        judge=on_each_device(_same_bits),
        cost="deep",
        row=46,
    ),
    Check(
        id="gpus-disagree",
        question="training",
        group="numerics",
        title="Agreement of GPUs of one model",
        why="If one GPU differs from its equals, it is the broken one.",
        severity=Verdict.FAIL,
        judge=on_training(_agree),
        cost="deep",
        row=46,
    ),
)


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


_scaling_check = partial(check_of_device, group="learning")

SCALING_CHECKS = (
    _scaling_check(
        "scaled-gradients-wrong",
        "Scaled fp16 gradients compared with fp32",
        "Clipping before unscale_, or an unscaled loss, shrinks every update, so the loss doesn't change.",
        _gradients,
    ),
    _scaling_check(
        "scaler-no-step",
        "GradScaler on clean updates",
        "A scaler that skips every update leaves the weights unchanged, without an error.",
        _steps,
    ),
    _scaling_check(
        "scaler-no-backoff",
        "GradScaler after an overflow",
        "If the scale doesn't decrease after an overflow, all following updates are skipped.",
        _backs_off,
    ),
    _scaling_check(
        "not-repeatable",
        "Repeatability of a training run",
        "A run that can't be repeated can't be debugged or compared.",
        _repeats,
        row=46,
    ),
    _scaling_check(
        "resume-differs",
        "Resumed run compared with an uninterrupted one",
        "A checkpoint without optimizer, random generators, or position continues a different run.",
        _resumes,
    ),
)


def _sum(facts: TrainingFacts) -> Iterator[Judgement]:
    collective = facts.collective.value
    if facts.collective_process is None:
        yield skipped("only one device; --deep tests two processes on the CPU")
    elif collective is None:
        yield failed(
            facts.collective.unreadable or "",
            "the same sum in every process",
            facts.collective.source,
            why="The usual reasons for a hang are P2P with ACS or IOMMU, or a firewall between the processes.",
            command="NCCL_DEBUG=INFO envforge verify train",
        )
    else:
        wanted = collective.ranks * (collective.ranks + 1) / 2
        speed = f"{collective.bus_bytes_per_s / 1e9:.2f} GB/s bus bandwidth over {collective.backend}"
        if any(found != wanted for found in collective.sums):
            sums = ", ".join(map(str, collective.sums))
            yield failed(f"the sums are {sums}", f"{wanted:g} in each", facts.collective.source)
        else:
            yield passed(f"{wanted:g} in {collective.ranks} processes; {speed}", source=facts.collective.source)


MULTI_GPU_CHECKS = (
    Check(
        id="all-reduce-wrong",
        question="training",
        group="several-gpus",
        title="All-reduce over several processes",
        why="Multi-GPU training adds gradients. A link that hangs or computes wrong sums stops or corrupts it.",
        severity=Verdict.FAIL,
        judge=on_training(_sum),
        cost="default",
        row=45,
    ),
)
