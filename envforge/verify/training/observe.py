"""Measure the training in one process per GPU, with progress.

The output of a process that crashed or hung is kept.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import Struct, field
from msgspec.structs import replace

from envforge.base.process import Child, run_child
from envforge.errors import EnvforgeError
from envforge.machine.probe import probe
from envforge.project.record import read_project_file
from envforge.verify.environment.observe import (
    PROGRAMS,
    child_environment,
    locked_torch,
    machine_facts,
    measuring_command,
    prefix_state,
    python_of,
)
from envforge.verify.training.facts import MEASUREMENTS, CollectiveFacts, DeviceFacts, TrainingFacts
from envforge.verify.training.measurements import Sample, device_facts, sampling
from envforge.verify.values import COSTS, Cost, Signal

if TYPE_CHECKING:
    from envforge.verify.observe import Situation

_QUIET_S = 2.0  # until then, the line that names the measurement is recent enough
_ENOUGH_S = 8.0  # of typical durations must pass before the speed of this run is known
# in a child process, because CUDA can hang
_COUNT_GPUS = """
import json, torch, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print("@envforge " + json.dumps({"count": count, "warnings": [str(each.message) for each in caught]}))
"""


class MeasurementProgress(Struct, kw_only=True):
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
            self._share = line["number"] / max(line["of"], 1)  # more exact than the typical duration
        elif event in ("value", "raised") and name == self._running:
            self._taken[name] = self.clock() - self._since
            self._running = ""
        if event == "raised" and name in self.measures:
            self.say(f"{self.device}: {MEASUREMENTS[name].text}: failed")

    def tick(self, _elapsed_s: float) -> None:
        """Report the measurement that is still running, its time, and the estimate of the time left."""
        elapsed_s = self.clock() - self._since
        if not self._running or elapsed_s < _QUIET_S:
            return
        left_s, estimate = self._left(elapsed_s), ""
        if left_s is not None:
            rounded = f"{round(left_s / 60)} min" if left_s >= 90 else f"{max(5, 5 * round(left_s / 5))} s"
            estimate = f", about {rounded} left"
        self.say(f"{self._line()} ({elapsed_s:.0f} s{estimate})")

    def _line(self) -> str:
        position = f" {self.measures.index(self._running) + 1}/{len(self.measures)}" * (len(self.measures) > 1)
        return f"{self.device}{position}: {MEASUREMENTS[self._running].text}"

    def _left(self, elapsed_s: float) -> float | None:
        """Return the estimated seconds until the process is done; None while nothing is known."""
        following = self.measures[self.measures.index(self._running) + 1 :]
        typical_s, taken_s = sum(MEASUREMENTS[name].typical_s for name in self._taken), sum(self._taken.values())
        current_typical_s = MEASUREMENTS[self._running].typical_s
        if self._share > 0:
            current_s = elapsed_s / self._share
            scale = (taken_s + current_s) / (typical_s + current_typical_s)
        elif typical_s >= _ENOUGH_S:
            scale = taken_s / typical_s
            current_s = scale * current_typical_s
        else:
            return None
        return max(current_s - elapsed_s, 0.0) + scale * sum(MEASUREMENTS[name].typical_s for name in following)


class _Session(Struct, frozen=True, kw_only=True):
    """The values that are the same for all devices; ``no_package`` is the reason why there is no package."""

    situation: Situation
    python: Path
    package: str | None
    no_package: str
    environment: Mapping[str, str]

    def child(self, *command: str) -> Child:
        """Return a process of the environment's Python."""
        folder = self.situation.project or self.situation.folder
        return Child(command=command, environment=self.environment, folder=folder, limit_s=self.situation.limit_s)

    def measuring(self, device: str, measures: tuple[str, ...]) -> Child:
        """Return the process that takes these measurements one after the other and reports its progress."""
        specification = {
            "device": device,
            "measures": measures,
            "package": self.package,
            "project": str(self.situation.project) if self.situation.project else None,
        }
        progress = MeasurementProgress(device=device, measures=measures, say=self.situation.say)
        child = self.child(*measuring_command(self.python, "envforge_measures", json.dumps(specification)))
        return replace(child, hear=progress.hear, tick=progress.tick)

    def measures(self, *, on_gpu: bool, apart: bool) -> tuple[str, ...]:
        """Return the measurements that a selected check needs and this device can take."""
        possible = measures_of(self.situation.depth, has_project=self.package is not None, on_gpu=on_gpu, apart=apart)
        wanted = {name for name in MEASUREMENTS if self.situation.wants(name)}
        # they need the import of the project, which is measured first
        if any(MEASUREMENTS[name].of_project for name in wanted):
            wanted.add("project")
        # every other measurement needs to know the device
        if wanted:
            wanted.add("device")
        return tuple(name for name in possible if name in wanted)


def measures_of(depth: Cost, *, has_project: bool, on_gpu: bool, apart: bool = False) -> tuple[str, ...]:
    """Return the measurements at a depth, either those of the main process or those that run apart."""
    return tuple(
        name
        for name, each in MEASUREMENTS.items()
        if each.is_apart == apart
        # a deep run takes all of them
        and COSTS.index(each.cost) <= COSTS.index(depth)
        and (has_project or not each.of_project)
        and (on_gpu or not each.needs_gpu)
    )


def observe_training(situation: Situation) -> TrainingFacts:
    """Measure every GPU that torch finds, or else the CPU, and record why no GPU was used."""
    machine = probe(situation.world)
    known = {name: value for name, value in machine_facts(machine).items() if name in ("driver", "machine_gpus")}
    facts = TrainingFacts(python=None, locked=locked_torch(situation.lock, machine.platform), **known)
    state, text = prefix_state(situation.prefix)
    python = python_of(situation.prefix) if situation.prefix is not None else None
    if situation.prefix is None or python is None or state not in ("finished", "foreign", "virtual"):
        reason = f"{text}, without Python" if python is None and state == "finished" else text
        return replace(facts, unreadable=reason)
    package, no_package = package_of(situation.project)
    facts = replace(facts, python=str(python), package=package)
    with tempfile.TemporaryDirectory(prefix="envforge-verify-") as scratch:
        session = _Session(
            situation=situation,
            python=python,
            package=package,
            no_package=no_package,
            environment=_variables(child_environment(situation.prefix, situation.world.environment), scratch),
        )
        gpus, no_gpu = _gpu_count(session) if machine.has_nvidia else (0, None)
        names = [f"cuda:{index}" for index in range(gpus)] or ["cpu"]
        # one after the other, so that no device slows another
        devices = tuple(filter(None, (_measure(session, name) for name in names)))
        facts = replace(facts, devices=devices, no_gpu=no_gpu)
        # one process has nothing to exchange
        if (gpus > 1 or situation.depth == "deep") and situation.wants("collective"):
            facts = _with_collective(facts, session, gpus)
    return facts


def _variables(environment: Mapping[str, str], scratch: str) -> dict[str, str]:
    # deterministic runs require the first; CUDA reads it only at startup
    added = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8", "TMPDIR": scratch}
    launcher = ("RANK", "LOCAL_RANK", "WORLD_SIZE")  # set by a launcher, but each process here is independent
    return {name: value for name, value in {**environment, **added}.items() if name not in launcher}


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


def _gpu_count(session: _Session) -> tuple[int, str | None]:
    """Return the number of GPUs that torch can use, or why there are none."""
    session.situation.say("counting the GPUs that torch finds")
    end, lines = run_child(session.child(str(session.python), "-c", _COUNT_GPUS))
    if lines and lines[-1].get("count"):
        return int(lines[-1]["count"]), None
    if not lines:  # the import of torch failed, or CUDA crashed
        return 0, ": ".join([end.in_words, *end.stderr.splitlines()[-1:]])[:1000]
    return 0, ": ".join(["torch.cuda.is_available() is False", *lines[-1].get("warnings", [])[-1:]])[:1000]


def _measure(session: _Session, device: str) -> DeviceFacts | None:
    """Return the facts of one device that the selected checks need, or None if they need none."""
    on_gpu = device.startswith("cuda")
    asked = session.measures(on_gpu=on_gpu, apart=False)
    if not asked:
        return None
    with sampling(session.situation.world) if on_gpu else nullcontext[list[Sample]]([]) as samples:
        end, lines = run_child(session.measuring(device, asked))
    facts = device_facts(device, asked, end, lines, samples)
    if session.package is None:
        facts = replace(facts, project=Signal(unreadable=session.no_package))
    if end.is_good:  # a broken driver would cost the time limit again
        for measure in session.measures(on_gpu=on_gpu, apart=True):
            facts = _with_measure(facts, session, measure)
    return facts


def _with_measure(facts: DeviceFacts, session: _Session, measure: str) -> DeviceFacts:
    """Add one measurement in its own process, so that a crash doesn't affect the others."""
    end, lines = run_child(session.measuring(facts.device, (measure,)))
    own = device_facts(facts.device, (measure,), end, lines)
    signal: Signal[Any] = getattr(own, measure)
    died = signal.value is None and not own.raised and not end.is_late  # a timeout doesn't prove an error
    raised = {measure: end.in_words} if died else own.raised
    added: dict[str, Any] = {measure: signal}
    return replace(facts, asked=(*facts.asked, measure), raised={**facts.raised, **raised}, **added)


def _with_collective(facts: TrainingFacts, session: _Session, gpus: int) -> TrainingFacts:
    """Run an all-reduce with torchrun: over NCCL with two or more GPUs, else over gloo with two processes."""
    backend, ranks = ("nccl", gpus) if gpus > 1 else ("gloo", 2)
    torchrun = (str(session.python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    what = f"all-reduce over {ranks} processes with torchrun and {backend}"
    session.situation.say(what)
    child = session.child(*torchrun, str(PROGRAMS / "envforge_measures" / "collective.py"), backend)
    end, lines = run_child(replace(child, tick=lambda elapsed_s: session.situation.say(f"{what} ({elapsed_s:.0f} s)")))
    found: Signal[CollectiveFacts] = Signal(source=f"torchrun --nproc-per-node {ranks}, {backend}")
    said = [line for line in lines if line.get("event") == "rank"]  # torchrun mixes the output of its processes
    if len(said) == ranks:
        # the slowest process decides when all have the sum
        size, seconds = int(said[0]["bytes"]), max(float(line["seconds"]) for line in said)
        bus = size / seconds * 2 * (ranks - 1) / ranks  # bus bandwidth as in nccl-tests
        sums = tuple(line["sum"] for line in said)
        found = replace(found, value=CollectiveFacts(backend=backend, ranks=ranks, sums=sums, bus_bytes_per_s=bus))
    else:
        last = end.stderr.splitlines()[-1] if end.stderr else "no output"
        why = f"{len(said)} of {ranks} processes finished: {end.in_words}: {last[:300]}"
        found = replace(found, unreadable=why)
    return replace(facts, collective=found, collective_process=end)
