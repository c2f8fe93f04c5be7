"""Test the rendered project as its owner uses it: linted, typed, tested, trained, stopped, and resumed."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.commands import check_command
from tests.templates.conftest import PACKAGE

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
    evaluations = [line["accuracy"] for line in lines if line["event"] == "val"]
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
    assert "SIGTERM: saved after step" in talk
    resumed = run(project, *command, "--run-dir", "runs/parts", "--resume")
    assert "resumed after step" in resumed.stdout
    assert "state sha256" in whole.stdout
    assert resumed.stdout.splitlines()[-1] == whole.stdout.splitlines()[-1]


def test_refusals_are_messages_with_a_hint(project: Path) -> None:
    for option, value, message in (
        ("--data", "nowhere", "error: `--data nowhere` is not a directory\n\nhint: "),
        (
            "--batch-size",
            "5000",
            "error: a batch of 5000 samples is larger than the training data (1438 samples)\n\nhint: ",
        ),
    ):
        done = run(project, "-m", f"{PACKAGE}.train", option, value, "--device", "cpu")
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_smoke_passes_without_a_gpu_and_never_calls_that_a_gpu_pass(project: Path) -> None:
    done = run(project, "-m", f"{PACKAGE}.smoke")
    if "signs of NVIDIA" in done.stdout or "on the GPU" in done.stdout:
        pytest.skip("this machine has an NVIDIA device or driver")
    assert done.returncode == 0, done.stdout
    assert "smoke test: the CPU part passed\nGPU: not run, because this machine has no NVIDIA" in done.stdout


def test_smoke_fails_on_the_cpu_where_there_is_a_driver_or_a_gpu_is_required(project: Path, tmp_path: Path) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    hide = {"CUDA_VISIBLE_DEVICES": ""}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    for arguments, environment in ((["--require-gpu"], {}), ([], {"PATH": path})):
        done = run(project, "-m", f"{PACKAGE}.smoke", *arguments, **hide, **environment)
        assert (done.returncode, done.stdout.splitlines()[-1]) == (1, "smoke test FAILED")
        assert "FAIL device" in done.stdout


def test_smoke_skips_the_gpu_part_for_a_reason(project: Path) -> None:
    reason = "torch here is another build than that of the lockfile"
    stub = (
        f"import sys; from {PACKAGE} import smoke\n"
        f"from {PACKAGE}.engine import smoke as engine\n"
        "engine.nvidia_signs = lambda: ('a GPU',)\n"
        "engine.torch.cuda.is_available = lambda: True\n"
        "engine.check_device = lambda project, device, say, with_control: [engine.Check(str(device), True, '', '')]\n"
        "sys.exit(smoke.main(sys.argv[1:]))\n"
    )
    done = run(project, "-c", stub, "--skip-gpu", reason)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()[:2]] == ["ok   device", "ok   cpu"]
    end = done.stdout.splitlines()[-6:]
    assert end[:3] == [
        "smoke test: the CPU part passed",
        f"GPU: not run, because {reason}",
        "To run the GPU part on a machine with an NVIDIA GPU:",
    ]
    here = shlex.quote(str(project))
    for command in end[3:]:
        check_command(command.strip())
    assert end[3:] == [
        f"    cd {here} && envforge lock",
        f"    cd {here} && envforge install",
        f"    cd {here} && .conda/bin/python -m {PACKAGE}.smoke --require-gpu",
    ]


def test_smoke_knows_that_only_the_cpu_is_locked(project: Path, tmp_path: Path) -> None:
    code = (
        f"import pathlib; from {PACKAGE}.engine.smoke import say_how_to_run_gpu_part\n"
        f"say_how_to_run_gpu_part('of a reason', print, pathlib.Path({str(tmp_path)!r}))"
    )

    def commands() -> list[str]:
        lines = run(project, "-c", code).stdout.splitlines()
        assert "TAG" not in "".join(lines)
        return [line.split("&& ")[-1].strip() for line in lines if line.startswith("    ")]

    python = f".conda/bin/python -m {PACKAGE}.smoke --require-gpu"
    assert commands() == ["envforge lock", "envforge install", python]
    for build, expected in (("cu130", ["envforge install", python]), ("cpu", ["envforge explain"])):
        url = f"https://index.example/whl/torch-2.13.0%2B{build}-cp312-none-any.whl"
        (tmp_path / "conda-lock.yml").write_text(f"  url: {url}\n")
        assert commands() == expected
    (tmp_path / "lockfiles" / "cu130").mkdir(parents=True)
    (tmp_path / "lockfiles" / "cu130" / "conda-lock.yml").touch()
    assert commands() == ["envforge install", python]


def test_smoke_does_not_both_require_and_skip_the_gpu(project: Path) -> None:
    done = run(project, "-m", f"{PACKAGE}.smoke", "--require-gpu", "--skip-gpu", "why")
    assert done.returncode == 2
    assert "not allowed with" in done.stderr


PROGRESS = f"""
import sys, time
from {PACKAGE} import train
from {PACKAGE}.engine import run
clock = iter(range(0, 10**6, 4))
run.time.perf_counter = lambda: float(next(clock))  # each look at the clock takes four seconds
sys.exit(train.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_training_without_a_terminal_prints_plain_lines(project: Path) -> None:
    options = ("--epochs", "2", "--device", "cpu", "--run-dir", "runs/plain")
    done = run(project, "-c", PROGRESS, *options)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("epoch ")]
    form = r"epoch [12]/2  step \d+/46  loss \d+\.\d{4}  about [\d:]+ left"
    assert len(lines) > 5
    assert [line for line in lines if not re.fullmatch(form, line)] == []
    assert re.findall(r"[\x00-\x09\x0b-\x1f]", done.stdout + done.stderr) == []


@pytest.mark.parametrize("moment", ["imports", "preparation"])
def test_ctrl_c_before_the_training_leaves_no_traceback(project: Path, moment: str, tmp_path: Path) -> None:
    """Afterwards, it saves."""
    stub = {
        "imports": "import os, signal; os.kill(os.getpid(), signal.SIGINT)",
        "preparation": "def load_data(config):\n    raise KeyboardInterrupt",
    }[moment]
    shutil.copytree(project / PACKAGE, tmp_path / PACKAGE)
    with (tmp_path / PACKAGE / "data.py").open("a") as file:
        file.write(f"\n\n{stub}\n")
    done = run(tmp_path, "-m", f"{PACKAGE}.train", "--device", "cpu")
    assert done.returncode in (130, -signal.SIGINT)
    assert done.stderr.strip() in ("", "interrupted")


def manifest(project: Path, code: str) -> object:
    imports = f"import json\nfrom pathlib import Path\nfrom {PACKAGE}.engine import log as manifest\n"
    done = run(project, "-c", imports + code)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_run_json_has_the_commit_of_its_own_repository_only(project: Path, tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    code = "print(json.dumps([manifest.git_revision(Path(p)) for p in {}]))"
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "--message", "first"]):
        identity = ["-c", "user.name=n", "-c", "user.email=e"]
        subprocess.run(["git", "-C", str(tmp_path / "outer"), *identity, *command], check=True)
    found = manifest(project, code.format([str(tmp_path / "outer"), str(inner), str(tmp_path)]))
    assert isinstance(found, list)
    assert re.fullmatch("[0-9a-f]{40}", found[0])
    assert found[1:] == [None, None]


LOCK = """\
version: 1
package:
- name: python
  manager: conda
  platform: {platform}
  url: https://conda.example/{platform}/python-3.12.1-h1_0.conda
- name: pip
  manager: conda
  platform: other-64
  url: https://conda.example/noarch/pip-9-0.conda
- name: pytest
  manager: pip
  platform: {platform}
  url: https://index.example/pytest-{pytest}-py3-none-any.whl#sha256=0
"""


def test_run_json_has_the_lockfile_only_of_its_environment(project: Path, tmp_path: Path) -> None:
    """The environment is compared with the lockfile, so that it does not matter who made it."""
    (tmp_path / "prefix" / "conda-meta").mkdir(parents=True)
    (tmp_path / "prefix" / "conda-meta" / "python-3.12.1-h1_0.json").write_text("{}")
    code = (
        f"project, prefix = Path({str(tmp_path)!r}), Path({str(tmp_path / 'prefix')!r})\n"
        "print(json.dumps(str(manifest.installed_lockfile(project, prefix))))"
    )
    assert manifest(project, code) == "None"
    variant = tmp_path / "lockfiles" / "cpu" / "conda-lock.yml"
    variant.parent.mkdir(parents=True)
    variant.write_text(LOCK.format(platform="linux-64", pytest=pytest.__version__))
    (tmp_path / "conda-lock.yml").write_text(LOCK.format(platform="linux-64", pytest="0.1"))
    assert manifest(project, code) == str(variant)
    (tmp_path / "prefix" / "conda-meta" / "numpy-2.0-0.json").write_text("{}")
    assert manifest(project, code) == "None"
