"""Check the devices: which were trained on, how their processes exited, and whether their kernels compute correctly."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

from envforge.verify.judging import (
    Judged,
    View,
    as_judgements,
    check,
    counted,
    failed,
    info,
    passed,
    skipped,
    unknown,
    unread,
)
from envforge.verify.record import Record
from envforge.verify.training.facts import MEASUREMENTS, DeviceFacts, KernelFacts, SameBitsFacts, TrainingFacts
from envforge.verify.values import Check, Judgement, Signal, Verdict

T = TypeVar("T")


def _judged(record: Record, judge: Callable[[TrainingFacts], Judged]) -> Iterator[Judgement]:
    if record.training is None:
        yield skipped("nothing was trained")
    else:
        for judgement in as_judgements(judge(record.training)):
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

    def judged(record: Record, judge: Callable[[T], Judged]) -> Iterable[Judgement]:
        def one_device(device: DeviceFacts) -> Judged:
            signal: Signal[T] = getattr(device, name)
            return absent(device, name, leads=leads) if signal.value is None else judge(signal.value)

        return _judged_devices(record, one_device)

    return View(question="training", judged=judged)


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


@check(
    "trains-on-gpu", "Training device", of=TRAINING, group="learning", cost="default", required=True, needs=("device",)
)
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


@check(
    "process-died",
    "Exit of the measuring process",
    of=EACH_DEVICE,
    group="learning",
    cost="default",
    required=True,
    needs=("device",),
)
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


@check(
    "project-not-importable",
    "Import of the project's training code",
    of=EACH_DEVICE,
    group="learning",
    cost="default",
    needs=("project",),
)
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
DTYPES = {"bf16": "bfloat16", "fp16": "float16"}
_MACHINE = "envforge verify machine"


def _kernel_check(name: str, title: str) -> Check:
    @check(
        f"{name}-wrong",
        title,
        of=measured(name, KernelFacts, leads=True),
        group="numerics",
        required=True,
        row=9,
        needs=(name,),
    )
    def judge(kernel: KernelFacts) -> Judgement:
        """Only running a kernel, forward and backward, shows that this build computes correctly on this GPU."""
        return _kernel(f"measurement `{name}`", kernel)

    return judge


def _kernel(source: str, kernel: KernelFacts) -> Judgement:
    bound, errors = _BOUNDS[kernel.dtype], [error for error in kernel.errors if error is not None]
    what = f"{kernel.dtype}, {' and '.join(kernel.shapes)}: "
    wanted = f"result and gradients within {bound:g} of float64"
    if len(errors) < len(kernel.errors):
        return failed(f"{what}a result or gradient is not finite", wanted, source, command=_MACHINE)
    if kernel.result_dtype != DTYPES[kernel.dtype]:
        return failed(f"{what}the result is {kernel.result_dtype}", f"{kernel.dtype}, like the inputs", source)
    if max(errors) > bound:
        return failed(f"{what}off by {max(errors):.2g}", wanted, source, command=_MACHINE)
    return passed(f"{what}off by {max(errors):.2g} at most", wanted, source)


_matmul_wrong = _kernel_check("matmul", "Low-precision matrix products")
_convolution_wrong = _kernel_check("convolution", "Low-precision convolutions")
_attention_wrong = _kernel_check("attention", "Low-precision attention")


@check(
    "bits-change",
    "Repeatability of a kernel",
    of=measured("same_bits", SameBitsFacts, leads=True),
    group="numerics",
    cost="deep",
    row=46,
    needs=("same_bits",),
)
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


@check(
    "gpus-disagree",
    "Agreement of GPUs of one model",
    of=TRAINING,
    group="numerics",
    cost="deep",
    row=46,
    needs=("same_bits",),
)
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
