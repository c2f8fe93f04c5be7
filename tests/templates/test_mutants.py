"""Test that each deliberate error in the rendered project fails its own tests or its smoke test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates.faults import Fault, Job, Outcome, copy, job, run_jobs

AMP, CHECKPOINT, LOADER, DEVICE, LOG, LOOP, RANKS = (
    f"tests/engine/test_{name}.py" for name in ("amp", "checkpoint", "loader", "device", "log", "run", "distributed")
)
TRAIN, DATA, PREDICT, MODEL, BENCHMARK, SMOKE = (
    f"tests/test_{name}.py" for name in ("train", "data", "predict", "model", "benchmark", "smoke")
)
SHARES = f"{LOADER}::test_ranks_have_consecutive_parts_of_what_one_rank_would_have"
REST = f"{LOADER}::test_the_rest_of_an_epoch_is_the_same_after_a_restart_also_in_other_batches"
TWO_RANKS = f"{RANKS}::test_two_ranks_learn_what_one_learns_with_the_double_batch"
TOGETHER = f"{RANKS}::test_a_signal_to_one_rank_stops_both_and_they_resume_to_the_same_bits"
AVERAGES = f"{LOOP}::test_averages_and_best_value_come_back_after_a_stop"
EVALUATED = f"{LOOP}::test_evaluation_sees_the_averages_and_training_goes_on_with_the_weights"
FOLLOW = f"{LOG}::test_averages_follow_by_their_decay_and_a_skipped_step_counts_for_nothing"
COMPILED = f"{LOOP}::test_a_compiled_model_learns_the_same_with_the_backward_pass_outside_autocast"
BEST = f"{LOOP}::test_the_best_checkpoint_is_kept_besides_the_last_ones"
RESUME = f"{TRAIN}::test_a_stopped_run_resumes_to_the_same_bits"
HEAD = f"{LOG}::test_the_head_is_the_last_part_and_the_rest_can_be_frozen_or_slower"
FREEZE = f"{TRAIN}::test_weights_start_another_run_and_parts_can_be_frozen"
REFUSED = f"{LOOP}::test_a_run_is_not_overwritten_and_other_data_are_refused"
SOUND = (AMP, CHECKPOINT, LOADER, DEVICE, LOG, LOOP, RANKS, TRAIN, DATA, PREDICT, BENCHMARK)

GUARD = (
    "        if self.precision.scaled:\n"
    "            gradient = next(each.grad for each in self._parameters if each.grad is not None)\n"
)
SPOIL = (
    "            gradient += mean_loss - mean_loss  # NaN if the loss is not finite: the scaler judges only gradients\n"
)
UNSCALE = "            self._scaler.unscale_(self.optimizer)\n"
CLIP = "        norm = distributed.whole(nn.utils.clip_grad_norm_(self._parameters, self._clip_grad))\n"
BAD = (
    "        verdict = mean_loss + norm\n"
    "        bad = verdict - verdict != 0  # finite: 0; else: NaN. Three small kernels, not isfinite's ten\n"
)
STEP = "        self._step_unless(bad)\n"
ZERO = "        self.optimizer.zero_grad(set_to_none=True)\n"
SCALED = "                self._scaler.scale(loss).backward()\n"
WEIGHT = "* (weight * distributed.ranks() / total)"


FAULTS = (
    Fault("unscale dropped", "engine/amp", UNSCALE, "", AMP),
    Fault("clipping dropped", "engine/amp", "self._clip_grad))", "1e9))", AMP),
    Fault("clip before unscale", "engine/amp", GUARD + SPOIL + UNSCALE + CLIP, CLIP + GUARD + SPOIL + UNSCALE, AMP),
    Fault("clip after step", "engine/amp", CLIP + BAD + STEP, BAD.replace(" + norm", "") + STEP + CLIP, AMP),
    Fault("step doubled", "engine/amp", STEP, STEP + "        self.optimizer.step()\n", AMP),
    Fault("forward outside autocast", "engine/amp", "with self.autocast():", "if True:", AMP),
    Fault(
        "backward inside autocast", "engine/amp", SCALED, "                with self.autocast():\n    " + SCALED, AMP
    ),
    Fault("gradients never cleared", "engine/amp", ZERO, "", AMP),
    Fault("gradients cleared before the step", "engine/amp", STEP, ZERO + STEP, AMP),
    Fault("loss not scaled", "engine/amp", "self._scaler.scale(loss).backward()", "loss.backward()", AMP),
    Fault("scaler never updated", "engine/amp", "            self._scaler.update()\n", "", AMP),
    Fault("scaler for bf16", "engine/amp", "enabled=precision.scaled", "enabled=precision.dtype is not None", AMP),
    Fault("infinite loss not seen by the scaler", "engine/amp", SPOIL, "", AMP),
    Fault("micro-batches weigh alike", "engine/amp", WEIGHT, "/ len(batches)", AMP),
    Fault("micro-batches weigh by samples", "engine/amp", "[weight_of(batch) for", "[len(batch[0]) for", AMP),
    Fault("a step of nothing is NaN", "engine/amp", "total.clamp(min=1e-8)", "total", AMP),
    Fault("gradients not judged", "engine/amp", "verdict = mean_loss + norm", "verdict = mean_loss", AMP),
    Fault("bad steps applied", "engine/amp", BAD, BAD + "        bad = torch.zeros_like(bad)\n", AMP),
    Fault("loss not guarded by a skip", "engine/amp", "self.skipped += is_bad\n", "pass\n", AMP),
    Fault("statistics not put back", "engine/amp", "        self._statistics.put_back_if(bad)\n", "", AMP),
    Fault("no end to skipping", "engine/amp", "self.skipped_in_row >= self.max_skips", "False", AMP),
    Fault("no alarm for the scale", "engine/amp", "if scale < 1.0:", "if False:", AMP),
    Fault("model in half precision", "engine/amp", "self.max_skips = ", "model.half()\n        self.max_skips = ", AMP),
    Fault("scaler not restored", "engine/amp", 'self._scaler.load_state_dict(state["scaler"])', "pass", RESUME),
    Fault("steps not restored", "engine/amp", "setattr(self, name, state[name])", "pass", RESUME),
    Fault(
        "bf16 on a T4",
        "engine/device",
        "        if ability.bf16:\n",
        "        if ability.capability >= (7, 0):\n",
        DEVICE,
    ),
    Fault(
        "fp32 computes in tf32",
        "engine/device",
        'precision.name != "fp32" or config.precision == "auto"',
        "True",
        DEVICE,
    ),
    Fault("cudnn still tries kernels", "engine/device", "        torch.backends.cudnn.benchmark = False\n", "", DEVICE),
    Fault("cudnn keeps its tf32", "engine/device", "    torch.backends.cudnn.allow_tf32 = allow_tf32\n", "", DEVICE),
    Fault(
        "deterministic ignored",
        "engine/device",
        "if config.deterministic:\n        os",
        "if 0:\n        os",
        DEVICE,
    ),
    Fault("fp8 on an A100", "engine/device", '"fp8": (8, 9)', '"fp8": (8, 0)', DEVICE),
    Fault(
        "anomalies not looked for",
        "engine/device",
        "anomaly(config.detect_anomaly)",
        "anomaly(False)",
        f"{LOOP}::test_anomaly_detection_names_the_operation",
    ),
    Fault(
        "torch generator not restored", "engine/checkpoint", 'torch.set_rng_state(state["torch"])', "pass", CHECKPOINT
    ),
    Fault("python generator not restored", "engine/checkpoint", "    random.setstate(", "    print(", CHECKPOINT),
    Fault("numpy generator not restored", "engine/checkpoint", "    numpy.random.set_state(", "    print(", CHECKPOINT),
    Fault(
        "checkpoint written in place",
        "engine/checkpoint",
        "    aside = _aside(path)\n    try",
        "    aside = path\n    try",
        CHECKPOINT,
    ),
    Fault("checksum not compared", "engine/checkpoint", "if actual == wanted:", "if True:", CHECKPOINT),
    Fault("old checkpoints kept", "engine/checkpoint", "[: -self.keep]", "[:0]", CHECKPOINT),
    Fault(
        "a newer checkpoint is read",
        "engine/checkpoint",
        "if found != FORMAT:",
        "if False:",
        f"{LOOP}::test_a_checkpoint_of_another_model_or_a_newer_version_is_refused",
    ),
    Fault(
        "generators not restored on resume",
        "engine/run",
        'set_random_state(state["random"][distributed.rank()])',
        "pass",
        TOGETHER,
    ),
    Fault(
        "optimizer not restored",
        "engine/run",
        "        optimizer.load_state_dict(of_optimizer)\n",
        "",
        RESUME,
    ),
    Fault("position one off after accumulation", "engine/loader", "batches * self.whole", "self.whole", RESUME),
    Fault(
        "accumulation off by one",
        "engine/run",
        "islice(batches, self.config.grad_accum_steps)",
        "islice(batches, self.config.grad_accum_steps + 1)",
        TRAIN,
    ),
    Fault(
        "last group dropped",
        "engine/run",
        "            yield group\n",
        "            yield from [group] * (len(group) == self.config.grad_accum_steps)\n",
        TRAIN,
    ),
    Fault(
        "schedule moves on a skipped step",
        "engine/run",
        "learning_rate(self.amp.applied,",
        "learning_rate(self.amp.started,",
        f"{LOOP}::test_the_learning_rate_waits_while_steps_are_skipped",
    ),
    Fault("skipped steps in the mean loss", "engine/log", "values[torch.isfinite(values)]", "values", LOG),
    Fault(
        "mean loss not restored",
        "engine/run",
        'self.unread = list(state["mean_loss"]',
        '_ = list(state["mean_loss"]',
        RESUME,
    ),
    Fault("lines repeated after resuming", "engine/log", "<= resumed_at]", "<= 10**9]", LOG),
    Fault("NaN in the lines", "engine/log", "parse_constant=lambda name: None", "parse_constant=float", LOG),
    Fault(
        "command line loses to the file",
        "engine/options",
        "[*read_config(file, config, parser), *arguments]",
        "[*arguments, *read_config(file, config, parser)]",
        LOG,
    ),
    Fault(
        "config forgets a value",
        "engine/options",
        'not in ("run_dir", "resume")}',
        'not in ("run_dir", "resume", "batch_size")}',
        TRAIN,
    ),
    Fault("every epoch in the same order", "engine/loader", "1_000_003 + self.epoch", "1_000_003", LOADER),
    Fault("position ignored", "engine/loader", "        start = self.position\n", "        start = 0\n", REST),
    Fault(
        "datasets draw from the global generators",
        "engine/loader",
        "random_state(cuda=False) if self.is_random else None",
        "None",
        LOADER,
    ),
    Fault(
        "same numbers in every batch",
        "engine/loader",
        'yield Draw(indices[first:end], int.from_bytes(seed, "big"))',
        "yield Draw(indices[first:end], 1)",
        SHARES,
    ),
    Fault(
        "ranks without shares",
        "engine/loader",
        "start + samples * rank // self.ranks for rank in (self.rank, self.rank + 1)",
        "start + samples * rank // self.ranks for rank in (0, self.ranks)",
        SHARES,
    ),
    Fault("a rank without a sample", "engine/loader", "(rest >= self.ranks)", "(rest > 0)", SHARES),
    Fault(
        "unequal shares of an evaluation",
        "engine/loader",
        "math.ceil(math.ceil(size / ranks) / batch_size)",
        "math.ceil(len(mine) / batch_size)",
        f"{LOADER}::test_ranks_evaluate_equally_many_batches",
    ),
    Fault(
        "unreadable samples end the run",
        "engine/loader",
        "except UnreadableError as error:",
        "except ZeroDivisionError as error:",
        LOADER,
    ),
    Fault("any number of unreadable samples", "engine/loader", "len(self.skipped) > error.limit", "False", LOADER),
    Fault(
        "dead loader not explained",
        "engine/loader",
        '"DataLoader worker" not in str(error)',
        "True",
        f"{LOOP}::test_a_loading_process_killed_by_a_bus_error_becomes_a_hint",
    ),
    Fault(
        "control sees true labels", "engine/run", "if config.control else data.train", "if False else data.train", SMOKE
    ),
    Fault(
        "validation images in training",
        "engine/loader",
        "sorted(set(range(count)) - set(held_back))",
        "list(range(count))",
        DATA,
    ),
    Fault("photos not turned", "images", "ImageOps.exif_transpose(opened)", "opened", DATA),
    Fault("16 bits cut off", "images", 'if mode and image.mode[0] in "IF":', "if False:", DATA),
    Fault("classes of val not compared", "data", "        _compare_classes(classes, parts[1])\n", "", DATA),
    Fault("constant loss", "task", "return losses.mean()", "return 0 * losses.mean()", SMOKE),
    Fault(
        "changed data go on", "engine/run", 'if state["fingerprint"] != self.data.fingerprint:', "if False:", REFUSED
    ),
    Fault("another control goes on", "engine/run", 'field.metadata["resume"] == "same"', "False", REFUSED),
    Fault("head not found", "engine/optim", "depth += 1", "depth += 0\n        break", HEAD),
    Fault("frozen statistics move", "engine/optim", "not module.weight.requires_grad:", "False:", HEAD),
    Fault("nothing frozen", "engine/optim", "parameters[name].requires_grad_(False)", "pass", FREEZE),
    Fault(
        "weights of another run ignored",
        "engine/optim",
        "    model.load_state_dict(fitting, strict=False)\n",
        "",
        FREEZE,
    ),
    Fault(
        "no patience",
        "engine/run",
        "0 < self.config.patience <= self.training.worse",
        "False",
        f"{LOOP}::test_patience_ends_a_run_and_the_best_model_is_kept",
    ),
    Fault(
        "gradients travel with each micro-batch",
        "engine/run",
        'getattr(wrapped, "no_sync", contextlib.nullcontext)',
        "contextlib.nullcontext",
        TWO_RANKS,
    ),
    Fault(
        "ranks weigh alike",
        "engine/amp",
        "distributed.sum_of(sum(weights), self._device)",
        "sum(weights) * distributed.ranks()",
        TWO_RANKS,
    ),
    Fault("loss of one rank for all", "engine/amp", "        distributed.average(mean_loss)\n", "", TWO_RANKS),
    Fault(
        "each rank evaluates all",
        "engine/loader",
        "range(rank, size, ranks)",
        "range(size)",
        f"{LOADER}::test_ranks_evaluate_equally_many_batches",
    ),
    Fault("generators of the first rank for all", "engine/run", "[distributed.rank()])", "[0])", TOGETHER),
    Fault(
        "a signal to one rank is not heard", "engine/distributed", "dist.ReduceOp.MAX", "dist.ReduceOp.MIN", TOGETHER
    ),
    Fault(
        "averages not saved", "engine/run", "self.ema.state() if", "optim.Ema(self.model, 0.5).state() if", EVALUATED
    ),
    Fault(
        "averages not restored",
        "engine/run",
        '{**state["model"], **state["ema"]})\n        if len',
        'state["model"])\n        if len',
        AVERAGES,
    ),
    Fault(
        "best value not restored",
        "engine/run",
        'state["step"], state["best"], state["worse"]',
        'state["step"], None, 0',
        AVERAGES,
    ),
    Fault("averages not evaluated", "engine/run", "self.ema.model if self.ema is not None else ", "", EVALUATED),
    Fault(
        "averages move on a skipped step",
        "engine/optim",
        "torch.where(skipped, 0.0,",
        "torch.where(~skipped, 0.0,",
        FOLLOW,
    ),
    Fault(
        "weights of the last step in model.pt",
        "engine/run",
        '{**state["model"], **state["ema"]}',
        '{**state["model"]}',
        EVALUATED,
    ),
    Fault("the newest counts as the best", "engine/run", "not self.metric.stays_short(value, self.best)", "True", BEST),
    Fault(
        "higher is always better",
        "engine/run",
        "self.metric.stays_short(value, self.best)",
        "(value <= self.best)",
        BEST,
    ),
    Fault(
        "the best goes with the old ones",
        "engine/run",
        "self._checkpoints.keep_as(path, checkpoint.BEST)",
        "pass",
        BEST,
    ),
    Fault(
        "growth interval ignored",
        "engine/amp",
        "growth_interval=config.growth_interval",
        "growth_interval=2000",
        f"{LOOP}::test_the_loop_hands_its_options_to_the_scaler",
    ),
    Fault(
        "bad data not named",
        "engine/amp",
        "if is_sound else",
        "if True else",
        f"{LOOP}::test_data_that_is_not_finite_is_named",
    ),
    Fault("not compiled", "engine/run", "if config.compile else wrapped", "if False else wrapped", COMPILED),
    Fault(
        "autocast around a compiled backward",
        "engine/compat",
        'backward_pass_autocast = "off"',
        "no_such = 1",
        COMPILED,
    ),
    Fault(
        "out of memory not explained",
        "engine/run",
        "isinstance(error, compat.OUT_OF_MEMORY)",
        "False",
        f"{LOOP}::test_out_of_memory_is_an_error_with_advice",
    ),
    Fault(
        "unused parameters not explained",
        "engine/run",
        '"Expected to have finished reduction" in str(error)',
        "False",
        f"{RANKS}::test_an_unused_parameter_is_an_error_with_a_hint",
    ),
    Fault(
        "unused parameters not allowed",
        "engine/run",
        "find_unused=config.find_unused_parameters",
        "find_unused=False",
        f"{RANKS}::test_a_run_of_two_processes_goes_on_in_one",
    ),
    Fault(
        "steps end with the epochs",
        "engine/run",
        "return self.config.max_steps or ",
        "return ",
        f"{LOOP}::test_steps_beyond_the_epochs_are_made",
    ),
    Fault("all classes predicted as the first", "predict", "best.indices.tolist()", "[0, 0, 0]", PREDICT),
    Fault(
        "pixels predicted without scaling",
        "predict",
        "model(as_float(pixels[None])",
        "model((pixels[None].float())",
        PREDICT,
    ),
    Fault("export not compared", "export", "if not difference < TOLERANCE:", "if difference < TOLERANCE:", PREDICT),
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
