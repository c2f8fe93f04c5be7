"""Build sample facts of training on one sound A100; each test changes one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.structs import replace

from envforge.base.process import ProcessEnd
from envforge.verify.environment.facts import LockedTorch, VisibleGpu
from envforge.verify.record import Record
from envforge.verify.training.facts import (
    MEASUREMENTS,
    CollectiveFacts,
    CompareFacts,
    CompiledFacts,
    DeviceFacts,
    GuardFacts,
    KernelFacts,
    LearningFacts,
    LoadFacts,
    ModelRun,
    ModelsFacts,
    RepeatFacts,
    SameBitsFacts,
    ScalerFacts,
    ScalerRun,
    SpeedFloor,
    SpeedRun,
    ThroughputFacts,
    TrainingFacts,
    TransferFacts,
)
from envforge.verify.values import Finding, Signal, Verdict
from tests.verify.made_up import NOW, checks_of, complaints_in, worst_findings

CHECKS = checks_of("training")
FALLING = tuple(2.4 * 0.95**update for update in range(60))
KERNEL = KernelFacts(dtype="bf16", result_dtype="bfloat16", shapes=("512x768", "768x640"), errors=(0.002, 0.002, 0.003))
LEARNING = LearningFacts(
    precision="bf16",
    updates=60,
    losses=FALLING,
    evaluation={"accuracy": 0.97, "loss": 0.1},
    skipped=0,
    seconds=2.0,
    weights=29,
    weights_moved=29,
    weights_wild=0,
    metric="accuracy",
    reach=0.9,
    ceiling=0.3,
    loss_ratio=5.0,
    skips=8.0,
    heavy=20,
    low=20,
    dtypes={"bfloat16": 20},
    autocast_forward=True,
    autocast_dtype="bfloat16",
    autocast_backward=False,
    parameters=29,
    gradient_norm=1.0,
)
CONTROL = replace(LEARNING, losses=(2.3,) * 59 + (2.31,), evaluation={"accuracy": 0.12})
CLEAN = ScalerRun(wanted_scale=256.0, scales=(256.0,) * 4, losses=(2.4, 2.3, 2.2), moved=29, weights=29, wild=0)
OVERFLOW = ScalerRun(wanted_scale=8.0, scales=(8.0, 4.0, 2.0, 1.0), losses=(2.4, 2.4, 2.4), moved=0, weights=29, wild=0)
SCALER = ScalerFacts(clean=CLEAN, overflow=OVERFLOW, gradient_error=0.03, gradient_ratio=1.0)
REPEAT = RepeatFacts(
    updates=4,
    losses=(2.4, 2.3, 2.2, 2.1),
    second_losses=(2.4, 2.3, 2.2, 2.1),
    resumed_losses=(2.2, 2.1),
    state="aa",
    second_state="aa",
    resumed_state="aa",
    optimizer="bb",
    resumed_optimizer="bb",
)
AMP = SpeedRun(precision="bf16", fp32=None, step_s=0.010, steps=57, batch=24, peak_memory_bytes=2**29, losses=FALLING)
FP32 = replace(AMP, precision="fp32", fp32="ieee", step_s=0.020, peak_memory_bytes=2**30)
FLOOR = SpeedFloor(
    model="A100", reference_tflops=312.0, floor_tflops=124.8, source="the product page", checked="2026-11-22"
)
LOAD = LoadFacts(
    samples=15,
    reasons={"software power cap": 15},
    sm_clock_mhz=1350,
    max_sm_clock_mhz=1410,
    power_w=395.0,
    power_limit_w=400.0,
    temperature_c=64,
    pcie_generation=4,
    pcie_width=16,
    pcie_max_generation=4,
    pcie_max_width=16,
)
COMPILED = CompiledFacts(
    seconds=21.0, eager_loss=2.4, compiled_loss=2.4, eager_gradient_norm=1.5, compiled_gradient_norm=1.5
)
ASKED = tuple(MEASUREMENTS)
DEVICE: Mapping[str, Any] = {
    "device": "cuda:0",
    "is_gpu": True,
    "process": ProcessEnd(seconds=40.0, exit_code=0, limit_s=120.0),
    "asked": ASKED,
    "name": "NVIDIA A100-SXM4-40GB",
    "torch": "2.13.0+cu130",
    "capability": "8.0",
    "low": "bf16",
    "native_bf16": True,
    "project": Signal(value="net", source="/srv/net/net/train.py"),
    "matmul": Signal(value=KERNEL),
    "convolution": Signal(value=KERNEL),
    "attention": Signal(value=KERNEL),
    "learning": Signal(value=LEARNING),
    "guard": Signal(value=GuardFacts(planted=True, changed=(), wild=())),
    "control": Signal(value=CONTROL),
    "scaler": Signal(value=SCALER),
    "compare": Signal(value=CompareFacts(runs=(AMP, FP32))),
    "throughput": Signal(value=ThroughputFacts(dtype="bf16", size=8192, low_tflops=240.0, fp32_tflops=18.0)),
    "floor": Signal(value=FLOOR),
    "transfer": Signal(value=TransferFacts(to_device_bytes_per_s=25e9, from_device_bytes_per_s=25e9), source="copies"),
    "load": Signal(value=LOAD, source="NVML"),
    "repeat": Signal(value=REPEAT),
    "same_bits": Signal(value=SameBitsFacts(times=50, different=0, digests=("aa", "bb"))),
    "compiled": Signal(value=COMPILED),
    "models": Signal(value=ModelsFacts(runs=(ModelRun(model="vit-b-size", batch=64, precision="bf16", step_s=0.1),))),
}
LOCKED = LockedTorch(version="2.13.0", build="torch.whl", cuda="13.0")
COLLECTIVE = CollectiveFacts(backend="nccl", ranks=2, sums=(3.0, 3.0), bus_bytes_per_s=2e11)


def device(**changes: Any) -> DeviceFacts:
    return DeviceFacts(**{**DEVICE, **changes})


def training(*devices: DeviceFacts, **changes: Any) -> TrainingFacts:
    sound: dict[str, Any] = {
        "python": "/srv/net/.conda/bin/python",
        "package": "net",
        "driver": "580.126.09",
        "machine_gpus": (VisibleGpu(index=0, name="NVIDIA A100-SXM4-40GB", capability="8.0"),),
        "locked": Signal(value=LOCKED, source="conda-lock.yml"),
        "collective": Signal(value=COLLECTIVE, source="torchrun"),
        "collective_process": ProcessEnd(seconds=9.0, exit_code=0),
    }
    return TrainingFacts(devices=devices or (device(),), **{**sound, **changes})


def findings(facts: TrainingFacts) -> dict[str, Finding]:
    return worst_findings(Record(envforge="0", created_at=NOW, training=facts), CHECKS)


def complaints(facts: TrainingFacts) -> dict[str, Verdict]:
    return complaints_in(findings(facts))
