"""Check speed: AMP and fp32, the expected speed of this GPU, clocks under load, copies, and torch.compile."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from envforge.verify.findings import absent, check_of_device, failed, info, on_each_device, passed, skipped, warned
from envforge.verify.machine.reference_data import is_bad_reason
from envforge.verify.training.facts import DeviceFacts, LoadFacts, SpeedRun
from envforge.verify.values import Check, Judgement, Verdict

_GIB = 2**30
# GB/s per lane and direction, after encoding: PCI-SIG base specifications 1.0 to 6.0
_LANE = {1: 0.25, 2: 0.5, 3: 0.985, 4: 1.969, 5: 3.938, 6: 7.563}
_SHARE = 0.7  # of the rate of the PCIe link, which copies must reach
_SAME = 0.1  # AMP may be slower than fp32 by this share without a warning
_BY_CHOICE = ("idle", "application clocks", "sync boost", "display clocks")
_LONGER = "envforge verify --only compile-fails --limit 480"
_PCI = (
    "nvidia-smi --query-gpu=name,pcie.link.gen.current,pcie.link.gen.max,pcie.link.width.current,pcie.link.width.max "
    "--format=csv"
)
_LOOK = "nvidia-smi -q -d PERFORMANCE,CLOCK,POWER,TEMPERATURE"


def _amp(device: DeviceFacts) -> Judgement:
    """Compare AMP with fp32: a fact on a CPU, a warning on a GPU if AMP is slower."""
    if device.compare.value is None:
        return absent(device, "compare", leads=True)
    runs = device.compare.value.runs
    if len(runs) < 2:
        return skipped("nothing to compare with")
    amp, others = runs[0], runs[1:]
    said = f"{_run(amp)}; " + "; ".join(f"{_run(run)}: AMP {run.step_s / amp.step_s:.2f}x" for run in others)
    source = f"the project's own step, batch {amp.batch}, median of {amp.steps}"
    slowest = min(run.step_s / amp.step_s for run in others if run.fp32 == "ieee")
    if device.is_gpu and slowest < 1 - _SAME:
        return warned(
            said,
            "AMP at least as fast as fp32",
            source,
            why="The speed of a model this small is limited by kernel launches, so AMP adds cost without a gain.",
            command=f"envforge run python -m {device.project.value}.train --precision fp32",
        )
    return info(said, source=source)


def _run(run: SpeedRun) -> str:
    name = f"fp32 ({run.fp32})" if run.fp32 else f"AMP {run.precision}"
    memory = f", {run.peak_memory_bytes / _GIB:.2f} GiB" if run.peak_memory_bytes is not None else ""
    return f"{name} {run.step_s * 1000:.1f} ms{memory}"


def _agrees(device: DeviceFacts) -> Judgement:
    """Compare the losses of both, which have the same data and seeds."""
    if device.compare.value is None:
        return absent(device, "compare")
    runs = device.compare.value.runs
    if len(runs) < 2:
        return skipped("nothing to compare with")
    ends = []
    for run in runs:
        known = [loss for loss in run.losses if loss is not None]
        part = known[-max(1, len(known) // 4) :]
        ends.append(sum(part) / len(part) if part and len(known) == len(run.losses) else None)
    if any(end is None for end in ends):
        return skipped("a loss is not finite: see `loss-not-finite`")
    amp, full = float(ends[0] or 0.0), float(ends[1] or 0.0)
    said = f"mean loss of the last quarter: {runs[0].precision} {amp:.3f}, fp32 {full:.3f}"
    first = next((loss for loss in runs[1].losses if loss is not None), 1.0)
    wanted = "a difference of at most a tenth of the first loss"
    if abs(amp - full) > 0.1 * max(abs(first), 1e-9):
        return warned(said, wanted, "the project's own training", command="envforge verify train --html verify.html")
    return passed(said, wanted=wanted, source="the project's own training")


def _floor(device: DeviceFacts) -> Judgement:
    measured, floor = device.throughput.value, device.floor.value
    if not device.is_gpu:
        return skipped("no GPU; there is no expected speed for CPUs")
    if measured is None:
        return absent(device, "throughput", leads=True)
    said = f"{measured.low_tflops:.1f} TFLOPS in {measured.dtype}, {measured.fp32_tflops:.1f} in fp32 (ieee)"
    if floor is None:
        return info(f"{said}; {device.floor.unreadable}", source=f"products of {measured.size} by {measured.size}")
    wanted = (
        f"at least {floor.floor_tflops:g} TFLOPS for {floor.model}, which is known to reach {floor.reference_tflops:g}"
    )
    source = f"{floor.source}, {floor.checked}"
    if measured.low_tflops >= floor.floor_tflops:
        return passed(said, wanted=wanted, source=source)
    cause = _cause(device.load.value)
    if measured.low_tflops < floor.floor_tflops / 2:
        return failed(f"{said}{cause}", wanted, source, command=_LOOK)
    return warned(f"{said}{cause}", wanted, source, command=_LOOK)


def _cause(load: LoadFacts | None) -> str:
    """Return what NVML reported at that time, if it explains a slow GPU."""
    if load is None:
        return ""
    held = [name for name in load.reasons or () if name not in _BY_CHOICE]
    if held:
        return f": throttled by {', '.join(held)}"
    if load.sm_clock_mhz and load.max_sm_clock_mhz and load.sm_clock_mhz < load.max_sm_clock_mhz / 2:
        return f": its clock runs at {load.sm_clock_mhz} of {load.max_sm_clock_mhz} MHz"
    return ": NVML reports no reason; another program may use the GPU"


def _throttle(device: DeviceFacts) -> Judgement:
    load = device.load.value
    if not device.is_gpu:
        return skipped("no GPU")
    if "throughput" not in device.asked:
        return skipped("not measured at this depth")
    if load is None or load.reasons is None:
        why = device.load.unreadable or "NVML does not report the reasons for the clocks of this GPU"
        return Judgement(
            verdict=Verdict.UNKNOWN, observed=f"clocks under load: {why}", source=device.load.source, command=_LOOK
        )
    said = f"{load.sm_clock_mhz or '?'} of {load.max_sm_clock_mhz or '?'} MHz"
    if load.power_w is not None:
        said += f", {load.power_w:.0f} of {load.power_limit_w or 0:.0f} W"
    if load.temperature_c is not None:
        said += f", {load.temperature_c} °C"
    seen = [f"{name} in {count} of {load.samples} samples" for name, count in load.reasons.items()]
    said += f"; {', '.join(seen)}" if seen else ""
    wanted = "no hardware or thermal throttling under load"
    # a single sample can be a spike; a third of all samples is a persistent state
    if any(count * 3 >= load.samples for name, count in load.reasons.items() if is_bad_reason(name)):
        return warned(said, wanted, device.load.source, command=_LOOK)
    return passed(said, wanted=wanted, source=device.load.source)


def _copies(device: DeviceFacts) -> Judgement:
    copies, load = device.transfer.value, device.load.value
    if not device.is_gpu:
        return skipped("no GPU")
    if copies is None:
        return absent(device, "transfer", leads=True)
    up, down = copies.to_device_bytes_per_s / 1e9, copies.from_device_bytes_per_s / 1e9
    said = f"{up:.1f} GB/s to the GPU, {down:.1f} GB/s back"
    if load is None or not load.pcie_generation or not load.pcie_width or load.pcie_generation not in _LANE:
        return info(f"{said}; the PCIe link is unknown, so there is nothing to compare with")
    link = _LANE[load.pcie_generation] * load.pcie_width
    slower = _below_its_link(load)
    if slower:
        wanted = f"PCIe {load.pcie_max_generation} with {load.pcie_max_width} lanes, which GPU and machine support"
        return warned(f"{slower} under load; {said}", wanted, device.load.source, command=_PCI)
    wanted = (
        f"at least {_SHARE * link:.1f} GB/s: {_SHARE:g} of PCIe {load.pcie_generation} with {load.pcie_width} lanes"
    )
    if min(up, down) < _SHARE * link:
        return warned(said, wanted, "pinned memory, 256 MiB; NVML", command=_PCI)
    return passed(said, wanted=wanted, source="pinned memory, 256 MiB; NVML")


def _below_its_link(load: LoadFacts) -> str:
    """Return how the link under load is below what GPU and machine support. When idle, that is normal."""
    parts = (
        (load.pcie_width, load.pcie_max_width, "{} of {} PCIe lanes"),
        (load.pcie_generation, load.pcie_max_generation, "PCIe generation {} of {}"),
    )
    return ", ".join(words.format(now, best) for now, best, words in parts if now and best and now < best)


def _compiled(device: DeviceFacts) -> Judgement:
    facts = device.compiled.value
    if facts is None:
        lacking = absent(device, "compiled", leads=True)
        return replace(lacking, command=_LONGER) if lacking.verdict is Verdict.UNKNOWN else lacking
    pairs = (
        (facts.eager_loss, facts.compiled_loss, "loss"),
        (facts.eager_gradient_norm, facts.compiled_gradient_norm, "gradient norm"),
    )
    said = ", ".join(f"{name} {one}, compiled {other}" for one, other, name in pairs)
    wanted = "equal within 5 %"
    if any(one is None or other is None or abs(one - other) > 0.05 * abs(one) + 1e-3 for one, other, _ in pairs):
        return failed(said, wanted, "one step of the project's training")
    return passed(f"one step in {facts.seconds:.0f} s including compilation; {said}", wanted=wanted)


def _models(device: DeviceFacts) -> Judgement:
    """List step time and memory of each model, AMP first."""
    if not device.is_gpu:
        return skipped("no GPU; these models take minutes on a CPU")
    if device.models.value is None:
        return absent(device, "models", leads=True)
    lines = []
    for run in device.models.value.runs:
        name = f"fp32 ({run.fp32})" if run.fp32 else f"AMP {run.precision}"
        if run.step_s is None:
            lines.append(f"{run.model} batch {run.batch} {name}: {run.error}")
            continue
        memory = f", {run.peak_memory_bytes / _GIB:.2f} GiB" if run.peak_memory_bytes is not None else ""
        lines.append(f"{run.model} batch {run.batch} {name}: {run.step_s * 1000:.1f} ms{memory}")
    return info("; ".join(lines), source="forward, backward and AdamW on random pixels; median of 7 steps")


_check = partial(check_of_device, group="speed", severity=Verdict.WARN)

CHECKS = (
    _check(
        "amp-speed",
        "Speed of AMP and fp32",
        "AMP is used for its speed and memory savings, which depend on the model and GPU.",
        _amp,
    ),
    _check(
        "amp-differs",
        "Loss of AMP and fp32",
        "If the low-precision loss diverges from fp32, the low precision reduces what is learned.",
        _agrees,
    ),
    Check(
        id="speed-floor",
        question="training",
        group="speed",
        title="Speed of the GPU",
        why="A MIG slice, a throttled GPU, or a hidden CPU fallback is slow, without an error.",
        severity=Verdict.FAIL,
        judge=on_each_device(_floor),
        cost="default",
    ),
    _check(
        "throttled-under-load",
        "Clocks under load",
        "Cooling and power problems appear only under load.",
        _throttle,
        row=23,
    ),
    _check(
        "slow-copies",
        "Copy bandwidth over PCIe",
        "On a link with fewer lanes or an older generation, the GPU waits for data.",
        _copies,
        row=26,
    ),
    Check(
        id="model-speed",
        question="training",
        group="speed",
        title="Speed and memory of reference models",
        why="A project's model can be too small for a GPU; published figures are about models of this size.",
        severity=Verdict.INFO,
        judge=on_each_device(_models),
        cost="deep",
    ),
    Check(
        id="compile-fails",
        question="training",
        group="speed",
        title="Result of torch.compile",
        why="torch.compile needs a compiler and triton, and can silently change autocast in the backward pass.",
        severity=Verdict.FAIL,
        judge=on_each_device(_compiled),
        cost="deep",
        row=48,
    ),
)
