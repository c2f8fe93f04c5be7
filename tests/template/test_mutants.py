"""Deliberate faults in the rendered project: each must turn the project's own tests, or its smoke test, red."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.template.conftest import PACKAGE

AMP, CHECKPOINT, ORDER, DEVICE, METRICS, LOOP, MEMORY, RANKS, TRAIN, DATA, SMOKE = (
    f"tests/test_{name}.py"
    for name in (
        *("amp", "checkpoint", "order", "device", "metrics", "loop", "memory", "distributed"),
        *("train", "data", "smoke"),
    )
)
SHARES = f"{RANKS}::test_ranks_have_consecutive_parts_of_what_one_rank_would_have"
TWO_RANKS = f"{RANKS}::test_two_ranks_learn_what_one_learns_with_the_double_batch"
TOGETHER = f"{RANKS}::test_a_signal_to_one_rank_stops_both_and_they_resume_to_the_same_bits"
AVERAGES = f"{LOOP}::test_averages_and_best_value_come_back_after_a_stop"
EVALUATED = f"{LOOP}::test_evaluation_sees_the_averages_and_training_goes_on_with_the_weights"
NO_TRACE = f"{MEMORY}::test_the_search_leaves_no_trace_in_what_is_learnt"
COMPILED = f"{LOOP}::test_a_compiled_model_learns_the_same_with_the_backward_pass_outside_autocast"
ADVICE = f"{MEMORY}::test_out_of_memory_is_an_error_with_advice"
FITTING = f"{MEMORY}::test_the_batch_that_fits_makes_the_same_updates"
KEPT = f"{MEMORY}::test_a_resumed_run_keeps_the_batch_that_was_found"
BEST = f"{LOOP}::test_the_best_checkpoint_is_kept_besides_the_last_ones"
RESUME = f"{TRAIN}::test_a_run_that_was_stopped_resumes_to_the_same_bits"
FORKS = Path(__file__).with_name("forks.py")

GUARD = "        if self._scaler is not None:\n"
UNSCALE = "            self._scaler.unscale_(self.optimizer)\n"
CLIP = "        norm = parallel.whole(nn.utils.clip_grad_norm_(self._parameters, self._clip_norm))\n"
BAD = "        verdict = mean_loss + norm\n        bad = verdict - verdict != 0  # finite: 0; else: NaN. Three small kernels, not isfinite's ten\n"
STEP = "        self._step_unless(bad)\n"
ZERO = "        self.optimizer.zero_grad(set_to_none=True)\n"
SCALED = "                self._scaled(loss).backward()\n"
WEIGHT = "* (len(batch[0]) * distributed.ranks() / total)"


@dataclass(frozen=True)
class Mutant:
    """A fault: ``old`` becomes ``new`` in a module of the package; ``tests`` are the ones that must notice."""

    name: str
    module: str
    old: str
    new: str
    tests: str


MUTANTS = (
    Mutant("unscale dropped", "amp", UNSCALE, "            pass\n", AMP),
    Mutant("clipping dropped", "amp", "self._clip_norm))", "1e9))", AMP),
    Mutant("clip before unscale", "amp", GUARD + UNSCALE + CLIP, CLIP + GUARD + UNSCALE, AMP),
    Mutant("clip after step", "amp", CLIP + BAD + STEP, BAD.replace(" + norm", "") + STEP + CLIP, AMP),
    Mutant("step doubled", "amp", STEP, STEP + "        self.optimizer.step()\n", AMP),
    Mutant("forward outside autocast", "amp", "with self.autocast():", "if True:", AMP),
    Mutant("backward inside autocast", "amp", SCALED, "                with self.autocast():\n    " + SCALED, AMP),
    Mutant("gradients never cleared", "amp", ZERO, "", AMP),
    Mutant("gradients cleared before the step", "amp", STEP, ZERO + STEP, AMP),
    Mutant("loss not scaled", "amp", "self._scaled(loss).backward()", "loss.backward()", AMP),
    Mutant("scaler never updated", "amp", "            self._scaler.update()\n", "", AMP),
    Mutant("scaler for bf16", "amp", "if precision.scaled:", "if precision.dtype is not None:", AMP),
    Mutant("micro-batches weigh alike", "amp", WEIGHT, "/ len(batches)", AMP),
    Mutant("micro-batches summed", "amp", WEIGHT, "* 1.0", AMP),
    Mutant("bad updates applied", "amp", BAD, BAD + "        bad = torch.zeros_like(bad)\n", AMP),
    Mutant("loss not guarded by a skip", "amp", "self.skipped += 1\n", "pass\n", AMP),
    Mutant("statistics not put back", "amp", "        self._statistics.put_back_if(bad)\n", "", AMP),
    Mutant("no end to skipping", "amp", "self.skipped_in_row >= self.max_skips", "False", AMP),
    Mutant("no alarm for the scale", "amp", "if scale < 1.0:", "if False:", AMP),
    Mutant("scaler not restored", "amp", 'self._scaler.load_state_dict(state["scaler"])', "pass", RESUME),
    Mutant("updates not restored", "amp", 'self.started = state["started"]', "self.started = 0", RESUME),
    Mutant(
        "bf16 on a T4", "device", "        if ability.bf16:\n", "        if ability.capability >= (7, 0):\n", DEVICE
    ),
    Mutant("torch generator not restored", "checkpoint", 'torch.set_rng_state(state["torch"])', "pass", CHECKPOINT),
    Mutant("numpy generator not restored", "checkpoint", "    numpy.random.set_state(", "    print(", CHECKPOINT),
    Mutant(
        "checkpoint written in place",
        "checkpoint",
        'path.with_name(f".{path.name}.{os.getpid()}.tmp")',
        "path",
        CHECKPOINT,
    ),
    Mutant("checksum not compared", "checkpoint", "if actual != wanted:", "if False:", CHECKPOINT),
    Mutant("old checkpoints kept", "checkpoint", "[: -self.keep]", "[:0]", CHECKPOINT),
    Mutant(
        "generators not restored on resume",
        "training",
        'set_random_state(state["random"][distributed.rank()])',
        "pass",
        RESUME,
    ),
    Mutant("optimizer not restored", "training", 'self.optimizer.load_state_dict(state["optimizer"])', "pass", RESUME),
    Mutant(
        "position one off after accumulation",
        "training",
        "self.order.position += len(group)",
        "self.order.position += 1",
        RESUME,
    ),
    Mutant("last group dropped", "training", "        if group:\n            yield group\n", "", TRAIN),
    Mutant(
        "schedule moves on a skipped update",
        "training",
        "learning_rate(self.amp.applied,",
        "learning_rate(self.amp.started,",
        TRAIN,
    ),
    Mutant("lines repeated after resuming", "metrics", "<= resumed_at]", "<= 10**9]", METRICS),
    Mutant(
        "loader without its own generator",
        "order",
        "        generator=torch.Generator().manual_seed(order.seed),\n",
        "",
        ORDER,
    ),
    Mutant("every epoch in the same order", "order", "1_000_003 + self.epoch", "1_000_003", ORDER),
    Mutant("position ignored", "order", "range(self.position,", "range(0,", ORDER),
    Mutant("control sees true labels", "data", "if config.shuffle_labels:", "if False:", SMOKE),
    Mutant("validation images in training", "data", "sorted(shuffled[first:])", "sorted(shuffled)", DATA),
    Mutant("constant loss", "train", "return functional.cross_entropy(", "return 0 * functional.cross_entropy(", SMOKE),
    Mutant(
        "nothing in low precision", "amp", "self._device.type, self.precision.dtype)", "self._device.type, None)", SMOKE
    ),
    Mutant("model in half precision", "amp", "self.model = model\n", "self.model = model.half()\n", AMP),
    Mutant("fp32 computes in tf32", "start", 'precision.name != "fp32" or config.precision == "auto"', "True", DEVICE),
    Mutant("cudnn keeps its tf32", "compat", "    torch.backends.cudnn.allow_tf32 = enabled\n", "", DEVICE),
    Mutant(
        "deterministic ignored", "start", "if config.deterministic:\n        compat", "if 0:\n        compat", DEVICE
    ),
    Mutant("fp8 on an A100", "device", "ability.capability < (8, 9)", "ability.capability < (8, 0)", DEVICE),
    Mutant("fp8 for small layers", "fp8", "min(sides) >= SMALLEST and", "", DEVICE),
    Mutant("ranks without shares", "order", "[start + first : start + end]", "[start : start + samples]", SHARES),
    Mutant("a rank without a sample", "order", "(rest >= self.ranks)", "(rest > 0)", SHARES),
    Mutant(
        "gradients travel with each micro-batch", "parallel", "model.no_sync()", "contextlib.nullcontext()", TWO_RANKS
    ),
    Mutant("ranks weigh alike", "training", "            samples=samples,\n", "", TWO_RANKS),
    Mutant("loss of one rank for all", "amp", "        distributed.average(mean_loss)\n", "", TWO_RANKS),
    Mutant("each rank evaluates all", "distributed", "range(rank(), size, ranks())", "range(size)", TWO_RANKS),
    Mutant("generators of the first rank for all", "training", "[distributed.rank()])", "[0])", TOGETHER),
    Mutant("a signal to one rank is not heard", "distributed", "dist.ReduceOp.MAX", "dist.ReduceOp.MIN", TOGETHER),
    Mutant("averages not saved", "training", "self.ema.state() if", "Ema(self.model, 0.5).state() if", EVALUATED),
    Mutant("averages not restored", "training", 'self.ema.load_state(state["ema"])', "pass", AVERAGES),
    Mutant("best value not restored", "training", 'self.best = state["best"]', "pass", AVERAGES),
    Mutant(
        "averages not evaluated",
        "ema",
        "        self._put(self._averages)\n",
        "",
        EVALUATED,
    ),
    Mutant(
        "averages stay in the model",
        "ema",
        "            self._put(own)\n",
        "            pass\n",
        f"{LOOP}::test_averages_follow_by_their_decay_and_a_skipped_update_counts_for_nothing",
    ),
    Mutant(
        "averages move on a skipped update",
        "ema",
        "torch.where(skipped, 0.0,",
        "torch.where(~skipped, 0.0,",
        f"{LOOP}::test_averages_follow_by_their_decay_and_a_skipped_update_counts_for_nothing",
    ),
    Mutant("the newest counts as the best", "training", "not metric.stays_short(value, self.best)", "True", BEST),
    Mutant("higher is always better", "training", "metric.stays_short(value, self.best)", "(value <= self.best)", BEST),
    Mutant("the best goes with the old ones", "loop", "checkpoints.keep_as_best(path)", "pass", BEST),
    Mutant(
        "a newer checkpoint is read",
        "checkpoint",
        "if found != FORMAT:",
        "if False:",
        f"{LOOP}::test_a_checkpoint_of_another_model_or_a_newer_version_is_refused",
    ),
    Mutant(
        "growth interval ignored",
        "training",
        "growth_interval=config.growth_interval,",
        "",
        f"{LOOP}::test_the_loop_hands_its_options_to_the_scaler",
    ),
    Mutant(
        "anomalies not looked for",
        "start",
        "set_detect_anomaly(config.detect_anomaly)",
        "set_detect_anomaly(False)",
        f"{LOOP}::test_anomaly_detection_names_the_operation",
    ),
    Mutant(
        "dead loader not explained",
        "order",
        '"DataLoader worker" not in str(error)',
        "True",
        f"{LOOP}::test_a_loading_process_killed_by_a_bus_error_becomes_a_hint",
    ),
    Mutant("bad data not named", "amp", "{_bad_data(batches)}", "", f"{LOOP}::test_data_that_is_not_finite_is_named"),
    Mutant("not compiled", "training", "if config.compile else self._wrapped", "if False else self._wrapped", COMPILED),
    Mutant("autocast around a compiled backward", "compat", 'backward_pass_autocast = "off"', "no_such = 1", COMPILED),
    Mutant("out of memory not caught", "run", "except compat.OUT_OF_MEMORY", "except ZeroDivisionError", ADVICE),
    Mutant("effective batch lost", "memory", "accumulate=effective // found", "accumulate=config.accumulate", FITTING),
    Mutant("batch sought again on resume", "memory", "if config.resume and (", "if config.epochs < 0 and (", KEPT),
    Mutant("search changes the seed", "run", "            seed_everything(config.seed)\n", "", NO_TRACE),
    Mutant("weights never move", "training", "_rate(self.optimizer, rate)", "_rate(self.optimizer, 0.0)", SMOKE),
)


@pytest.fixture(scope="module")
def outcomes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of pytest for each mutant, and under the name "" for the project as it is."""
    base = tmp_path_factory.mktemp("mutants")
    jobs: list[tuple[Path, tuple[str, ...]]] = []
    jobs += [
        (
            _copy(project, base / "sound", None),
            (AMP, CHECKPOINT, ORDER, DEVICE, METRICS, LOOP, MEMORY, RANKS, TRAIN, DATA),
        )
    ]
    jobs += [(_copy(project, base / str(number), mutant), (mutant.tests,)) for number, mutant in enumerate(MUTANTS)]
    runners = [(jobs[half::2], _runner(jobs[half::2])) for half in (0, 1)]
    for _, runner in runners:
        assert runner.wait(timeout=900) == 0
    names = {folder: name for (folder, _), name in zip(jobs, ["", *(mutant.name for mutant in MUTANTS)], strict=True)}
    found = {}
    for share, runner in runners:
        assert runner.stdout is not None
        for (folder, _), code in zip(share, json.load(runner.stdout), strict=True):
            found[names[folder]] = (code, (folder / "pytest.txt").read_text(encoding="utf-8"))
        runner.stdout.close()
    return found


def _runner(jobs: Sequence[tuple[Path, tuple[str, ...]]]) -> subprocess.Popen[str]:
    runner = subprocess.Popen(
        [sys.executable, str(FORKS)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert runner.stdin is not None
    with runner.stdin:
        json.dump([(str(folder), tests) for folder, tests in jobs], runner.stdin)
    return runner


def _copy(project: Path, folder: Path, mutant: Mutant | None) -> Path:
    for part in (PACKAGE, "tests", "pyproject.toml"):
        source = project / part
        if source.is_dir():
            shutil.copytree(source, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    if mutant is not None:
        path = folder / PACKAGE / f"{mutant.module}.py"
        text = path.read_text(encoding="utf-8")
        changed = text.replace(mutant.old, mutant.new)
        if mutant.name == "clip before unscale":
            changed = changed.replace(
                "        if self._scaler is not None:\n" + UNSCALE,
                CLIP + "        if self._scaler is not None:\n" + UNSCALE,
            )
        assert changed != text, f"{mutant.name}: `{mutant.old}` is no longer in {mutant.module}.py"
        path.write_text(changed, encoding="utf-8")
    return folder


@pytest.mark.slow
def test_the_project_without_a_fault_passes(outcomes: dict[str, tuple[int, str]]) -> None:
    code, output = outcomes[""]
    assert code == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("name", [mutant.name for mutant in MUTANTS])
def test_each_fault_is_caught_by_a_failing_test(outcomes: dict[str, tuple[int, str]], name: str) -> None:
    code, output = outcomes[name]
    assert code == 1, output  # 1 is a test that failed; 2 and above would be a mutant that does not even load
