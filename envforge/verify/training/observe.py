"""Measure the training: one process of the project's interpreter for each GPU, or one on the CPU (effects).

Enters: a ``Situation``. Leaves: ``TrainingFacts``. What a process said before it crashed or hung is kept.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING

from envforge.errors import EnvforgeError
from envforge.probe import probe
from envforge.project.record import read_project_file
from envforge.verify.environment.locked import locked_torch
from envforge.verify.environment.observe import child_environment, machine_facts, prefix_state, python_of
from envforge.verify.environment.process import Child, run_child
from envforge.verify.training.facts import CollectiveFacts, DeviceFacts, TrainingFacts
from envforge.verify.training.lines import device_facts
from envforge.verify.training.sampler import Samples, sampling
from envforge.verify.values import Cost, Signal

if TYPE_CHECKING:
    from envforge.verify.observe import Situation

KERNELS = ("device", "matmul", "convolution", "attention")
TRAINING = ("project", "learning", "guard", "control", "scaler", "compare")
START = "import sys; sys.path.append(sys.argv[1]); from envforge_measures.main import main; main(sys.argv[2])"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Plan:
    """Everything that is the same for all devices."""

    situation: Situation
    prefix: Path
    python: Path
    package: str | None
    measures: Path
    environment: Mapping[str, str]


def observe_training(situation: Situation) -> TrainingFacts:
    """Measure every GPU that torch sees; where it sees none, the CPU, and the facts say so."""
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
    if situation.prefix is None or python is None or state in ("missing", "unfinished", "damaged"):
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
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # read once, when CUDA starts: deterministic runs need it
            "TMPDIR": scratch,
        }
        plan = _Plan(
            situation=situation,
            prefix=situation.prefix,
            python=python,
            package=package,
            measures=folder,
            environment=environment,
        )
        devices = _devices(plan, why, has_driver=bool(known["driver"] and known["machine_gpus"]))
        facts = replace(facts, devices=devices)
        ranks = sum(device.is_gpu for device in devices)
        if ranks > 1 or situation.depth == "deep":
            facts = _with_collective(facts, plan, ranks)
    return facts


def package_of(project: Path | None) -> tuple[str | None, str]:
    """The package of a project that has the interface of our templates, or why there is none."""
    if project is None:
        return None, "there is no project here"
    try:
        record = read_project_file(project)
    except EnvforgeError as error:
        return None, error.message
    if record is None:
        return None, f"`{project}` has no envforge.toml: its training is not known"
    return record.package, ""


def measures_of(depth: Cost, *, has_project: bool, on_gpu: bool) -> tuple[str, ...]:
    """What is measured at a depth; ``repeat`` is late because it makes torch deterministic."""
    if depth == "fast":
        return KERNELS
    speed = ("throughput", "transfer") if on_gpu else ()
    deep = ("same_bits",) if depth == "deep" else ()
    repeat = ("repeat",) if has_project else ()
    return (*KERNELS, *(TRAINING if has_project else ()), *speed, *deep, *repeat)


def _devices(plan: _Plan, why: str, *, has_driver: bool) -> tuple[DeviceFacts, ...]:
    """The first process says how many GPUs torch sees; the others follow one by one, so that none slows another."""
    count = _gpu_count(plan) if has_driver else 0
    if count == 0:
        return (_measure(plan, "cpu", why),)
    return tuple(_measure(plan, f"cuda:{index}", why) for index in range(count))


def _gpu_count(plan: _Plan) -> int:
    """How many GPUs torch can use; asked in a process of its own, because CUDA may hang."""
    program = "import torch; print('@envforge {\"count\": %d}' % torch.cuda.device_count())"
    _, lines = run_child(_child(plan, (str(plan.python), "-c", program)))
    return int(lines[-1].get("count", 0)) if lines else 0


def _measure(plan: _Plan, device: str, why: str) -> DeviceFacts:
    on_gpu = device.startswith("cuda")
    asked = measures_of(plan.situation.depth, has_project=plan.package is not None, on_gpu=on_gpu)
    with sampling(plan.situation.world) if on_gpu else nullcontext(Samples()) as samples:
        end, lines = run_child(_child(plan, _command(plan, device, asked)))
    facts = device_facts(device, asked, end, lines, samples.read())
    if plan.package is None:
        return replace(facts, project=Signal(unreadable=why))
    if plan.situation.depth == "deep" and end.is_good:
        facts = _with_compiled(facts, plan, device)
    return facts


def _with_compiled(facts: DeviceFacts, plan: _Plan, device: str) -> DeviceFacts:
    """``torch.compile`` in a process of its own: compilers hang and crash, and that must cost nothing else."""
    end, lines = run_child(_child(plan, _command(plan, device, ("compiled",))))
    own = device_facts(device, ("compiled",), end, lines)
    raised = dict(own.raised) if own.compiled.value is not None or own.raised else {"compiled": end.in_words}
    return replace(facts, asked=(*facts.asked, "compiled"), compiled=own.compiled, raised={**facts.raised, **raised})


def _command(plan: _Plan, device: str, measures: tuple[str, ...]) -> tuple[str, ...]:
    specification = {
        "device": device,
        "measures": measures,
        "package": plan.package,
        "project": str(plan.situation.project) if plan.situation.project else None,
    }
    return (str(plan.python), "-c", START, str(plan.measures), json.dumps(specification))


def _child(plan: _Plan, command: tuple[str, ...]) -> Child:
    return Child(
        command=command,
        environment=plan.environment,
        folder=plan.situation.project or plan.situation.folder,
        limit_s=plan.situation.limit_s,
    )


def _with_collective(facts: TrainingFacts, plan: _Plan, gpus: int) -> TrainingFacts:
    """An all-reduce by torchrun: over NCCL with two GPUs or more, else over gloo with two processes."""
    backend, ranks = ("nccl", gpus) if gpus > 1 else ("gloo", 2)
    program = plan.measures / "envforge_measures" / "collective.py"
    command = (str(plan.python), "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks))
    end, lines = run_child(_child(plan, (*command, str(program), backend)))
    source = f"torchrun --nproc-per-node {ranks}, {backend}"
    said = [line for line in lines if line.get("event") == "rank"]
    if len(said) != ranks:
        last = end.stderr.splitlines()[-1] if end.stderr else "it said nothing"
        why = f"{len(said)} of {ranks} processes came to their end: {end.in_words}: {last[:300]}"
        return replace(facts, collective=Signal(source=source, unreadable=why), collective_process=end)
    size, seconds = int(said[0]["bytes"]), max(float(line["seconds"]) for line in said)
    value = CollectiveFacts(
        backend=backend,
        ranks=ranks,
        sums=tuple(line["sum"] for line in said),
        bytes=size,
        bus_bytes_per_s=size / seconds * 2 * (ranks - 1) / ranks,
    )
    return replace(facts, collective=Signal(value=value, source=source), collective_process=end)
