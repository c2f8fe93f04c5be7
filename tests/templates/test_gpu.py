"""Test on a real GPU what the engine of the projects does only there: ``python -m pytest -m gpu``.

Each test runs in a process of its own, because an error of CUDA affects all that follows in the same process.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from tests.templates.conftest import PACKAGE, write_project

pytestmark = pytest.mark.gpu

SETUP = f"""
import torch
from torch import nn
from {PACKAGE}.engine import amp, compat
from {PACKAGE}.engine.device import Precision, choose_precision, ability_of
from {PACKAGE}.engine.options import TrainOptions

device = torch.device("cuda", 0)
torch.manual_seed(0)

def make(name="bf16", fused=True):
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Linear(64, 8)).to(device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=fused)
    options = TrainOptions(clip_grad=1.0, max_skips=3, init_scale=2.0**8)
    return model, amp.Amp(model, optimizer, Precision(name, "test"), options)

def step(model, trainer, factor=1.0):
    batch = (torch.randn(32, 64, device=device) * factor, torch.randint(8, (32,), device=device))
    return trainer.update(lambda b: nn.functional.cross_entropy(model(b[0]), b[1]), [batch])
"""


@pytest.fixture(scope="module", autouse=True)
def gpu() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")


@pytest.fixture(scope="module")
def image_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("project"), groups=("benchmark",))


@pytest.fixture(scope="module")
def text_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_project(tmp_path_factory.mktemp("text"), "language-model")


def run(project: Path, *arguments: str) -> str:
    """Run Python in a project, with the packages of this process, and return what it printed."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def check(project: Path, code: str) -> None:
    run(project, "-c", SETUP + dedent(code))


def state_of(output: str) -> str:
    found = re.search(r"state sha256 (\w+)", output)
    assert found is not None, output
    return found[1]


def test_verdict_does_not_wait_for_later_work(image_project: Path) -> None:
    check(
        image_project,
        """
        read = amp._verdict(torch.tensor(True, device=device))
        torch.cuda._sleep(2_000_000_000)  # about a second of later work
        assert read() is True
        assert not torch.cuda.current_stream().query()
        """,
    )


@pytest.mark.parametrize("precision", ["bf16", "fp16", "fp32"])
@pytest.mark.parametrize("is_fused", [True, False])
def test_a_step_that_is_not_finite_changes_nothing(image_project: Path, precision: str, is_fused: bool) -> None:
    check(
        image_project,
        f"""
        model, trainer = make({precision!r}, {is_fused})
        step(model, trainer)
        before = {{name: tensor.clone() for name, tensor in model.state_dict().items()}}
        step(model, trainer, float("nan"))
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        assert trainer.skipped == 0  # the host reads the verdict one step later
        step(model, trainer)
        assert trainer.skipped == 1
        assert not all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
        """,
    )


def test_a_pending_verdict_is_part_of_a_checkpoint(image_project: Path) -> None:
    check(
        image_project,
        """
        model, trainer = make()
        step(model, trainer, float("nan"))
        state = trainer.state()
        assert state["pending"] is True
        other = make()[1]
        other.load_state(state)
        step(model, other)
        assert other.skipped == 1
        """,
    )


def test_a_step_does_not_wait_for_the_gpu(image_project: Path) -> None:
    check(
        image_project,
        """
        model, trainer = make()
        for _ in range(3):
            step(model, trainer)
        batch = (torch.randn(32, 64, device=device), torch.randint(8, (32,), device=device))
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        for _ in range(3):  # the verdict of the step before is read through its event, which isn't a synchronization
            trainer.update(lambda b: nn.functional.cross_entropy(model(b[0]), b[1]), [batch])
        """,
    )


def test_tf32_is_on_or_off_as_requested(image_project: Path) -> None:
    check(
        image_project,
        """
        if torch.cuda.get_device_capability(device) < (8, 0):
            raise SystemExit  # no TF32
        left, right = (torch.randn(512, 512, device=device) for _ in range(2))
        exact = left.double() @ right.double()
        errors = {}
        for enabled in (True, False):
            compat.set_tf32(enabled)
            errors[enabled] = float(((left @ right).double() - exact).norm() / exact.norm())
        assert errors[False] < 1e-5 < errors[True], errors
        """,
    )


def test_bf16_is_selected_if_the_gpu_supports_it(image_project: Path) -> None:
    check(
        image_project,
        """
        chosen = choose_precision("auto", ability_of(device))
        major = torch.cuda.get_device_capability(device)[0]
        assert chosen.name == ("bf16" if major >= 8 else "fp16" if major == 7 else "fp32"), chosen
        """,
    )


def test_a_resumed_run_is_bit_identical(image_project: Path, tmp_path: Path) -> None:
    options = ["-m", f"{PACKAGE}.train", "--device", "cuda", "--deterministic", "--batch-size", "128"]
    whole = run(image_project, *options, "--epochs", "2", "--run-dir", str(tmp_path / "whole"))
    again = run(image_project, *options, "--epochs", "2", "--run-dir", str(tmp_path / "again"))
    assert state_of(again) == state_of(whole)
    stop = f"""
import os, signal, sys
from {PACKAGE} import train
from {PACKAGE}.engine.run import Run
stepped = Run.stepped
def counted(self, loss):
    stepped(self, loss)
    if self.training.step == 5:
        os.kill(os.getpid(), signal.SIGTERM)
Run.stepped = counted
train.main(sys.argv[1:])
"""
    parts = ["--epochs", "2", "--run-dir", str(tmp_path / "parts")]
    run(image_project, "-c", stop, *options[2:], *parts)
    assert state_of(run(image_project, *options, *parts, "--resume")) == state_of(whole)


def test_precisions_are_compared(image_project: Path, tmp_path: Path) -> None:
    only = ["fp32", "bf16", "fp16"]
    run(image_project, "-m", f"{PACKAGE}.benchmark", "--steps", "5", "--only", *only, "--run-dir", str(tmp_path))
    rows = json.loads((tmp_path / "benchmark.json").read_text())["rows"]
    assert [row["name"] for row in rows] == only
    assert all(row["step_ms"] > 0 and row["peak_mib"] for row in rows), rows


@pytest.mark.parametrize("is_sharded", [False, True])
def test_one_process_of_torchrun_trains_over_nccl(text_project: Path, tmp_path: Path, is_sharded: bool) -> None:
    """Also with FSDP2, whose weights are then sharded over this one process."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m", f"{PACKAGE}.train"]
    options = ["--max-steps", "6", "--val-windows", "8", "--run-dir", str(tmp_path), *["--fsdp"] * is_sharded]
    assert "done after 6 steps" in run(text_project, *torchrun, *options)
    options[1] = "9"
    assert "done after 9 steps" in run(text_project, *torchrun, *options, "--resume")


def test_large_layers_train_in_fp8(text_project: Path) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torchao")
    if torch.cuda.get_device_capability(0) < (8, 9):
        pytest.skip("fp8 requires compute capability 8.9")
    check(
        text_project,
        f"""
        from {PACKAGE} import sharding

        model = nn.Sequential(nn.Linear(2048, 2048), nn.GELU(), nn.Linear(2048, 2048)).to(device)
        before = model[0].weight.detach().clone()
        assert sharding.convert(model) == 2
        assert type(model[0]) is not nn.Linear
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
        trainer = amp.Amp(model, optimizer, Precision("fp8", "test"), TrainOptions(clip_grad=0.0))
        rows = torch.randn(256, 2048, device=device)
        losses = [float(trainer.update(lambda b: (model(b[0]) - b[1]).square().mean(), [(rows, rows)])) for _ in range(9)]
        assert losses[-1] < losses[0]
        assert not torch.equal(before, model[0].weight)
        """,
    )
