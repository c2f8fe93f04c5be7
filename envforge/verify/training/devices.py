"""Check the devices: which were used, how their processes exited, their kernels, and the precision of training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace

from envforge.verify.judging import (
    Judged,
    View,
    as_judgements,
    check,
    counted,
    facts_of,
    failed,
    info,
    passed,
    skipped,
    unknown,
    unread,
    warned,
)
from envforge.verify.record import Record
from envforge.verify.training.facts import (
    MEASUREMENTS,
    DeviceFacts,
    KernelFacts,
    LearningFacts,
    SameBitsFacts,
    TrainingFacts,
)
from envforge.verify.values import Check, Judgement, Signal, Verdict

T = TypeVar("T")


def _judged(record: Record, judge: Callable[[TrainingFacts], Judged]) -> Iterator[Judgement]:
    for judgement in facts_of("training").judged(record, judge):
        needs_command = judgement.verdict is Verdict.FAIL and not judgement.command
        yield replace(judgement, command="envforge verify train --deep") if needs_command else judgement


def _judged_devices(record: Record, judge: Callable[[DeviceFacts], Judged]) -> Iterable[Judgement]:
    def all_devices(facts: TrainingFacts) -> Iterator[Judgement]:
        if not facts.devices:
            yield skipped(f"nothing was measured: {facts.unreadable}")
        for device in facts.devices:
            yield from (replace(found, subject=name_of(device)) for found in as_judgements(judge(device)))

    return _judged(record, all_devices)


TRAINING: View[TrainingFacts] = View(question="training", judged=_judged)
EACH_DEVICE: View[DeviceFacts] = View(question="training", judged=_judged_devices)


def measured(name: str, _kind: type[T], *, leads: bool = False) -> View[T]:
    """Return the view of one measurement of each device; without a value, it returns the judgement of ``absent``."""

    def value_of(device: DeviceFacts) -> T | Judgement:
        signal: Signal[T] = getattr(device, name)
        return absent(device, name, leads=leads) if signal.value is None else signal.value

    return EACH_DEVICE.part(value_of, (name,))


def absent(device: DeviceFacts, name: str, *, leads: bool = False) -> Judgement:
    """Return the judgement of a check whose measurement has no value.

    A measurement that wasn't requested is SKIP, and one that the process didn't reach is UNKNOWN. One that raised or
    killed the process fails the check that leads it; the other checks that need it are skipped.
    """
    signal: Signal[Any] = getattr(device, name)
    # the order matters: what wasn't requested can't have raised, and without a project nothing was reached
    if name not in device.asked:
        return skipped("not measured at this depth" if device.asked else "nothing was measured")
    if device.project.value is None and MEASUREMENTS[name].of_project:  # `project-not-importable` reports it
        return skipped(f"the project was not usable: {device.project.unreadable}")
    if name not in device.raised and device.running != name:
        return unread(signal, f"no measurement `{name}`")
    if not leads:
        return skipped(f"the measurement `{name}` did not finish")
    return failed(f"{signal.unreadable}", "a measurement without an error", signal.source)


def name_of(device: DeviceFacts) -> str:
    """Return the name of a device in findings."""
    return f"{device.device} {device.name}".strip()


_learning = partial(check, group="learning", cost="default")
_numerics = partial(check, group="numerics")
_deep = partial(_numerics, cost="deep", row=46)


@_learning("trains-on-gpu", "Training device", of=TRAINING, required=True, needs=("device",))
def _trains_on_gpu(facts: TrainingFacts) -> Judgement:
    """Training that falls back to the CPU runs without an error, tens of times slower."""
    locked, names = facts.locked.value, ", ".join(gpu.name for gpu in facts.machine_gpus)
    reason, command = facts.no_gpu or "torch finds no GPU", "envforge verify env"
    if facts.unreadable is not None:
        observed = f"nothing was measured: {facts.unreadable}"
        return unknown(observed, "a complete environment with torch", command="envforge install")
    if any(device.is_gpu for device in facts.devices):
        found = ", ".join(device.name for device in facts.devices if device.is_gpu)
        return passed(f"measured on {found}", source="torch")
    if locked is not None and locked.cuda is not None:  # empty: CUDA of an unknown version
        observed = f"measured on the CPU: {reason}; the machine has {names or 'no GPU that its driver reports'}"
        wanted = f"a GPU: the lockfile contains torch {locked.version} for CUDA {locked.cuda}".strip()
        return failed(observed, wanted, facts.locked.source, command=command)
    if facts.driver is not None and facts.machine_gpus and locked is None:
        observed = f"measured on the CPU: {reason}, although driver {facts.driver} reports {names}"
        return failed(observed, "training on the GPU", command=command)
    # the lockfile decides what was wanted: a CPU build on a machine with a GPU is a choice
    if facts.machine_gpus:
        observed = f"measured on the CPU, because the lockfile contains a CPU build, although there is {names}"
        return info(observed, source=facts.locked.source)
    return passed("measured on the CPU: there is no GPU, and none is required. The result doesn't apply to GPUs")


_SIGNALS = {
    "SIGILL": "SIGILL: a library was built for a newer CPU.",
    "SIGSEGV": "SIGSEGV: usually a library of another build, or two OpenMP runtimes in one process.",
    "SIGKILL": "SIGKILL: usually the kernel, because the machine ran out of memory; see dmesg.",
    "SIGBUS": "SIGBUS: usually a full /dev/shm.",
}


@_learning("process-died", "Exit of the measuring process", of=EACH_DEVICE, required=True, needs=("device",))
def _process_died(device: DeviceFacts) -> Judgement:
    """A crash or hang in the driver or a library stops the complete training run."""
    end = device.process
    # exit code 0 in the middle of a measurement is no success
    if device.running is None and end.is_good:
        return passed(f"{counted(len(device.asked), 'measurement')} in {end.seconds:.0f} s")
    # a traceback ends with its cause
    last = end.stderr.splitlines()[-1][:400] if end.stderr else "nothing"
    where = f" during `{device.running}`" if device.running else ""
    why = "The driver or a library hangs, or the machine is too slow for the limit."
    longer = f"envforge verify train --limit {end.limit_s * 4:g}"
    return failed(
        f"{end.in_words}{where}; last line of stderr: {last}",
        "exit code 0",
        why=why if end.is_late else _SIGNALS.get(end.signal or "", ""),
        command=longer if end.is_late else "envforge verify env",
    )


@_learning("project-not-importable", "Import of the project's training code", of=EACH_DEVICE, needs=("project",))
def _project_not_importable(device: DeviceFacts) -> Judgement:
    """If the code can't be imported, it can't be trained."""
    package, reason = device.project.value, device.project.unreadable
    if "project" not in device.asked:
        return skipped(reason or "the project was not requested")
    if package is not None:
        return passed(f"the package `{package}` was imported", source=device.project.source)
    if "project" in device.raised or device.running == "project":
        return failed(reason or "", "a successful import of the project's `train` module", command="git diff")
    return unknown(reason or "the project was not imported")


# four to five times the rounding error of the dtype; a wrong kernel is off by orders of magnitude
# attention keeps its probabilities in low precision, so it is less exact
_BOUNDS = {"bf16": 0.02, "fp16": 0.004}
_DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_MACHINE = "envforge verify machine"


def _kernel_check(name: str, title: str) -> Check:
    @_numerics(f"{name}-wrong", title, of=measured(name, KernelFacts, leads=True), required=True, row=9)
    def judge(kernel: KernelFacts) -> Judgement:
        """Only running a kernel, forward and backward, shows that this build computes correctly on this GPU."""
        return _kernel(f"measurement `{name}`", kernel)

    return judge


def _kernel(source: str, kernel: KernelFacts) -> Judgement:
    bound, errors = _BOUNDS[kernel.dtype], [error for error in kernel.errors if error is not None]
    what = f"{kernel.dtype}, {' and '.join(kernel.shapes)}: "
    wanted = f"result and gradients within {bound:g} of float64"
    # None stands for a number that isn't finite, which JSON lacks
    if len(errors) < len(kernel.errors):
        return failed(f"{what}a result or gradient is not finite", wanted, source, command=_MACHINE)
    if kernel.result_dtype != _DTYPES[kernel.dtype]:
        return failed(f"{what}the result is {kernel.result_dtype}", f"{kernel.dtype}, like the inputs", source)
    if max(errors) > bound:
        return failed(f"{what}off by {max(errors):.2g}", wanted, source, command=_MACHINE)
    return passed(f"{what}off by {max(errors):.2g} at most", wanted, source)


_matmul_wrong = _kernel_check("matmul", "Low-precision matrix products")
_convolution_wrong = _kernel_check("convolution", "Low-precision convolutions")
_attention_wrong = _kernel_check("attention", "Low-precision attention")


@_deep("bits-change", "Repeatability of a kernel", of=measured("same_bits", SameBitsFacts, leads=True))
def _bits_change(facts: SameBitsFacts) -> Judgement:
    """A GPU that sometimes computes wrong results reports no error; only the loss drifts."""
    source = "measurement `same_bits`"
    if not facts.different:
        return passed(f"{facts.times} bit-identical results", source=source)
    return failed(
        f"{facts.different + 1} different results in {facts.times} runs of the same product",
        "bit-identical results",
        source,
        why="The hardware computes wrong results without an error, so no result of this GPU can be trusted.",
        command=_MACHINE,
    )


@_deep("gpus-disagree", "Agreement of GPUs of one model", of=TRAINING, needs=("same_bits",))
def _gpus_disagree(facts: TrainingFacts) -> Iterator[Judgement]:
    """If one GPU differs from its equals, it is the broken one."""
    # compare the bits of the same kernels on GPUs of one model
    models: dict[str, dict[tuple[str, ...], list[str]]] = {}
    for device in facts.devices:
        if device.is_gpu and device.same_bits.value is not None:
            by_digests = models.setdefault(device.name, {})
            by_digests.setdefault(device.same_bits.value.digests, []).append(name_of(device))
    several = {model: found for model, found in models.items() if sum(map(len, found.values())) > 1}
    if not several:
        yield skipped("no two GPUs of the same model were measured with --deep")
    for model, found in several.items():
        most = max(found.values(), key=len)  # of two that differ, either can be the broken one
        others = ", ".join(name for names in found.values() if names is not most for name in names)
        if others:
            wanted = "bit-identical results on all GPUs"
            yield failed(f"different results on {others}", wanted, subject=model, command=_MACHINE)
        else:
            yield passed(f"{len(most)} GPUs compute bit-identical results", subject=model)


LEARNING = measured("learning", LearningFacts)
_MODEL = "a hook on the model, in the first update"
_FIRST_UPDATE = "operations of the first update"


@_learning("low-precision", "Low precision of this device", of=EACH_DEVICE, severity=Verdict.INFO, needs=("device",))
def _low_precision(device: DeviceFacts) -> Judgement:
    """torch reports bf16 as supported even if it is emulated and slow."""
    if device.low is None:
        return skipped("the device did not report its capabilities")
    if not device.is_gpu:
        return info("bf16 on the CPU; without a GPU, its precision is not measured")
    if device.low == "bf16":
        return info(f"compute capability {device.capability}: bf16 in hardware, without loss scaling")
    return info(f"compute capability {device.capability}: bf16 is only emulated, so fp16 with a GradScaler")


@_learning("autocast-off", "Autocast in the forward pass", of=LEARNING)
def _autocast_off(facts: LearningFacts) -> Judgement:
    """Without autocast, training runs in fp32: correct, but slower, and without a message."""
    dtype = _DTYPES.get(facts.precision)
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


@_learning("low-precision-unused", "Precision of heavy operations", of=LEARNING)
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


@_learning("backward-in-autocast", "Autocast in the backward pass", of=LEARNING, severity=Verdict.WARN)
def _backward_in_autocast(facts: LearningFacts) -> Judgement:
    """The backward pass uses the dtypes of the forward pass; PyTorch recommends against autocast around it."""
    if facts.autocast_backward is None:
        return skipped("no gradient was observed")
    if facts.autocast_backward:
        return warned("the backward pass runs inside autocast", "a backward pass outside autocast", _MODEL)
    return passed("the backward pass runs outside autocast", source=_MODEL)
