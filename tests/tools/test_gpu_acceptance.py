"""Run the acceptance of GPU machines on the CPU, with tiny models and one template, and stop it early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

from envforge.base.process import Child, ProcessEnd
from tools.gpu_acceptance.__main__ import NEEDED, ROOT, main, unpack
from tools.gpu_acceptance.report import Report, Result
from tools.gpu_acceptance.steps import Acceptance, Request

assert sys.platform == "linux"

STEPS = [
    *("detect", "verify machine", "verify env", "verify tabular", "speed", "CUDA graphs", "tests"),
    *("smoke test tabular", "torch.compile", "tests of verify"),
]


def command(out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "tools.gpu_acceptance", "--out", str(out), "--cpu", "--template", "tabular", *options]


def read(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "acceptance.json").read_text())
    return content


@pytest.mark.slow
def test_all_steps_run_on_the_cpu(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    done = subprocess.run(command(tmp_path, "--minutes", "30"), cwd=ROOT, capture_output=True, text=True, check=False)
    found = read(tmp_path)
    steps = {step["name"]: step for step in found["steps"]}
    assert list(steps) == STEPS
    # the environment that runs the tests may have findings of its own
    wrong = {name: step["output"] for name, step in steps.items() if step["status"] != "passed"}
    assert set(wrong) <= {"verify machine", "verify env"}, wrong
    assert done.returncode == (1 if wrong else 0)
    assert {(run["model"], run["batch"], run["precision"]) for run in steps["speed"]["runs"]} == {
        *(
            (model, batch, name)
            for model in ("resnet50-size", "vit-b-size")
            for batch in (2, 4)
            for name in ("bf16", "fp32")
        ),
        ("gpt2-size", 2, "bf16"),
        ("gpt2-size", 2, "fp32"),
    }
    assert steps["verify tabular"]["record"]["record"]["training"]["devices"]
    table = (tmp_path / "acceptance.md").read_text()
    assert "| speed: gpt2-size, batch 2 | measured |  | bf16 " in table
    assert "| smoke test tabular | passed |" in table
    assert "smoke test tabular" in (tmp_path / "acceptance.html").read_text()


def test_what_was_finished_counts_after_sigterm(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    with subprocess.Popen(command(tmp_path), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("verify machine …"):
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
    assert process.returncode == 1
    assert "stopped by SIGTERM" in rest
    statuses = [step["status"] for step in read(tmp_path)["steps"]]
    assert statuses == ["passed", "interrupted", *["not reached"] * (len(STEPS) - 2)]


def test_what_was_finished_counts_when_the_time_is_over(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    done = subprocess.run(command(tmp_path, "--minutes", "0.001"), cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == 1
    assert {step["status"] for step in read(tmp_path)["steps"]} == {"not reached"}


def test_a_machine_without_a_gpu_is_reported(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    options = [option for option in command(tmp_path) if option != "--cpu"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(options, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    found = {step["name"]: (step["status"], step["found"]) for step in read(tmp_path)["steps"]}
    assert found["speed"] == ("not reached", "torch finds no GPU")
    assert found["detect"][0] == "passed"


def stubbed(folder: Path, monkeypatch: pytest.MonkeyPatch, output: str) -> Acceptance:
    """Return an acceptance on a machine with a GPU, whose commands print ``output``."""
    request = Request(out=folder, scratch=folder, minutes=1, paths=(), projects=folder / "none", templates=("tabular",))
    acceptance = Acceptance(request)
    acceptance.has_gpu = True
    monkeypatch.setattr(acceptance, "_module", lambda *_: (ProcessEnd(seconds=1, exit_code=0), output))
    return acceptance


@pytest.mark.parametrize(("is_gpu", "status"), [(True, "passed"), (False, "failed")])
def test_verify_must_use_the_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_gpu: bool, status: str) -> None:
    record = {"training": {"devices": [{"is_gpu": is_gpu}]}}
    output = json.dumps({"result": {"counts": {"pass": 3}, "findings": [], "record": record}})
    result = Result(name="verify")
    stubbed(tmp_path, monkeypatch, output)._verify("train", "tabular", result, 60)
    assert (result.status, "verify found no GPU, but torch does" in result.found) == (status, not is_gpu)


@pytest.mark.parametrize(
    ("last", "status"), [("=== 9 passed, 1 skipped in 3 s ===", "passed"), ("=== 5 skipped in 3 s ===", "failed")]
)
def test_tests_that_all_skip_are_no_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str, status: str
) -> None:
    result = Result(name="tests")
    stubbed(tmp_path, monkeypatch, f"a line\n{last}\n")._test([], result, 60)
    assert (result.status, result.found.partition(" in ")[0]) == (status, last.strip("= ").partition(" in ")[0])


@pytest.mark.parametrize(
    ("error", "status"),
    [("OutOfMemoryError: CUDA out of memory", "passed"), ("AcceleratorError: an illegal access", "failed")],
)
def test_a_model_may_only_be_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, status: str
) -> None:
    run = {"model": "m", "batch": 1, "variant": "eager", "precision": "bf16", "fp32": None, "error": error}

    def child(started: Child) -> tuple[ProcessEnd, tuple[dict[str, Any], ...]]:
        started.hear({"event": "run", **run})
        return ProcessEnd(seconds=1, exit_code=0), ()

    monkeypatch.setattr("tools.gpu_acceptance.steps.run_child", child)
    result = Result(name="speed")
    stubbed(tmp_path, monkeypatch, "")._measure(("models",), result, 60)
    assert (result.status, result.runs) == (status, [run])


def test_table_compares_low_precision_with_both_kinds_of_fp32() -> None:
    def run(precision: str, fp32: str | None, step_s: float, variant: str = "eager") -> dict[str, Any]:
        facts = {"model": "vit", "batch": 64, "precision": precision, "fp32": fp32, "variant": variant}
        return {**facts, "step_s": step_s, "peak_memory_bytes": int(step_s * 2**30), "ready_s": 3.0}

    runs = [run("bf16", None, 0.5), run("fp32", "ieee", 2.0), run("tf32", "tf32", 1.0)]
    error = {**runs[0], "variant": "compile", "error": "TritonError: a | b\nc"}
    error.pop("step_s")
    report = Report(
        created_at="2026-11-30",
        minutes=8,
        device={"name": "H200", "torch": "2.11.0"},
        steps=[
            Result(name="speed", status="passed", seconds=3, runs=runs),
            Result(name="CUDA graphs", status="passed", runs=[run("bf16", None, 0.25, "graph")]),
            Result(name="torch.compile", status="failed", runs=[error], output="<b>trace</b>"),
        ],
    )
    eager = (
        "bf16 500.00 ms, 512 MiB; fp32 (ieee) 2000.00 ms, 2048 MiB; tf32 1000.00 ms, 1024 MiB; "
        "bf16 is 4.00 times as fast as fp32 (ieee) with 0.25 times its peak memory; "
        "bf16 is 2.00 times as fast as tf32 with 0.50 times its peak memory"
    )
    graph = "bf16 250.00 ms, 256 MiB; 2.00 times as fast as eager; ready after 3.0 s"
    assert report.markdown().splitlines() == [
        "# GPU acceptance: 2 of 3 steps passed; torch.compile did not",
        "",
        "H200, torch 2.11.0",
        "",
        "| step | result | seconds | found |",
        "| --- | --- | --- | --- |",
        "| speed | passed | 3.0 |  |",
        f"| speed: vit, batch 64 | measured |  | {eager} |",
        "| CUDA graphs | passed |  |  |",
        f"| CUDA graphs: vit, batch 64 | measured |  | {graph} |",
        "| torch.compile | failed |  |  |",
        "| torch.compile: vit, batch 64 | measured |  | bf16: TritonError: a \\| b c |",
    ]
    assert "&lt;b&gt;trace&lt;/b&gt;" in report.page()
    assert not report.passed


def test_wheels_are_unpacked_into_a_directory_of_modules(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "some-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("some/__init__.py", "")
    assert unpack(tmp_path, tmp_path / "site") == 1
    assert (tmp_path / "site/some/__init__.py").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--out", "X", "--wheels", "Y"], "no wheels in Y; to download them, run with --prepare"),
        (["--out", "X", "--minutes", "0"], "--minutes must be above 0, got 0"),
        ([], "one of the arguments --out --prepare is required"),
    ],
)
def test_usage_errors_name_the_way_out(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_wheels_have_the_versions_that_envforge_requires(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []

    def download(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        commands.append(words)
        return subprocess.CompletedProcess(words, 0)

    monkeypatch.setattr(subprocess, "run", download)
    assert main(["--prepare", str(tmp_path), "--python", "3.13"]) == 0
    mine, projects = commands
    assert [word.partition(">=")[0] for word in mine[-len(NEEDED) :]] == list(NEEDED)
    assert "click>=8.2,<9" in mine
    assert {"--no-deps", "tqdm", "scikit-image"} <= set(projects)
    assert "3.13" in mine
