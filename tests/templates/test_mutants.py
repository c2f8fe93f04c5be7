"""Test that each deliberate error in the rendered project fails its own tests or its smoke test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates.faults import Fault, Job, Outcome, copy, job, run_jobs

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
SOUND = (AMP, CHECKPOINT, ORDER, DEVICE, METRICS, LOOP, MEMORY, RANKS, TRAIN, DATA)

GUARD = "        if self._scaler is not None:\n"
UNSCALE = "            self._scaler.unscale_(self.optimizer)\n"
CLIP = "        norm = parallel.whole(nn.utils.clip_grad_norm_(self._parameters, self._clip_norm))\n"
BAD = "        verdict = mean_loss + norm\n        bad = verdict - verdict != 0  # finite: 0; else: NaN. Three small kernels, not isfinite's ten\n"
STEP = "        self._step_unless(bad)\n"
ZERO = "        self.optimizer.zero_grad(set_to_none=True)\n"
SCALED = "                self._scaled(loss).backward()\n"
WEIGHT = "* (len(batch[0]) * distributed.ranks() / total)"


FAULTS = (
    Fault("unscale dropped", "amp", UNSCALE, "            pass\n", AMP),
    Fault("clipping dropped", "amp", "self._clip_norm))", "1e9))", AMP),
    Fault("clip before unscale", "amp", GUARD + UNSCALE + CLIP, CLIP + GUARD + UNSCALE, AMP),
    Fault("clip after step", "amp", CLIP + BAD + STEP, BAD.replace(" + norm", "") + STEP + CLIP, AMP),
    Fault("step doubled", "amp", STEP, STEP + "        self.optimizer.step()\n", AMP),
    Fault("forward outside autocast", "amp", "with self.autocast():", "if True:", AMP),
    Fault("backward inside autocast", "amp", SCALED, "                with self.autocast():\n    " + SCALED, AMP),
    Fault("gradients never cleared", "amp", ZERO, "", AMP),
    Fault("gradients cleared before the step", "amp", STEP, ZERO + STEP, AMP),
    Fault("loss not scaled", "amp", "self._scaled(loss).backward()", "loss.backward()", AMP),
    Fault("scaler never updated", "amp", "            self._scaler.update()\n", "", AMP),
    Fault("scaler for bf16", "amp", "if precision.scaled:", "if precision.dtype is not None:", AMP),
    Fault("micro-batches weigh alike", "amp", WEIGHT, "/ len(batches)", AMP),
    Fault("micro-batches summed", "amp", WEIGHT, "* 1.0", AMP),
    Fault("gradients not judged", "amp", "verdict = mean_loss + norm", "verdict = mean_loss", AMP),
    Fault("bad updates applied", "amp", BAD, BAD + "        bad = torch.zeros_like(bad)\n", AMP),
    Fault("loss not guarded by a skip", "amp", "self.skipped += 1\n", "pass\n", AMP),
    Fault("statistics not put back", "amp", "        self._statistics.put_back_if(bad)\n", "", AMP),
    Fault("no end to skipping", "amp", "self.skipped_in_row >= self.max_skips", "False", AMP),
    Fault("no alarm for the scale", "amp", "if scale < 1.0:", "if False:", AMP),
    Fault("scaler not restored", "amp", 'self._scaler.load_state_dict(state["scaler"])', "pass", RESUME),
    Fault("updates not restored", "amp", 'self.started = state["started"]', "self.started = 0", RESUME),
    Fault("bf16 on a T4", "device", "        if ability.bf16:\n", "        if ability.capability >= (7, 0):\n", DEVICE),
    Fault("torch generator not restored", "checkpoint", 'torch.set_rng_state(state["torch"])', "pass", CHECKPOINT),
    Fault("python generator not restored", "checkpoint", "    random.setstate(", "    print(", CHECKPOINT),
    Fault("numpy generator not restored", "checkpoint", "    numpy.random.set_state(", "    print(", CHECKPOINT),
    Fault(
        "checkpoint written in place",
        "checkpoint",
        'path.with_name(f".{path.name}.{os.getpid()}.tmp")',
        "path",
        CHECKPOINT,
    ),
    Fault("checksum not compared", "checkpoint", "if actual != wanted:", "if False:", CHECKPOINT),
    Fault("old checkpoints kept", "checkpoint", "[: -self.keep]", "[:0]", CHECKPOINT),
    Fault(
        "generators not restored on resume",
        "training",
        'set_random_state(state["random"][distributed.rank()])',
        "pass",
        RESUME,
    ),
    Fault("optimizer not restored", "training", 'self.optimizer.load_state_dict(state["optimizer"])', "pass", RESUME),
    Fault(
        "position one off after accumulation",
        "training",
        "self.order.position += len(group)",
        "self.order.position += 1",
        RESUME,
    ),
    Fault("accumulation off by one", "training", "== self.config.accumulate:", "> self.config.accumulate:", TRAIN),
    Fault("last group dropped", "training", "        if group:\n            yield group\n", "", TRAIN),
    Fault(
        "schedule moves on a skipped update",
        "training",
        "learning_rate(self.amp.applied,",
        "learning_rate(self.amp.started,",
        TRAIN,
    ),
    Fault("skipped updates in the mean loss", "metrics", "losses[torch.isfinite(losses)]", "losses", METRICS),
    Fault("mean loss not restored", "training", 'self.mean_loss.load_state(state["mean_loss"])', "pass", RESUME),
    Fault("lines repeated after resuming", "metrics", "<= resumed_at]", "<= 10**9]", METRICS),
    Fault(
        "loader without its own generator",
        "order",
        "        generator=torch.Generator().manual_seed(order.seed),\n",
        "",
        ORDER,
    ),
    Fault("every epoch in the same order", "order", "1_000_003 + self.epoch", "1_000_003", ORDER),
    Fault("position ignored", "order", "range(self.position,", "range(0,", ORDER),
    Fault("control sees true labels", "data", "if config.shuffle_labels:", "if False:", SMOKE),
    Fault("validation images in training", "split", "sorted(order[held_back:])", "sorted(order)", DATA),
    Fault("any number of corrupt images", "images", "if self._count > self._limit:", "if False:", DATA),
    Fault(
        "corrupt images not named", "images", '        print(f"skipped: {error.args[0]}", file=sys.stderr)\n', "", DATA
    ),
    Fault("constant loss", "train", "return functional.cross_entropy(", "return 0 * functional.cross_entropy(", SMOKE),
    Fault(
        "nothing in low precision", "amp", "self._device.type, self.precision.dtype)", "self._device.type, None)", SMOKE
    ),
    Fault("model in half precision", "amp", "self.model = model\n", "self.model = model.half()\n", AMP),
    Fault("fp32 computes in tf32", "start", 'precision.name != "fp32" or config.precision == "auto"', "True", DEVICE),
    Fault("cudnn still tries kernels", "compat", "    torch.backends.cudnn.benchmark = False\n", "", DEVICE),
    Fault("cudnn keeps its tf32", "compat", "    torch.backends.cudnn.allow_tf32 = enabled\n", "", DEVICE),
    Fault(
        "deterministic ignored", "start", "if config.deterministic:\n        compat", "if 0:\n        compat", DEVICE
    ),
    Fault("fp8 on an A100", "device", "ability.capability < (8, 9)", "ability.capability < (8, 0)", DEVICE),
    Fault("fp8 for small layers", "fp8", "min(sides) >= SMALLEST and", "", DEVICE),
    Fault("ranks without shares", "order", "[start + first : start + end]", "[start : start + samples]", SHARES),
    Fault("a rank without a sample", "order", "(rest >= self.ranks)", "(rest > 0)", SHARES),
    Fault(
        "gradients travel with each micro-batch", "parallel", "model.no_sync()", "contextlib.nullcontext()", TWO_RANKS
    ),
    Fault("ranks weigh alike", "training", "            samples=samples,\n", "", TWO_RANKS),
    Fault("loss of one rank for all", "amp", "        distributed.average(mean_loss)\n", "", TWO_RANKS),
    Fault("each rank evaluates all", "distributed", "range(rank(), size, ranks())", "range(size)", TWO_RANKS),
    Fault("generators of the first rank for all", "training", "[distributed.rank()])", "[0])", TOGETHER),
    Fault("a signal to one rank is not heard", "distributed", "dist.ReduceOp.MAX", "dist.ReduceOp.MIN", TOGETHER),
    Fault("averages not saved", "training", "self.ema.state() if", "Ema(self.model, 0.5).state() if", EVALUATED),
    Fault("averages not restored", "training", 'self.ema.load_state(state["ema"])', "pass", AVERAGES),
    Fault("best value not restored", "training", 'self.best = state["best"]', "pass", AVERAGES),
    Fault(
        "averages not evaluated",
        "ema",
        "        self._put(self._averages)\n",
        "",
        EVALUATED,
    ),
    Fault(
        "averages stay in the model",
        "ema",
        "            self._put(own)\n",
        "            pass\n",
        f"{LOOP}::test_averages_follow_by_their_decay_and_a_skipped_update_counts_for_nothing",
    ),
    Fault(
        "averages move on a skipped update",
        "ema",
        "torch.where(skipped, 0.0,",
        "torch.where(~skipped, 0.0,",
        f"{LOOP}::test_averages_follow_by_their_decay_and_a_skipped_update_counts_for_nothing",
    ),
    Fault("the newest counts as the best", "training", "not metric.stays_short(value, self.best)", "True", BEST),
    Fault("higher is always better", "training", "metric.stays_short(value, self.best)", "(value <= self.best)", BEST),
    Fault("the best goes with the old ones", "loop", "checkpoints.keep_as_best(path)", "pass", BEST),
    Fault(
        "a newer checkpoint is read",
        "checkpoint",
        "if found != FORMAT:",
        "if False:",
        f"{LOOP}::test_a_checkpoint_of_another_model_or_a_newer_version_is_refused",
    ),
    Fault(
        "growth interval ignored",
        "training",
        "growth_interval=config.growth_interval,",
        "",
        f"{LOOP}::test_the_loop_hands_its_options_to_the_scaler",
    ),
    Fault(
        "anomalies not looked for",
        "start",
        "set_detect_anomaly(config.detect_anomaly)",
        "set_detect_anomaly(False)",
        f"{LOOP}::test_anomaly_detection_names_the_operation",
    ),
    Fault(
        "dead loader not explained",
        "order",
        '"DataLoader worker" not in str(error)',
        "True",
        f"{LOOP}::test_a_loading_process_killed_by_a_bus_error_becomes_a_hint",
    ),
    Fault("bad data not named", "amp", "{_bad_data(batches)}", "", f"{LOOP}::test_data_that_is_not_finite_is_named"),
    Fault("not compiled", "training", "if config.compile else self._wrapped", "if False else self._wrapped", COMPILED),
    Fault("autocast around a compiled backward", "compat", 'backward_pass_autocast = "off"', "no_such = 1", COMPILED),
    Fault("out of memory not caught", "run", "except compat.OUT_OF_MEMORY", "except ZeroDivisionError", ADVICE),
    Fault("effective batch lost", "memory", "accumulate=effective // found", "accumulate=config.accumulate", FITTING),
    Fault("batch sought again on resume", "memory", "if config.resume and (", "if config.epochs < 0 and (", KEPT),
    Fault("search changes the seed", "run", "            seed_everything(config.seed)\n", "", NO_TRACE),
    Fault("weights never move", "training", "_rate(self.optimizer, rate)", "_rate(self.optimizer, 0.0)", SMOKE),
)


@pytest.fixture(scope="module")
def outcomes(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """How pytest ended for each fault, and under the name "" for the project as it is."""
    base = tmp_path_factory.mktemp("faults")
    jobs = {"": Job(copy(project, base / "sound"), SOUND)}
    jobs |= {fault.name: job(project, base / str(number), fault) for number, fault in enumerate(FAULTS)}
    return run_jobs(jobs, at_once=2)


@pytest.mark.slow
def test_the_project_without_a_fault_passes(outcomes: dict[str, Outcome]) -> None:
    assert outcomes[""].code == 0, outcomes[""].output


@pytest.mark.slow
@pytest.mark.parametrize("name", [fault.name for fault in FAULTS])
def test_each_fault_is_caught_by_a_failing_test(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].code == 1, outcomes[name].output
