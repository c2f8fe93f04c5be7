"""Run the steps of the acceptance, the most important first, each in a child process with a time limit.

After each step, and after each run of a model, the report is written. So whatever was finished is there, also if this
process is killed.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import sys
import time
import venv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from envforge.base.data_files import templates_root
from envforge.base.process import Child, ProcessEnd, run_child
from envforge.project.templates import list_templates
from envforge.verify.environment.observe import measuring_command, prefix_state
from tools.gpu_acceptance.report import Report, Result
from tools.run_projects import NAME, render

ROOT = Path(__file__).resolve().parents[2]
LAST_LINES = 40
SHORTEST_S = 5.0  # with less time, a step only imports torch
SAME_MODELS = "model-speed"  # the check of `verify` that measures what the step `speed` reports
_LONG_TEST = Path("tests/verify/training/test_gpu.py")  # it verifies a project once more
# errors of a run that are facts about the machine
_EXPECTED = ("OutOfMemoryError", "RuntimeError: CUDA graphs require a GPU")
_SCRIPT = """
import os, runpy, sys
output, paths, module = sys.argv[1:4]
sys.path[1:1] = paths.split(os.pathsep)
sys.argv = [module, *sys.argv[4:]]
os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
_DEVICE = """
import json, torch
gpus = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print("@envforge " + json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": gpus}))
"""


class _StoppedError(BaseException):
    """SIGTERM or Ctrl-C; no step may catch it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """The command line, and directories of modules: ``paths`` for envforge, ``projects`` for what it starts.

    ``scratch`` is removed afterwards.
    """

    out: Path
    scratch: Path
    minutes: float
    paths: tuple[str, ...]
    projects: Path
    templates: tuple[str, ...] = ()
    is_cpu: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """A step, with the most seconds that it may take; ``act`` completes its result within a limit in seconds."""

    name: str
    limit_s: float
    act: Callable[[Result, float], None]
    needs_gpu: bool = True


def run(request: Request) -> int:
    """Run the steps until the time is over, and return the exit code: 0 if each of them passed."""
    request.out.mkdir(parents=True, exist_ok=True)
    acceptance = Acceptance(request)
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, _stop)
    try:
        acceptance.run()
    except _StoppedError as error:
        print(f"stopped by {error}", flush=True)
    acceptance.report.write(request.out)
    print(acceptance.report.markdown(), end="", flush=True)
    return 0 if acceptance.report.passed else 1


def _stop(number: int, _frame: object) -> NoReturn:
    raise _StoppedError(signal.Signals(number).name)


def prefix_of_this_python(folder: Path) -> Path:
    """Return the environment of this Python; for an operating system's Python, a virtual one with its packages."""
    if prefix_state(Path(sys.prefix))[0] in ("finished", "foreign", "virtual"):
        return Path(sys.prefix)
    venv.create(folder, system_site_packages=True, symlinks=True)
    return folder


class Acceptance:
    """The projects, the time, and the report."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.started = time.monotonic()
        self.report = Report(
            created_at=datetime.now(timezone.utc).isoformat(timespec="seconds"), minutes=request.minutes
        )
        self.prefix = prefix_of_this_python(request.scratch / "venv")
        self.has_gpu = False
        self.environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        if request.projects.exists():  # else the environment itself has all packages
            self.environment["PYTHONPATH"] = str(request.projects)
        if request.is_cpu:
            self.environment["CUDA_VISIBLE_DEVICES"] = ""

    def run(self) -> None:
        """Run every step that there is time for."""
        steps = tuple(self.steps())
        self.report.steps = [Result(name=step.name) for step in steps]
        self._describe_device()
        for step, result in zip(steps, self.report.steps, strict=True):
            left_s = 60 * self.request.minutes - (time.monotonic() - self.started)
            if step.needs_gpu and not self._on_gpu and not self.request.is_cpu:
                result.found = "torch finds no GPU"
            elif left_s >= SHORTEST_S:
                began = time.monotonic()
                result.status = "interrupted"  # unless the step comes to its end
                print(f"{step.name} …", flush=True)
                try:
                    step.act(result, min(left_s, step.limit_s))
                finally:
                    result.seconds = time.monotonic() - began
            print(f"{step.name}: {result.status} {result.found}", flush=True)
            self.report.write(self.request.out)

    def steps(self) -> Iterator[Step]:
        """Yield the steps, the most important first."""
        first, *others = self.request.templates or list_templates(templates_root())
        tests = sorted(path for path in ROOT.glob("tests/**/test_*.py") if "pytest.mark.gpu" in path.read_text("utf-8"))
        quick = [path for path in tests if path != ROOT / _LONG_TEST]
        yield Step(name="detect", limit_s=30, act=self._detect, needs_gpu=False)
        # without a project, because its lockfile would describe another environment than this one
        yield Step(name="verify machine", limit_s=60, act=partial(self._verify, "machine", None), needs_gpu=False)
        yield Step(name="verify env", limit_s=90, act=partial(self._verify, "env", None), needs_gpu=False)
        yield Step(name=f"verify {first}", limit_s=180, act=partial(self._verify, "train", first))
        yield Step(name="speed", limit_s=180, act=partial(self._measure, ("models", "language_model")))
        yield Step(name="CUDA graphs", limit_s=90, act=partial(self._measure, ("graphs",)))
        yield Step(name="tests", limit_s=120, act=partial(self._test, quick))
        for template in (first, *others):
            yield Step(name=f"smoke test {template}", limit_s=90, act=partial(self._smoke, template))
        for template in others:
            yield Step(name=f"verify {template}", limit_s=120, act=partial(self._verify, "train", template))
        yield Step(name="torch.compile", limit_s=240, act=partial(self._measure, ("compilation",)))
        yield Step(name="tests of verify", limit_s=240, act=partial(self._test, [ROOT / _LONG_TEST]))

    @property
    def _on_gpu(self) -> bool:
        return self.has_gpu and not self.request.is_cpu

    def _describe_device(self) -> None:
        command = (sys.executable, "-c", _DEVICE)
        end, lines = run_child(Child(command=command, environment=self.environment, folder=ROOT, limit_s=60))
        found = lines[-1] if lines else {"torch": end.in_words, "gpus": []}
        self.has_gpu = bool(found.pop("gpus"))
        self.report.device = {"python": platform.python_version(), **found}

    def _detect(self, result: Result, limit_s: float) -> None:
        end, output = self._module(ROOT, limit_s, "envforge", "detect", "--json", "--redact")
        record = _result_of(output)
        if record is None:
            return _complete(result, end, output)
        result.record = record
        gpus = record.get("gpus", [])
        names = [f"{gpu.get('name')} (compute capability {gpu.get('compute_capability')})" for gpu in gpus]
        driver = (record.get("driver") or {}).get("user_version") or "none"
        self.report.device |= {"name": ", ".join(names) or "CPU", "driver": driver}
        return _complete(result, end, output, f"{', '.join(names) or 'no GPU'}; driver {driver}")

    def _verify(self, question: str, template: str | None, result: Result, limit_s: float) -> None:
        of_child = max(SHORTEST_S, min(120.0, 0.8 * limit_s))  # a check that hangs must leave time for the others
        arguments = [question, "--prefix", str(self.prefix), "--limit", f"{of_child:.0f}"]
        if template is not None and not self.request.is_cpu:
            arguments += ["--deep", "--skip", SAME_MODELS]
        folder = self.request.scratch if template is None else self._project(template)
        end, output = self._module(folder, limit_s, "envforge", "verify", *arguments, "--json")
        report = _result_of(output)
        if report is None:
            return _complete(result, end, output)
        result.record = report
        found = [f"{count} {verdict}" for verdict, count in report["counts"].items() if count]
        for verdict in ("fail", "unknown", "warn"):
            names = [each["check"] for each in report["findings"] if each["verdict"] == verdict]
            found += [f"{verdict}: {', '.join(dict.fromkeys(names))}"] if names else []
        failed = [f"{each['check']}: {each['observed']}" for each in report["findings"] if each["verdict"] == "fail"]
        devices = (report["record"].get("training") or {}).get("devices", ())
        no_gpu = self._on_gpu and template is not None and not any(each["is_gpu"] for each in devices)
        lacks = ["verify found no GPU, but torch does"] if no_gpu else []
        return _complete(result, end, "\n".join(failed), "; ".join(found), lacks)

    def _smoke(self, template: str, result: Result, limit_s: float) -> None:
        how = ["--skip-gpu", "CPU mode"] if self.request.is_cpu else ["--require-gpu"]
        end, output = self._module(self._project(template), limit_s, f"{NAME}.smoke", *how)
        checks = [line for line in output.splitlines() if line.startswith(("ok  ", "FAIL"))]
        failed = [line for line in checks if line.startswith("FAIL")]
        _complete(result, end, output, "; ".join(failed) or f"{len(checks)} checks")

    def _test(self, files: list[Path], result: Result, limit_s: float) -> None:
        # their warnings are about versions of packages that envforge doesn't choose
        options = ["-m", "gpu", "-v", "-rs", "-W", "default", "-p", "no:cacheprovider"]
        end, output = self._module(ROOT, limit_s, "pytest", *options, *map(str, files))
        lines = output.splitlines()
        failed = [line for line in lines if line.startswith("FAILED") or " FAILED " in line or " ERROR " in line]
        last = (lines or [""])[-1].strip("= ")
        lacks = ["no test ran"] if self._on_gpu and " passed" not in last else []  # all of them skip without a GPU
        _complete(result, end, output, "; ".join([last, *failed]), lacks)

    def _measure(self, measures: tuple[str, ...], result: Result, limit_s: float) -> None:
        specification = {
            "device": "cuda:0" if self._on_gpu else "cpu",
            "measures": measures,
            "tiny": self.request.is_cpu,
        }
        raised: list[str] = []

        def hear(line: dict[str, Any]) -> None:
            if line["event"] == "run":
                result.runs.append({name: value for name, value in line.items() if name != "event"})
                self.report.write(self.request.out)
            elif line["event"] == "raised":
                raised.append(f"{line['measure']}: {line['error']}")

        command = measuring_command(Path(sys.executable), "tools.gpu_acceptance.measures", json.dumps(specification))
        child = Child(command=command, environment=self.environment, folder=ROOT, limit_s=limit_s, hear=hear)
        end, _ = run_child(child)
        errors = [run["error"] for run in result.runs if "error" in run]
        wrong = [error for error in errors if not error.startswith(_EXPECTED)]
        _complete(result, end, end.stderr, f"{len(result.runs)} runs", failed=[*raised, *wrong])

    def _project(self, template: str) -> Path:
        folder = self.request.scratch / template
        if not folder.exists():
            render(template, folder)
        return folder

    def _module(self, folder: Path, limit_s: float, module: str, *arguments: str) -> tuple[ProcessEnd, str]:
        """Run a module with the unpacked wheels, and return what it printed."""
        output = self.request.scratch / "output"
        output.write_text("", encoding="utf-8")
        paths = os.pathsep.join(self.request.paths)
        command = (sys.executable, "-c", _SCRIPT, str(output), paths, module, *arguments)
        end, _ = run_child(Child(command=command, environment=self.environment, folder=folder, limit_s=limit_s))
        return end, output.read_text(encoding="utf-8", errors="replace")


def _result_of(output: str) -> dict[str, Any] | None:
    """Return the result in the JSON that a command printed, or None if it printed none."""
    try:
        found = json.loads(output)
    except ValueError:
        return None
    result = found.get("result", found)
    return result if isinstance(result, dict) else None


def _complete(result: Result, end: ProcessEnd, output: str, found: str = "", failed: list[str] | None = None) -> None:
    """Note how a step ended, and keep the end of its output unless it passed."""
    result.status = "late" if end.is_late else "passed" if end.is_good and not failed else "failed"
    result.found = "; ".join(filter(None, [found, *(failed or ()), "" if end.is_good else end.in_words]))
    if result.status != "passed":
        result.output = "\n".join([*output.splitlines()[-LAST_LINES:], *end.stderr.splitlines()[-LAST_LINES:]])
