"""Test every training check on a record that triggers only it, and on one that doesn't."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from envforge.base.process import ProcessEnd
from envforge.verify.environment.facts import VisibleGpu
from envforge.verify.training.facts import (
    MEASUREMENTS,
    CompareFacts,
    GuardFacts,
    SameBitsFacts,
    ThroughputFacts,
    TransferFacts,
)
from envforge.verify.values import Signal, Verdict
from tests.verify.training.records import (
    AMP,
    ASKED,
    CHECKS,
    CLEAN,
    COLLECTIVE,
    COMPILED,
    CONTROL,
    FALLING,
    FP32,
    KERNEL,
    LEARNING,
    LOAD,
    LOCKED,
    OVERFLOW,
    REPEAT,
    SCALER,
    complaints,
    device,
    findings,
    training,
)

FAIL, WARN, UNKNOWN = Verdict.FAIL, Verdict.WARN, Verdict.UNKNOWN
SLOW = ThroughputFacts(dtype="bf16", size=8192, low_tflops=100.0, fp32_tflops=18.0)
HALF = TransferFacts(to_device_bytes_per_s=12e9, from_device_bytes_per_s=12e9)
NAMES = tuple(f"weight{number}" for number in range(29))


def learnt(**changes: Any) -> dict[str, Any]:
    return {"learning": Signal(value=replace(LEARNING, **changes))}


def scaled(**changes: Any) -> dict[str, Any]:
    return {"scaler": Signal(value=replace(SCALER, **changes))}


def repeated(**changes: Any) -> dict[str, Any]:
    return {"repeat": Signal(value=replace(REPEAT, **changes))}


TRIGGERS: tuple[tuple[str, Verdict, dict[str, Any]], ...] = (
    ("process-died", FAIL, {"process": ProcessEnd(seconds=9.0, exit_code=-11, signal="SIGSEGV")}),
    ("process-died", FAIL, {"process": ProcessEnd(seconds=9.0, exit_code=1)}),
    ("project-not-importable", FAIL, {"project": Signal(unreadable="ImportError: x"), "raised": {"project": "x"}}),
    ("matmul-wrong", FAIL, {"matmul": Signal(value=replace(KERNEL, errors=(0.002, 0.5, 0.002)))}),
    ("matmul-wrong", FAIL, {"matmul": Signal(value=replace(KERNEL, errors=(0.002, None, 0.002)))}),
    ("matmul-wrong", FAIL, {"matmul": Signal(unreadable="no kernel image"), "raised": {"matmul": "x"}}),
    ("matmul-wrong", UNKNOWN, {"matmul": Signal(unreadable="not reached")}),
    ("convolution-wrong", FAIL, {"convolution": Signal(value=replace(KERNEL, result_dtype="float32"))}),
    ("attention-wrong", FAIL, {"attention": Signal(value=replace(KERNEL, dtype="fp16", errors=(0.01,)))}),
    ("bits-change", FAIL, {"same_bits": Signal(value=SameBitsFacts(times=50, different=1, digests=("a",)))}),
    ("autocast-off", FAIL, learnt(autocast_forward=False, autocast_dtype=None, low=0, dtypes={"float32": 20})),
    ("autocast-off", FAIL, learnt(autocast_dtype="float16")),
    ("low-precision-unused", FAIL, learnt(low=0, dtypes={"float32": 20})),
    ("low-precision-unused", WARN, learnt(low=5, dtypes={"float32": 15, "bfloat16": 5})),
    ("backward-in-autocast", WARN, learnt(autocast_backward=True)),
    ("loss-not-finite", FAIL, learnt(losses=(*FALLING[:-1], None))),
    ("loss-not-finite", FAIL, learnt(weights_wild=3)),
    ("loss-constant", FAIL, learnt(losses=(2.3,) * 60)),
    ("gradients-missing", FAIL, learnt(without_gradient=NAMES)),
    ("gradients-missing", WARN, learnt(without_gradient=NAMES[:2])),
    ("gradients-zero", FAIL, learnt(zero_gradient=NAMES)),
    ("weights-still", FAIL, learnt(weights_moved=0)),
    ("learning-stopped", FAIL, learnt(error="ProjectError: 20 updates in a row were skipped")),
    ("loss-does-not-fall", FAIL, learnt(losses=tuple(reversed(FALLING)))),
    ("loss-does-not-fall", FAIL, learnt(losses=tuple(2.4 - n / 1000 for n in range(60)), loss_ratio=0.1)),
    ("metric-not-reached", FAIL, learnt(evaluation={"accuracy": 0.5})),
    ("control-learns", FAIL, {"control": Signal(value=replace(CONTROL, evaluation={"accuracy": 0.95}))}),
    ("smoke-thresholds", FAIL, learnt(reach=0.2)),
    ("smoke-thresholds", FAIL, learnt(loss_ratio=1.0)),
    ("smoke-thresholds", FAIL, learnt(skips=60.0)),
    ("non-finite-guard", FAIL, {"guard": Signal(value=GuardFacts(planted=True, changed=("w",), wild=("w",)))}),
    ("non-finite-guard", WARN, {"guard": Signal(value=GuardFacts(planted=True, changed=("mean",), wild=()))}),
    ("scaled-gradients-wrong", FAIL, scaled(gradient_error=0.99, gradient_ratio=0.004)),
    ("scaler-no-step", FAIL, scaled(clean=replace(CLEAN, moved=0))),
    ("scaler-no-backoff", FAIL, scaled(overflow=replace(OVERFLOW, scales=(8.0, 8.0, 8.0, 8.0)))),
    ("scaler-no-backoff", FAIL, scaled(overflow=replace(OVERFLOW, moved=29))),
    ("scaler-no-backoff", FAIL, scaled(overflow=replace(OVERFLOW, scales=(8.0,), error="RuntimeError: unscale_()"))),
    ("not-repeatable", FAIL, repeated(second_losses=(2.4, 2.31, 2.2, 2.1), second_state="cc")),
    ("resume-differs", FAIL, repeated(lost_generators=("torch",))),
    ("resume-differs", FAIL, repeated(resumed_optimizer="cc")),
    ("amp-speed", WARN, {"compare": Signal(value=CompareFacts(runs=(AMP, replace(FP32, step_s=0.005))))}),
    ("amp-differs", WARN, {"compare": Signal(value=CompareFacts(runs=(replace(AMP, losses=(2.4,) * 60), FP32)))}),
    ("speed-floor", WARN, {"throughput": Signal(value=SLOW)}),
    ("speed-floor", FAIL, {"throughput": Signal(value=replace(SLOW, low_tflops=1.0))}),
    ("throttled-under-load", WARN, {"load": Signal(value=replace(LOAD, reasons={"hardware thermal slowdown": 9}))}),
    ("throttled-under-load", UNKNOWN, {"load": Signal(unreadable="NVML gave no samples")}),
    ("slow-copies", WARN, {"transfer": Signal(value=HALF)}),
    ("compile-fails", FAIL, {"compiled": Signal(value=replace(COMPILED, compiled_loss=3.0))}),
    ("compile-fails", FAIL, {"compiled": Signal(unreadable="no C compiler"), "raised": {"compiled": "x"}}),
)  # fmt: skip


def test_nothing_is_said_of_a_sound_training() -> None:
    two = (device(), device(device="cuda:1"))
    assert complaints(training(*two)) == {}
    silent = {name for name, found in findings(training(*two)).items() if found.verdict is Verdict.SKIP}
    assert silent == set()


@pytest.mark.parametrize(
    ("check", "verdict", "changes"),
    TRIGGERS,
    ids=[f"{row[0]}-{row[1].value}-{number}" for number, row in enumerate(TRIGGERS)],
)
def test_each_fault_is_found_by_its_own_check_alone(check: str, verdict: Verdict, changes: dict[str, Any]) -> None:
    assert complaints(training(device(**changes))) == {check: verdict}


def test_every_check_has_a_record_that_triggers_it() -> None:
    elsewhere = {"model-speed", "trains-on-gpu", "gpus-disagree", "all-reduce-wrong", "low-precision"}
    assert {row[0] for row in TRIGGERS} | elsewhere == {check.id for check in CHECKS}


def test_a_failure_comes_with_what_was_wanted_why_and_a_command() -> None:
    for check, verdict, changes in TRIGGERS:
        found = findings(training(device(**changes)))[check]
        assert found.observed
        assert found.why
        assert found.subject == "cuda:0 NVIDIA A100-SXM4-40GB"
        if verdict is FAIL and check not in ("matmul-wrong", "compile-fails"):
            assert found.wanted, check
            assert found.command, check


def test_a_gpu_lock_without_a_gpu_fails_by_name() -> None:
    cpu = device(device="cpu", is_gpu=False, name="EPYC")
    found = findings(training(cpu, driver=None, machine_gpus=()))["trains-on-gpu"]
    assert found.verdict is FAIL
    assert "CUDA 13.0" in found.wanted
    assert "on the CPU" in found.observed


def test_a_cpu_lock_on_a_cpu_passes_what_was_asked() -> None:
    cpu = device(device="cpu", is_gpu=False, name="EPYC")
    quiet = training(cpu, driver=None, machine_gpus=(), locked=Signal(value=replace(LOCKED, cuda=None)))
    assert complaints(quiet) == {}
    assert findings(quiet)["trains-on-gpu"].verdict is Verdict.PASS


def test_a_cpu_run_beside_a_driver_fails_where_no_lock_allows_it() -> None:
    cpu = device(device="cpu", is_gpu=False, name="EPYC")
    found = complaints(training(cpu, locked=Signal(unreadable="no lock")))
    assert found == {"trains-on-gpu": FAIL}


def test_a_training_that_could_not_be_measured_is_unknown_and_required() -> None:
    nothing = training(unreadable="there is no environment in `/srv/net/.conda`")
    nothing = replace(nothing, devices=(), collective_process=None)
    found = findings(nothing)["trains-on-gpu"]
    assert (found.verdict, found.required, found.fails) == (UNKNOWN, True, True)
    assert set(complaints(nothing)) == {"trains-on-gpu"}


def test_a_gpu_that_computes_other_bits_than_its_equals_is_named() -> None:
    other = SameBitsFacts(times=50, different=0, digests=("aa", "cc"))
    three = [device(device=f"cuda:{n}") for n in range(2)] + [device(device="cuda:2", same_bits=Signal(value=other))]
    found = findings(training(*three))["gpus-disagree"]
    assert found.verdict is FAIL
    assert "cuda:2 " in found.observed


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"collective": Signal(value=replace(COLLECTIVE, sums=(3.0, 2.0)))}, FAIL),
        ({"collective": Signal(unreadable="1 of 2 processes came to their end")}, FAIL),
        ({"collective_process": None}, Verdict.SKIP),
    ],
)
def test_a_sum_that_is_wrong_or_does_not_come_fails(changes: dict[str, Any], verdict: Verdict) -> None:
    assert findings(training(**changes))["all-reduce-wrong"].verdict is verdict


@pytest.mark.parametrize(("low", "word"), [("bf16", "without loss scaling"), ("fp16", "emulated")])
def test_the_precision_is_told_with_its_reason(low: str, word: str) -> None:
    found = findings(training(device(low=low)))["low-precision"]
    assert found.verdict is Verdict.INFO
    assert word in found.observed


def test_a_slow_gpu_is_told_with_the_reason_that_nvml_gave() -> None:
    throttled = replace(LOAD, reasons={"hardware power brake": 15})
    slow = device(throughput=Signal(value=SLOW), load=Signal(value=throttled))
    assert "hardware power brake" in findings(training(slow))["speed-floor"].observed


def test_a_gpu_that_the_table_does_not_know_is_no_fault() -> None:
    unknown = device(floor=Signal(unreadable="the table has no row for `NVIDIA X1`"))
    found = findings(training(unknown))["speed-floor"]
    assert found.verdict is Verdict.INFO
    assert "no row" in found.observed


def test_what_was_not_asked_for_is_skipped_and_what_was_not_reached_is_unknown() -> None:
    learning: Signal[Any] = Signal(unreadable="not reached: the process died")
    dead = device(
        learning=learning, running="attention", process=ProcessEnd(seconds=3.0, exit_code=-4, signal="SIGILL")
    )
    assert findings(training(dead))["weights-still"].verdict is UNKNOWN
    fast = device(learning=learning, asked=("device", "matmul"))
    assert findings(training(fast))["weights-still"].verdict is Verdict.SKIP


def test_without_a_project_its_checks_are_skipped_with_the_reason() -> None:
    nothing: dict[str, Any] = {name: Signal() for name, each in MEASUREMENTS.items() if each.of_project}
    asked = tuple(name for name in ASKED if name not in nothing)
    nothing["project"] = Signal(unreadable="there is no project here")
    alone = training(device(asked=asked, **nothing))
    assert complaints(alone) == {}
    assert "no project here" in findings(alone)["project-not-importable"].observed


def test_a_gpu_that_torch_does_not_use_is_named() -> None:
    cpu = device(device="cpu", is_gpu=False)
    gpus = (VisibleGpu(index=0, name="NVIDIA L4", capability="8.9"),)
    assert "NVIDIA L4" in findings(training(cpu, machine_gpus=gpus))["trains-on-gpu"].observed
