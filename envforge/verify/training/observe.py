"""Measure the training in one process per GPU, with progress.

The output of a process that crashed or hung is kept.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envforge.base.process import Child, run_child
from envforge.errors import EnvforgeError
from envforge.machine.probe import probe
from envforge.project.record import read_project_file
from envforge.verify.environment.observe import child_environment, locked_torch, machine_facts, prefix_state, python_of
from envforge.verify.findings import NEEDS, NEEDS_PROJECT
from envforge.verify.training.facts import CollectiveFacts, DeviceFacts, TrainingFacts
from envforge.verify.training.measurements import Samples, device_facts, sampling
from envforge.verify.values import Cost, Signal

if TYPE_CHECKING:
    from envforge.verify.observe import Situation

WORDS = {
    "device": "properties of the device",
    "matmul": "matrix products compared with float64",
    "convolution": "convolutions compared with float64",
    "attention": "attention compared with float64",
    "project": "import of the project",
    "learning": "training on true labels",
    "guard": "an update with a NaN inserted",
    "control": "training on shuffled labels",
    "scaler": "GradScaler with an overflow",
    "compare": "AMP and fp32",
    "throughput": "full load, with clocks and throttle reasons",
    "transfer": "copies to the GPU and back",
    "same_bits": "repeated runs of one kernel",
    "repeat": "a repeated and a resumed run",
    "compiled": "torch.compile",
    "models": "models of the size of ResNet-50 and ViT-B",
}
# typical relative durations, measured with the smoke test of image-classification; the scale follows from the run
_TYPICAL_S = {
    "device": 3.0, "matmul": 1.0, "convolution": 1.0, "attention": 1.0, "project": 1.0, "learning": 10.0, "guard": 1.0,
    "control": 10.0, "scaler": 2.0, "compare": 8.0, "throughput": 6.0, "transfer": 1.0, "same_bits": 2.0, "repeat": 6.0,
    "compiled": 40.0, "models": 40.0,
}  # fmt: skip
_QUIET_S = 2.0  # until then, the line that names the measurement is recent enough
_ENOUGH_S = 8.0  # of typical durations must pass before the speed of this run is known


@dataclass(kw_only=True, slots=True)
class Progress:
    """The measurements of one process; ``say`` receives one line of text at a time."""

    device: str
    measures: tuple[str, ...]
    say: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    _running: str = ""
    _since: float = 0.0
    _share: float = 0.0
    _taken: dict[str, float] = field(default_factory=dict)

    def hear(self, line: dict[str, Any]) -> None:
        """Report a measurement that starts or fails, and note how far it is."""
        event, name = line.get("event"), str(line.get("measure", ""))
        if event == "start" and name in self.measures:
            self._running, self._since, self._share = name, self.clock(), 0.0
            self.say(self._line())
        elif event == "update":
            self._share = line["number"] / max(line["of"], 1)
        elif event in ("value", "raised") and name == self._running:
            self._taken[name] = self.clock() - self._since
            self._running = ""
        if event == "raised":
            self.say(f"{self.device}: {WORDS.get(name, name)}: failed")

    def tick(self, _elapsed_s: float) -> None:
        """Report the measurement that is still running, its time, and the estimate of the time left."""
        elapsed_s = self.clock() - self._since
        if not self._running or elapsed_s < _QUIET_S:
            return
        left_s = self._left(elapsed_s)
        estimate = "" if left_s is None else f", about {_rounded(left_s)} left"
        self.say(f"{self._line()} ({elapsed_s:.0f} s{estimate})")

    def _line(self) -> str:
        words = WORDS.get(self._running, self._running)
        if len(self.measures) == 1:
            return f"{self.device}: {words}"
        return f"{self.device} {self.measures.index(self._running) + 1}/{len(self.measures)}: {words}"

    def _left(self, elapsed_s: float) -> float | None:
        """Return the estimated seconds until the process is done; None while nothing is known."""
        following = self.measures[self.measures.index(self._running) + 1 :]
        typical_s, taken_s = sum(_TYPICAL_S.get(name, 5.0) for name in self._taken), sum(self._taken.values())
        current_typical_s = _TYPICAL_S.get(self._running, 5.0)
        if self._share > 0:
            current_s = elapsed_s / self._share
            scale = (taken_s + current_s) / (typical_s + current_typical_s)
        elif typical_s >= _ENOUGH_S:
            scale = taken_s / typical_s
            current_s = scale * current_typical_s
        else:
            return None
        return max(current_s - elapsed_s, 0.0) + scale * sum(_TYPICAL_S.get(name, 5.0) for name in following)


def _rounded(seconds: float) -> str:
    if seconds >= 90:
        return f"{round(seconds / 60)} min"
    return f"{max(5, 5 * round(seconds / 5))} s"


KERNELS = ("device", "matmul", "convolution", "attention")
TRAINING = ("project", "learning", "guard", "control", "scaler", "compare")
START = "import sys; sys.path.append(sys.argv[1]); from envforge_measures.main import main; main(sys.argv[2])"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """The values that are the same for all devices."""

    situation: Situation
    prefix: Path
    python: Path
    package: str | None
    measures: Path
    environment: Mapping[str, str]


def observe_training(situation: Situation) -> TrainingFacts:
    """Measure every GPU that torch finds, or else the CPU, and record why no GPU was used."""
    machine = probe(situation.world)
    known = machine_facts(machine)
    facts = TrainingFacts(
        python=None,
        driver=known["driver"],
        machine_gpus=known["machine_gpus"],
        locked=locked_torch(situation.lock, machine.platform),
    )
    state, text = prefix_state(situation.prefix)
    python = python_of(situation.prefix) if situation.prefix is not None else None
    if situation.prefix is None or python is None or state not in ("finished", "foreign", "virtual"):
        return replace(
            facts, unreadable=text if python is not None or state != "finished" else f"{text}, without Python"
        )
    package, why = package_of(situation.project)
    facts = replace(facts, python=str(python), package=package)
    with ExitStack() as stack:
        folder = stack.enter_context(as_file(files("envforge") / "verify" / "training"))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="envforge-verify-"))
        environment = {
            **child_environment(situation.prefix, situation.world.environment),
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # deterministic runs require it; CUDA reads it only at startup
            "TMPDIR": scratch,
        }
        for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):  # set by a launcher, but each process here is independent
            environment.pop(name, None)
        plan = _Plan(
            situation=situation,
            prefix=situation.prefix,
            python=python,
            package=package,
            measures=folder,
            environment=environment,
        )
        gpus, no_gpu = _gpu_count(plan) if machine.has_nvidia else (0, None)
        names = [f"cuda:{index}" for index in range(gpus)] or ["cpu"]
        # one after the other, so that no device slows another
        devices = tuple(filter(None, (_measure(plan, name, why) for name in names)))
        facts = replace(facts, devices=devices, no_gpu=no_gpu)
        if (gpus > 1 or situation.depth == "deep") and situation.wants("collective"):
            facts = _with_collective(facts, plan, gpus)
    return facts


def package_of(project: Path | None) -> tuple[str | None, str]:
    """Return the package of a project that envforge created, or the reason why there is none."""
    if project is None:
        return None, "no project"
    try:
        record = read_project_file(project)
    except EnvforgeError as error:
        return None, error.message
    if record is None:
        return None, f"`{project}` has no envforge.toml, so its training code is unknown"
    return record.package, ""


def measures_of(depth: Cost, *, has_project: bool, on_gpu: bool) -> tuple[str, ...]:
    """Return the measurements at a depth; ``repeat`` is last because it makes torch deterministic."""
    if depth == "fast":
        return KERNELS
    speed = ("throughput", "transfer") if on_gpu else ()
    deep = ("same_bits",) if depth == "deep" else ()
    repeat = ("repeat",) if has_project else ()
    return (*KERNELS, *(TRAINING if has_project else ()), *speed, *deep, *repeat)


def wanted_measures(situation: Situation, measures: tuple[str, ...]) -> tuple[str, ...]:
    """Return the measurements that a selected check needs."""
    wanted = {need for needs in NEEDS.values() for need in needs if situation.wants(need)}
    if not wanted.isdisjoint(NEEDS_PROJECT):
        wanted.add("project")
    if wanted:
        wanted.add("device")
    return tuple(name for name in measures if name in wanted)


def _gpu_count(plan: _Plan) -> tuple[int, str | None]:
    """Return the number of GPUs that torch can use, or why there are none."""
    # in a child process, because CUDA can hang
    program = (
        "import torch; usable = torch.cuda.device_count() if torch.cuda.is_available() else 0; "
        "print('@envforge {\"count\": %d}' % usable)"
    )
    plan.situation.say("counting the GPUs that torch finds")
    end, lines = run_child(_child(plan, (str(plan.python), "-c", program)))
    if lines and lines[-1].get("count"):
        return int(lines[-1]["count"]), None
    said = [line for line in end.stderr.splitlines() if "Warning" in line or "Error" in line]
    why = "torch.cuda.is_available() is False" if end.is_good else end.in_words
    return 0, ": ".join([why, *said[-1:]])[:1000]


def _measure(plan: _Plan, device: str, why: str) -> DeviceFacts | None:
    """Return the facts of one device that the selected checks need, or None if they need none."""
    on_gpu = device.startswith("cuda")
    possible = measures_of(plan.situation.depth, has_project=plan.package is not None, on_gpu=on_gpu)
    asked = wanted_measures(plan.situation, possible)
    if not asked:
        return None
    with sampling(plan.situation.world) if on_gpu else nullcontext(Samples()) as samples:
        end, lines = run_child(_measuring(plan, device, asked))
    facts = device_facts(device, asked, end, lines, samples.said)
    if plan.package is None:
        facts = replace(facts, project=Signal(unreadable=why))
    if plan.situation.depth == "deep" and end.is_good:
        for measure in _apart(plan, on_gpu=on_gpu):
            facts = _with_measure(facts, plan, measure)
    return facts


def _apart(plan: _Plan, *, on_gpu: bool) -> tuple[str, ...]:
    """Return the measurements that get their own process and time limit: compilers hang, large models are slow."""
    possible = (*(("models",) if on_gpu else ()), *(("compiled",) if plan.package is not None else ()))
    return tuple(name for name in wanted_measures(plan.situation, possible) if name in possible)


def _with_measure(facts: DeviceFacts, plan: _Plan, measure: str) -> DeviceFacts:
    """Add one measurement in its own process, so that a crash doesn't affect the others."""
    end, lines = run_child(_measuring(plan, facts.device, (measure,)))
    own = device_facts(facts.device, (measure,), end, lines)
    signal: Signal[Any] = getattr(own, measure)
    died = signal.value is None and not own.raised and not end.is_late  # a timeout doesn't prove an error
    raised = {measure: end.in_words} if died else dict(own.raised)
    added: dict[str, Any] = {measure: signal}
    return replace(facts, asked=(*facts.asked, measure), raised={**facts.raised, **raised}, **added)


def _measuring(plan: _Plan, device: str, measures: tuple[str, ...]) -> Child:
    """Return the process that takes these measurements one after the other and reports its progress."""
    specification = {
        "device": device,
        "measures": measures,
        "package": plan.package,
        "project": str(plan.situation.project) if plan.situation.project else None,
    }
    command = (str(plan.python), "-c", START, str(plan.measures), json.dumps(specification))
    progress = Progress(device=device, measures=tuple(measures), say=plan.situation.say)
    return replace(_child(plan, command), hear=progress.hear, tick=progress.tick)


def _child(plan: _Plan, command: tuple[str, ...]) -> Child:
    return Child(
        command=command,
        environment=plan.environment,
        folder=plan.situation.project or plan.situation.folder,
        limit_s=plan.situation.limit_s,
    )


def _with_collective(facts: TrainingFacts, plan: _Plan, gpus: int) -> TrainingFacts:
    """Run an all-reduce with torchrun: over NCCL with two or more GPUs, else over gloo with two processes."""
    backend, ranks = ("nccl", gpus) if gpus > 1 else ("gloo", 2)
    program = plan.measures / "envforge_measures" / "collective.py"
    command = (str(plan.python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    what = f"all-reduce over {ranks} processes with torchrun and {backend}"
    plan.situation.say(what)
    child = _child(plan, (*command, str(program), backend))
    end, lines = run_child(replace(child, tick=lambda elapsed_s: plan.situation.say(f"{what} ({elapsed_s:.0f} s)")))
    source = f"torchrun --nproc-per-node {ranks}, {backend}"
    said = [line for line in lines if line.get("event") == "rank"]
    if len(said) != ranks:
        last = end.stderr.splitlines()[-1] if end.stderr else "no output"
        why = f"{len(said)} of {ranks} processes finished: {end.in_words}: {last[:300]}"
        return replace(facts, collective=Signal(source=source, unreadable=why), collective_process=end)
    size, seconds = int(said[0]["bytes"]), max(float(line["seconds"]) for line in said)
    value = CollectiveFacts(
        backend=backend,
        ranks=ranks,
        sums=tuple(line["sum"] for line in said),
        bytes=size,
        bus_bytes_per_s=size / seconds * 2 * (ranks - 1) / ranks,  # bus bandwidth as in nccl-tests
    )
    return replace(facts, collective=Signal(value=value, source=source), collective_process=end)
