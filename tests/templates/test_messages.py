"""Errors of a rendered project are one line and a hint that helps."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.templates.conftest import PACKAGE
from tests.templates.test_project import run

RUN_ALL = f"""
import contextlib, importlib, io, json, sys
from {PACKAGE}.engine import errors
results = []
for module, arguments in json.loads(sys.argv[1]):
    main = importlib.import_module(f"{PACKAGE}.{{module}}").main
    with contextlib.redirect_stderr(io.StringIO()) as stderr, contextlib.redirect_stdout(io.StringIO()):
        try:
            code = errors.exit_code(lambda: main(arguments), resumable=module == "train")
        except SystemExit as end:
            code = end.code
    results.append([code, stderr.getvalue()])
print(json.dumps(results))
"""
HELP = "\n\nhint: to list the options, pass `--help`\n"
OTHER_DIRECTORY = "\n\nhint: to use another directory, pass `--run-dir runs/NAME`\n"
DATA = "\n\nhint: to use a directory with one subdirectory of images per class, pass `--data DIR`\n"
CASES = [
    ("train", "--run-dir README.md", 1, "cannot create the run directory `README.md`: File exists" + OTHER_DIRECTORY),
    (
        "benchmark",
        "--run-dir README.md",
        1,
        "cannot create the run directory `README.md`: File exists" + OTHER_DIRECTORY,
    ),
    (
        "train",
        "--run-dir README.md/x",
        1,
        "cannot create the run directory `README.md/x`: Not a directory" + OTHER_DIRECTORY,
    ),
    (
        "train",
        "--run-dir /proc/x",
        1,
        "cannot create the run directory `/proc/x`: No such file or directory" + OTHER_DIRECTORY,
    ),
    (
        "train",
        "--run-dir /proc",
        1,
        "cannot write to the run directory `/proc`: No such file or directory" + OTHER_DIRECTORY,
    ),
    ("train", "--learn-rate 1", 2, "unknown option `--learn-rate`\n\nhint: did you mean `--learning-rate`?\n"),
    ("train", "--epoch=3x", 2, "argument --epochs: invalid int value: 3x" + HELP),
    ("train", "--batchsize 3", 2, "unknown option `--batchsize`\n\nhint: did you mean `--batch-size`?\n"),
    ("train", "--frobnicate", 2, "unknown option `--frobnicate`" + HELP),
    ("train", "now", 2, "unknown argument `now`" + HELP),
    (
        "train",
        "--precision bf61",
        2,
        "argument --precision: invalid choice: bf61 (choose from auto, fp32, tf32, bf16, fp16)" + HELP,
    ),
    ("train", "--epochs 0", 2, "--epochs must be at least 1, got 0" + HELP),
    ("smoke", "--require-gpus-now", 2, "unknown option `--require-gpus-now`\n\nhint: did you mean `--require-gpu`?\n"),
    (
        "benchmark",
        "--steps 0",
        2,
        "--steps must be at least 1 and --warm at least 0, got 0 and 5" + HELP,
    ),
    (
        "benchmark",
        "--data nowhere",
        1,
        "`--data nowhere` is not a directory" + DATA,
    ),
]


def test_each_error_is_one_line_and_a_hint(project: Path) -> None:
    (project / "README.md").touch()
    cases = [(module, arguments.split()) for module, arguments, _, _ in CASES]
    done = run(project, "-c", RUN_ALL, json.dumps(cases), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stderr
    expected = [[code, f"error: {message}"] for _, _, code, message in CASES]
    assert json.loads(done.stdout.replace("'", "")) == expected  # argparse quotes choices before Python 3.12


DEVICES = f"""
import json, sys, torch
from {PACKAGE}.engine import device, errors
if sys.argv[1]:
    torch.version.cuda = None if sys.argv[1] == "cpu" else "13.0"
    torch.version.hip = None
    torch.cuda.device_count = lambda: 2 if sys.argv[1] == "two" else 0
def fail(*_, **__):
    raise RuntimeError("reason\\nmore")
torch.empty = fail
found = []
for name in sys.argv[2:]:
    try:
        device.choose_device(name)
    except errors.ProjectError as error:
        found.append(str(error))
print(json.dumps(found))
"""
CHECK = "to find out why torch can't use the GPU, run `envforge verify machine`"
BEST = "hint: to use the best available device, pass `--device auto`"


@pytest.mark.parametrize(
    ("build", "device", "message"),
    [
        ("", "gpu", "unknown device `gpu`: {} did you mean `--device cuda`?"),
        ("", "gpu:1", "unknown device `gpu:1`: {} did you mean `--device cuda:1`?"),
        ("", "CPU", "unknown device `CPU`: {} did you mean `--device cpu`?"),
        ("", "cuda:x", "unknown device `cuda:x`: {} did you mean `--device cuda`?"),
        ("", "warp", "unknown device `warp`: {} to use the best available device, pass `--device auto`"),
        (
            "cpu",
            "cuda",
            "cannot use the device `cuda`: torch VERSION is a CPU build\n\n" + BEST + "; to find the CUDA build for "
            "this machine, run `envforge explain`; to use that build, with its tag for TAG, run "
            "`envforge lock --variant TAG && envforge install`",
        ),
        (
            "none",
            "cuda",
            f"cannot use the device `cuda`: reason\n\n{BEST}; {CHECK}",
        ),
        ("two", "cuda:2", f"cannot use the device `cuda:2`: the number of the last GPU is 1\n\n{BEST}"),
        ("two", "mps", f"cannot use the device `mps`: reason\n\n{BEST}"),
    ],
)
def test_unusable_device_has_a_hint_that_helps(project: Path, build: str, device: str, message: str) -> None:
    import torch

    done = run(project, "-c", DEVICES, build, device)
    assert done.returncode == 0, done.stderr
    listed = "expected auto, cpu, cuda, mps, or `cuda:N` for one of several GPUs\n\nhint:"
    assert json.loads(done.stdout) == [message.replace("{}", listed).replace("VERSION", torch.__version__)]


FAILING = f"""
import errno, sys
from {PACKAGE}.engine.errors import exit_code
def full():
    print("so far")
    print("more", flush=True)
    return 0
def no_space(): raise OSError(errno.ENOSPC, "No space left on device", *names)
def not_mine(): raise PermissionError(errno.EACCES, "Permission denied", *names)
def missing(): raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']", *names)
name, *names = sys.argv[1:]
sys.exit(exit_code(globals()[name], resumable=True))
"""
FULL = (
    "error: cannot write to stdout: No space left on device\n\nhint: redirect stdout to a file on a disk with space\n"
)
TMPDIR = "hint: set the variable TMPDIR to a directory on a disk with space\n"
RESUME = "hint: free some disk space; to continue from the last checkpoint, pass `--resume`\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_stdout_that_cannot_be_written_is_not_taken_for_a_full_disk(
    project: Path, tmp_path: Path, unbuffered: str
) -> None:
    for line in (f"-c '{FAILING}' full", f"-m {PACKAGE}.train --help"):
        done = run(
            project,
            "-c",
            "import subprocess, sys; sys.exit(subprocess.run(['bash', '-c', sys.argv[1]]).returncode)",
            f"ulimit -f 0; {sys.executable} {line} > {tmp_path / 'out.txt'}",
            PYTHONUNBUFFERED=unbuffered,
            PYTHONDONTWRITEBYTECODE="1",
        )
        assert (done.returncode, done.stderr) == (1, FULL.replace("No space left on device", "File too large"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_space"], FULL),
        (["no_space", "a b"], f"error: cannot write `a b`: No space left on device\n\n{RESUME}"),
        (
            ["not_mine", "x"],
            "error: cannot access `x`: Permission denied\n\nhint: check its type, owner, and permissions\n",
        ),
        (
            ["missing"],
            f"error: No usable temporary directory found in ['/tmp']\n\n{TMPDIR}",
        ),
    ],
)
def test_failure_of_a_file_is_one_line(project: Path, arguments: list[str], message: str) -> None:
    done = run(project, "-c", FAILING, *arguments)
    assert (done.returncode, done.stderr) == (1, message)


def test_missing_file_that_no_option_names_keeps_its_traceback(project: Path) -> None:
    done = run(project, "-c", FAILING, "missing", "own_code.txt")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


NOWHERE = (
    "error: cannot create the directory `{0}`: File exists\n\nhint: to use another directory, pass `--output {1}`\n"
)


@pytest.mark.slow
def test_output_goes_into_a_new_directory_or_is_an_error(project: Path, tmp_path: Path) -> None:
    short = ("--max-steps", "1", "--run-dir", "runs/short", "--device", "cpu")
    assert run(project, "-m", f"{PACKAGE}.train", *short).returncode == 0
    image_module = pytest.importorskip("PIL.Image")
    image_module.new("L", (8, 8)).save(tmp_path / "a.png")
    predict = ("-m", f"{PACKAGE}.predict", "runs/short", str(tmp_path / "a.png"), "--device", "cpu")
    for command in (predict, ("-m", f"{PACKAGE}.export", "runs/short")):
        done = run(project, *command, "--output", str(tmp_path / "a.png/x"))
        assert (done.returncode, done.stderr) == (1, NOWHERE.format(tmp_path / "a.png", "FILE"))
        assert run(project, *command, "--output", str(tmp_path / "new/x")).returncode == 0
        assert (tmp_path / "new/x").stat().st_size > 10
        assert "cannot access" in run(project, *command, "--output", str(tmp_path)).stderr
    code = f"import os, sys; from {PACKAGE} import predict; from {PACKAGE}.engine.errors import exit_code\n"
    code += "out, into = os.pipe(); os.close(out); os.dup2(into, 1); sys.exit(exit_code(predict.main))"
    done = run(project, "-c", code, *predict[2:])
    assert (done.returncode, done.stderr) == (141, "")
