"""Compare kernels with float64, and check that they are repeatable."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from envforge.verify.environment.say import passed, skipped
from envforge.verify.training.facts import DeviceFacts, KernelFacts, TrainingFacts
from envforge.verify.training.say import OfDevice, absent, failed, on_each_device, on_training, subject_of
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
