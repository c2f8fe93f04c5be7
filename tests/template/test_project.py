"""The rendered project as its owner meets it: linted, typed, tested, trained, stopped and resumed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.template.conftest import PACKAGE

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}


def run(project: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env={**ENVIRONMENT, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_project_is_formatted_and_passes_its_own_linter(project: Path) -> None:
    for arguments in (["format", "--check", "."], ["check", "."]):
        done = run(project, "-m", "ruff", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


def test_project_is_strictly_typed(project: Path) -> None:
    done = run(project, "-m", "mypy")
    assert done.returncode == 0, done.stdout + done.stderr


def test_project_does_not_import_envforge(project: Path) -> None:
    sources = [path.read_text(encoding="utf-8") for path in project.rglob("*.py")]
    assert len(sources) > 20
    assert not [text for text in sources if "import envforge" in text or "from envforge" in text]


@pytest.mark.slow
def test_training_prints_its_precision_and_learns_the_digits(project: Path) -> None:
    done = run(project, "-m", f"{PACKAGE}.train", "--epochs", "2", "--run-dir", "runs/two", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert "precision " in done.stdout.splitlines()[0]
    lines = [json.loads(line) for line in (project / "runs/two/metrics.jsonl").read_text().splitlines()]
    evaluations = [line["accuracy"] for line in lines if line["event"] == "evaluation"]
    assert len(evaluations) == 2
    assert evaluations[-1] > 0.8
    assert (project / "runs/two/curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_sigterm_saves_and_the_resumed_run_ends_with_the_same_bits(project: Path) -> None:
    command = ["-m", f"{PACKAGE}.train", "--epochs", "2", "--device", "cpu", "--precision", "fp32"]
    whole = run(project, *command, "--run-dir", "runs/whole")
    process = subprocess.Popen(
        [sys.executable, "-u", *command, "--run-dir", "runs/parts"],
        cwd=project,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    while not process.stdout.readline().startswith(b"epoch 1/2"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    talk = process.communicate(timeout=120)[0].decode()
    assert process.returncode == 0
    assert "SIGTERM: saved after update" in talk
    resumed = run(project, *command, "--run-dir", "runs/parts", "--resume")
    assert "resumed after update" in resumed.stdout
    assert "state sha256" in whole.stdout
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]


def test_refusals_are_messages_with_a_hint(project: Path) -> None:
    for option, value, message in (
        ("--data", "nowhere", "error: --data `nowhere` is not a folder\n\nhint: "),
        ("--batch-size", "5000", "error: a batch of 5000 is larger than the training data, 1438 samples\n\nhint: "),
    ):
        done = run(project, "-m", f"{PACKAGE}.train", option, value, "--device", "cpu")
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_smoke_passes_without_a_gpu_and_never_calls_that_a_gpu_pass(project: Path) -> None:
    done = run(project, "-m", f"{PACKAGE}.smoke", "--json")
    report = json.loads(done.stdout)
    if report["nvidia_signs"]:
        pytest.skip("this machine has an NVIDIA device or driver")
    assert (done.returncode, report["passed"], report["gpu"]) == (0, True, "not-run")
    assert "the GPU part was NOT run" in done.stderr


def test_smoke_fails_on_the_cpu_where_there_is_a_driver_or_a_gpu_is_required(project: Path, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    hide = {"CUDA_VISIBLE_DEVICES": ""}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for arguments, environment in ((["--require-gpu"], {}), ([], {"PATH": path})):
        done = run(project, "-m", f"{PACKAGE}.smoke", "--json", *arguments, **hide, **environment)
        report = json.loads(done.stdout)
        assert (done.returncode, report["passed"], report["gpu"]) == (1, False, "failed")
        assert "FAIL device" in done.stderr
