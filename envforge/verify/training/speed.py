"""Check speed: AMP and fp32, the GPU, its clocks under load, copies, torch.compile, and an all-reduce."""

from __future__ import annotations

from functools import partial

from msgspec.structs import replace

from envforge.verify.judging import check, failed, info, passed, skipped, unknown, warned
from envforge.verify.machine.reference_data import is_bad_reason
from envforge.verify.training.devices import EACH_DEVICE, TRAINING, absent, measured
from envforge.verify.training.facts import (
    CompareFacts,
    DeviceFacts,
    LoadFacts,
    ModelRun,
    Number,
    SpeedRun,
    TrainingFacts,
)
from envforge.verify.values import Judgement, Verdict

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

_check = partial(check, group="speed", cost="default")
_of_gpu = partial(_check, of=EACH_DEVICE, severity=Verdict.WARN)
_collective = partial(_check, group="several-gpus", needs=("collective",))


@_of_gpu("amp-speed", "Speed of AMP and fp32", needs=("compare",))
def _amp_speed(device: DeviceFacts) -> Judgement:
    """AMP is used for its speed and memory savings, which depend on the model and GPU."""
    # compare AMP with fp32: a fact on a CPU, a warning on a GPU if AMP is slower
    if device.compare.value is None:
        return absent(device, "compare", leads=True)
    runs = device.compare.value.runs
    if len(runs) < 2:
        return skipped("nothing to compare with")
    amp, others = runs[0], runs[1:]
    observed = f"{_run(amp)}; " + "; ".join(f"{_run(run)}: AMP {run.step_s / amp.step_s:.2f}x" for run in others)
    source = f"the project's own step, batch {amp.batch}, median of {amp.steps}"
    # against ieee only: TF32 is a lower precision itself
    slowest = min(run.step_s / amp.step_s for run in others if run.fp32 == "ieee")
    # on a CPU, the speed of AMP decides nothing
    if device.is_gpu and slowest < 1 - _SAME:
        return warned(
            observed,
            "AMP at least as fast as fp32",
            source,
            why="The speed of a model this small is limited by kernel launches, so AMP adds cost without a gain.",
            command=f"envforge run python -m {device.project.value}.train --precision fp32",
        )
    return info(observed, source=source)


def _run(run: SpeedRun | ModelRun) -> str:
    memory = f", {run.peak_memory_bytes / 2**30:.2f} GiB" if run.peak_memory_bytes is not None else ""
    return f"{run.label} {(run.step_s or 0.0) * 1000:.1f} ms{memory}"


@_check("amp-differs", "Loss of AMP and fp32", of=measured("compare", CompareFacts), severity=Verdict.WARN)
def _amp_differs(facts: CompareFacts) -> Judgement:
    """If the low-precision loss diverges from fp32, the low precision reduces what is learned."""
    # compare the losses of both, which have the same data and seeds
    if len(facts.runs) < 2:
        return skipped("nothing to compare with")
    amp_run, full_run = facts.runs[:2]
    amp, full = _last_quarter(amp_run.losses), _last_quarter(full_run.losses)
    if amp is None or full is None:
        return skipped("a loss is not finite: see `loss-not-finite`")
    observed = f"mean loss of the last quarter: {amp_run.precision} {amp:.3f}, fp32 {full:.3f}"
    first, source = full_run.losses[0] or 0.0, "the project's own training"
    wanted = "a difference of at most a tenth of the first loss"
    if abs(amp - full) > 0.1 * max(abs(first), 1e-9):
        return warned(observed, wanted, source, command="envforge verify train --html verify.html")
    return passed(observed, wanted, source)


def _last_quarter(losses: tuple[Number, ...]) -> float | None:
    """Return the mean, or None if a loss isn't finite."""
    finite = [loss for loss in losses if loss is not None]
    part = finite[-max(1, len(losses) // 4) :]
    return sum(part) / len(part) if part and len(finite) == len(losses) else None


@_of_gpu("speed-floor", "Speed of the GPU", needs=("throughput",), severity=Verdict.FAIL)
def _speed_floor(device: DeviceFacts) -> Judgement:
    """A MIG slice, a throttled GPU, or a hidden CPU fallback is slow, without an error."""
    found, floor = device.throughput.value, device.floor.value
    if not device.is_gpu:
        return skipped("no GPU; there is no expected speed for CPUs")
    if found is None:
        return absent(device, "throughput", leads=True)
    observed = f"{found.low_tflops:.1f} TFLOPS in {found.dtype}, {found.fp32_tflops:.1f} in fp32 (ieee)"
    if floor is None:
        return info(f"{observed}; {device.floor.unreadable}", source=f"products of {found.size} by {found.size}")
    wanted = (
        f"at least {floor.floor_tflops:g} TFLOPS for {floor.model}, which is known to reach {floor.reference_tflops:g}"
    )
    source = f"{floor.source}, {floor.checked}"
    if found.low_tflops >= floor.floor_tflops:
        return passed(observed, wanted, source)
    # at most a fifth of the published speed: broken, not only slow
    judgement = failed if found.low_tflops < floor.floor_tflops / 2 else warned
    return judgement(f"{observed}{_cause(device.load.value)}", wanted, source, command=_LOOK)


def _cause(load: LoadFacts | None) -> str:
    """Return what NVML reported at that time, if it explains a slow GPU."""
    if load is None:
        return ""
    held = [name for name in load.reasons or () if name not in _BY_CHOICE]
    if held:
        return f": throttled by {', '.join(held)}"
    # without a reason, a low clock still explains the speed
    if load.sm_clock_mhz and load.max_sm_clock_mhz and load.sm_clock_mhz < load.max_sm_clock_mhz / 2:
        return f": its clock runs at {load.sm_clock_mhz} of {load.max_sm_clock_mhz} MHz"
    return ": NVML reports no reason; another program may use the GPU"


@_of_gpu("throttled-under-load", "Clocks under load", needs=("throughput",), row=23)
def _throttled_under_load(device: DeviceFacts) -> Judgement:
    """Cooling and power problems appear only under load."""
    load = device.load.value
    if not device.is_gpu:
        return skipped("no GPU")
    if "throughput" not in device.asked:
        return skipped("not measured at this depth")
    if load is None or load.reasons is None:
        why = device.load.unreadable or "NVML does not report the reasons for the clocks of this GPU"
        return unknown(f"clocks under load: {why}", source=device.load.source, command=_LOOK)
    observed = f"{load.sm_clock_mhz or '?'} of {load.max_sm_clock_mhz or '?'} MHz"
    if load.power_w is not None:
        observed += f", {load.power_w:.0f} of {load.power_limit_w or 0:.0f} W"
    if load.temperature_c is not None:
        observed += f", {load.temperature_c} °C"
    seen = [f"{name} in {count} of {load.samples} samples" for name, count in load.reasons.items()]
    observed += f"; {', '.join(seen)}" if seen else ""
    wanted = "no hardware or thermal throttling under load"
    # a single sample can be a spike; a third of all samples is a persistent state
    if any(count * 3 >= load.samples for name, count in load.reasons.items() if is_bad_reason(name)):
        return warned(observed, wanted, device.load.source, command=_LOOK)
    return passed(observed, wanted, device.load.source)


@_of_gpu("slow-copies", "Copy bandwidth over PCIe", needs=("throughput", "transfer"), row=26)
def _slow_copies(device: DeviceFacts) -> Judgement:
    """On a link with fewer lanes or an older generation, the GPU waits for data."""
    copies, load = device.transfer.value, device.load.value
    if not device.is_gpu:
        return skipped("no GPU")
    if copies is None:
        return absent(device, "transfer", leads=True)
    up, down = copies.to_device_bytes_per_s / 1e9, copies.from_device_bytes_per_s / 1e9
    observed = f"{up:.1f} GB/s to the GPU, {down:.1f} GB/s back"
    if load is None or not load.pcie_generation or not load.pcie_width or load.pcie_generation not in _LANE:
        return info(f"{observed}; the PCIe link is unknown, so there is nothing to compare with")
    link = _LANE[load.pcie_generation] * load.pcie_width
    if slower := _below_its_link(load):
        wanted = f"PCIe {load.pcie_max_generation} with {load.pcie_max_width} lanes, which GPU and machine support"
        return warned(f"{slower} under load; {observed}", wanted, device.load.source, command=_PCI)
    wanted = (
        f"at least {_SHARE * link:.1f} GB/s: {_SHARE:g} of PCIe {load.pcie_generation} with {load.pcie_width} lanes"
    )
    source = "pinned memory, 256 MiB; NVML"
    is_slow = min(up, down) < _SHARE * link
    return warned(observed, wanted, source, command=_PCI) if is_slow else passed(observed, wanted, source)


def _below_its_link(load: LoadFacts) -> str:
    """Return how the link under load is below what GPU and machine support. When idle, that is normal."""
    parts = (
        (load.pcie_width, load.pcie_max_width, "{} of {} PCIe lanes"),
        (load.pcie_generation, load.pcie_max_generation, "PCIe generation {} of {}"),
    )
    return ", ".join(words.format(now, best) for now, best, words in parts if now and best and now < best)


@_of_gpu("model-speed", "Speed and memory of reference models", needs=("models",), severity=Verdict.INFO, cost="deep")
def _model_speed(device: DeviceFacts) -> Judgement:
    """A project's model can be too small for a GPU; published figures are about models of this size."""
    # list step time and memory of each model, AMP first
    if not device.is_gpu:
        return skipped("no GPU; these models take minutes on a CPU")
    if device.models.value is None:
        return absent(device, "models", leads=True)
    runs = [
        f"{run.model} batch {run.batch} " + (_run(run) if run.step_s is not None else f"{run.label}: {run.error}")
        for run in device.models.value.runs
    ]
    return info("; ".join(runs), source="forward, backward and AdamW on random pixels; median of 7 steps")


@_of_gpu("compile-fails", "Result of torch.compile", needs=("compiled",), cost="deep", row=48, severity=Verdict.FAIL)
def _compile_fails(device: DeviceFacts) -> Judgement:
    """torch.compile needs a compiler and triton, and can silently change autocast in the backward pass."""
    facts = device.compiled.value
    if facts is None:
        missing = absent(device, "compiled", leads=True)
        # a compilation can take longer than the limit, which is no failure
        return replace(missing, command=_LONGER) if missing.verdict is Verdict.UNKNOWN else missing
    pairs = (
        (facts.eager_loss, facts.compiled_loss, "loss"),
        (facts.eager_gradient_norm, facts.compiled_gradient_norm, "gradient norm"),
    )
    observed = ", ".join(f"{name} {one}, compiled {other}" for one, other, name in pairs)
    wanted = "equal within 5 %"  # compiled kernels round differently, and dropout may draw other numbers
    if any(one is None or other is None or abs(one - other) > 0.05 * abs(one) + 1e-3 for one, other, _ in pairs):
        return failed(observed, wanted, "one step of the project's training")
    return passed(f"one step in {facts.seconds:.0f} s including compilation; {observed}", wanted=wanted)


@_collective("all-reduce-wrong", "All-reduce over several processes", of=TRAINING, row=45)
def _all_reduce_wrong(facts: TrainingFacts) -> Judgement:
    """Multi-GPU training adds gradients. A link that hangs or computes wrong sums stops or corrupts it."""
    collective, source = facts.collective.value, facts.collective.source
    if facts.collective_process is None:
        return skipped("only one device; --deep tests two processes on the CPU")
    if collective is None:
        return failed(
            facts.collective.unreadable or "",
            "the same sum in every process",
            source,
            why="The usual reasons for a hang are P2P with ACS or IOMMU, or a firewall between the processes.",
            command="NCCL_DEBUG=INFO envforge verify train",
        )
    wanted = collective.ranks * (collective.ranks + 1) / 2  # each process adds its rank plus one
    if any(found != wanted for found in collective.sums):
        return failed(f"the sums are {', '.join(map(str, collective.sums))}", f"{wanted:g} in each", source)
    speed = f"{collective.bus_bytes_per_s / 1e9:.2f} GB/s bus bandwidth over {collective.backend}"
    return passed(f"{wanted:g} in {collective.ranks} processes; {speed}", source=source)
