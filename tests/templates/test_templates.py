"""Test each template's own code: linted, typed, tested, with invalid input, and with deliberate errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates.conftest import PACKAGE, write_project
from tests.templates.faults import Fault, Job, Outcome, copy, job, run_jobs
from tests.templates.test_project import run

DATA, MODEL, PREDICT, TRAIN, SMOKE = (
    f"tests/test_{name}.py" for name in ("data", "model", "predict", "train", "smoke")
)
TEMPLATES = ("text-classification", "language-model", "segmentation", "tabular")

FAULTS = {
    "text-classification": (
        Fault("padding attended to", "layers", "attn_mask=mask,", "attn_mask=None,", MODEL),
        Fault("padding in the mean", "model", "mask[:, :, None].to(hidden.dtype)", "torch.ones_like(hidden)", MODEL),
        Fault("places forgotten", "model", "hidden + self.positions(", "hidden + 0 * self.positions(", MODEL),
        Fault(
            "no place for what fills up a batch",
            "model",
            "config.context + -config.context % 16",
            "config.context",
            MODEL,
        ),
        Fault("weights of classes, not of texts", "scores", "(len(counts) * counts.clamp(min=1))", "counts", MODEL),
        Fault(
            "loss summed over the batch",
            "task",
            "self.class_weights[labels]).mean()",
            "self.class_weights[labels]).sum()",
            MODEL,
        ),
        Fault("long texts kept", "data", "own.encode(text[:longest])[:context]", "own.encode(text)", DATA),
        Fault("validation texts in training", "data", "if row[0] not in held_back]", "]", DATA),
        Fault("pieces of the library on both sides", "data", "and text not in seen", "", DATA),
        Fault("bad rows left out in silence", "data", "if bad > config.max_bad_rows:", "if False:", DATA),
        Fault("nan taken for a text", "data", 'return None if text.lower() == "nan" else text', "return text", DATA),
        Fault("too many cells in a line", "tables", "if len(cells) > len(names):", "if False:", DATA),
        Fault("tokenizer ignored", "data", "tokenizer_block(config.tokenizer)", 'tokenizer_block("bytes")', DATA),
        Fault("batch not filled up", "data", "row + [pad] * (length - len(row))", "row", DATA),
        Fault("another tokenizer predicts", "texts", 'made.encode(PROBE) != block["probe"]', "False", PREDICT),
    ),
    "language-model": (
        Fault("sees what follows", "layers", "is_causal=self.causal", "is_causal=False", MODEL),
        Fault("places forgotten", "model", "+ self.positions(places)", "", MODEL),
        Fault("begins too sure of itself", "model", "spread = 0.02 *", "spread = 0.4 *", MODEL),
        Fault("writes tokens that do not exist", "predict", "[0, -1, : end + 1]", "[0, -1]", MODEL),
        Fault("writes on behind the end", "predict", "if number == end:", "if False:", MODEL),
        Fault("same choices for every seed", "predict", "manual_seed(seed)", "manual_seed(1)", MODEL),
        Fault("nats for bits", "task", "tokens / math.log(2) /", "tokens /", MODEL),
        Fault(
            "mean of means",
            "task",
            'next_token_loss(model, batch, "sum").to(sums)',
            'next_token_loss(model, batch, "mean").to(sums) * 96',
            MODEL,
        ),
        Fault("targets are the tokens themselves", "data", "row[1:]", "row[:-1]", DATA),
        Fault("windows overlap", "data", "// self.count * self.context", "// self.count", DATA),
        Fault(
            "no end of a document", "data", "(torch.from_numpy(document), end)", "(torch.from_numpy(document),)", DATA
        ),
        Fault("validation text in training", "data", "if number not in chosen]", "]", DATA),
        Fault("copies count twice", "data", "if digest not in seen:", "if True:", DATA),
        Fault("paragraphs on both sides", "data", "and text not in seen", "", DATA),
        Fault("file cut in the middle of a line", "data", "near if found < 0 else near + found + 1", "near", DATA),
    ),
    "segmentation": (
        Fault("skips of another level", "model", "seen.pop()", "seen.pop(0)", DATA),
        Fault("padding left on", "model", "[..., :height, :width]", "", DATA),
        Fault(
            "images mirrored without masks",
            "data",
            "images, masks = mirror(images, masks, axis=axis)",
            "(images,) = mirror(images, axis=axis)",
            DATA,
        ),
        Fault("mirrored in one direction", "data", "for axis in (-1, -2)", "for axis in (-1, -1)", DATA),
        Fault(
            "masks cut elsewhere",
            "data",
            "mask.resize(shape, resample=0, box=box)",
            "mask.resize(shape, resample=0)",
            DATA,
        ),
        Fault("masks of another size", "data", "(width, height) != found and", "False and", DATA),
        Fault("labels out of range", "data", "    if found.min() < 0:", "    if False:", DATA),
        Fault("one class", "data", "if len(seen - {IGNORED}) == 1:", "if False:", DATA),
        Fault("absent classes score 0", "task", "if whole > 0}", "}", DATA),
        Fault("union counts hits twice", "task", "table.sum(dim=1) - hits", "table.sum(dim=1)", DATA),
        Fault("dice of ignored pixels", "task", "softmax(dim=1) * counted", "softmax(dim=1)", DATA),
        Fault(
            "ignored pixels weigh",
            "task",
            "return (batch[1] != IGNORED).sum()",
            "return batch[1].numel() + 0 * batch[1].sum()",
            DATA,
        ),
        Fault(
            "ignored pixels in the loss", "task", "ignore_index=IGNORED, reduction", "ignore_index=0, reduction", DATA
        ),
        Fault("mask of another size predicted", "predict", "size=original", "size=(8, 8)", PREDICT),
    ),
    "tabular": (
        Fault(
            "embeddings forgotten",
            "model",
            "torch.cat([numbers, *embedded]",
            "torch.cat([numbers, *(0 * e for e in embedded)]",
            PREDICT,
        ),
        Fault("scaled by all rows", "data", "values[kept][~empty[kept]]", "values[~empty]", DATA),
        Fault("unknown classes known", "data", "known.get(_class(cell), UNKNOWN)", "known.get(_class(cell), 1)", DATA),
        Fault(
            "empty cells not marked",
            "data",
            '[scaled, empty] if column["may_be_empty"]',
            '[scaled, 0 * empty] if column["may_be_empty"]',
            DATA,
        ),
        Fault(
            "empty cells taken for 0",
            "data",
            "numpy.where(empty, 0.0, (values",
            "numpy.where(empty, -1.0, (values",
            DATA,
        ),
        Fault(
            "words taken for numbers",
            "tables",
            "return _days(cell) if kind == DATE else number(cell, kind)",
            "return _days(cell) if kind == DATE else number(cell, kind) or 0.0",
            DATA,
        ),
        Fault("one class", "data", "if len(labels) < 2:", "if False:", DATA),
        Fault("whole numbers are classes", "data", "or len(numpy.unique(column)) > MOST_CLASSES", "", DATA),
        Fault("short lines", "tables", "if set(map(len, rows)) - {len(names)}:", "if False:", DATA),
        Fault("two columns of one name", "tables", "        if name in seen:", "        if False:", DATA),
        Fault("error in deviations", "task", "* self.deviation, ", "* 0, ", PREDICT),
        Fault("r2 without the mean", "task", "target_squares - target_sum**2 / count", "squares", PREDICT),
        Fault(
            "predictions stay scaled",
            "predict",
            'float(value) * about["deviation"] + about["mean"]',
            "float(value)",
            PREDICT,
        ),
        Fault("unknown values in silence", "predict", "    _count_unknown(about, classes)\n", "", PREDICT),
    ),
}
REFUSALS = {
    "text-classification": (
        (("--data", "nowhere.csv"), "error: cannot read `nowhere.csv`"),
        (("--batch-size", "5000"), "a batch of 5000 samples is larger than the training data (4000 samples)"),
    ),
    "language-model": (
        (("--data", "nowhere"), "error: `--data nowhere` is neither a file nor a directory"),
        (("--context", "60000"), "tokens, but `--context 60000` requires at least 60001"),
        (("--batch-size", "5000"), "a batch of 5000 samples is larger than the training data"),
    ),
    "segmentation": (
        (("--data", "nowhere"), "error: `--data nowhere` is not a directory"),
        (("--crop", "96", "--val-fraction", "0.2"), "`--crop 96` is larger than a part of the coins"),
        (("--batch-size", "300"), "a batch of 300 samples is larger than the training data (256 samples)"),
    ),
    "tabular": (
        (("--data", "nowhere.csv"), "error: `nowhere.csv` is not a file"),
        (("--target", "price"), "has no column `price`"),
        (("--batch-size", "500"), "a batch of 500 samples is larger than the training data (456 samples)"),
    ),
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")  # what runs the faults imports it
    pytest.importorskip("skimage")
    base = tmp_path_factory.mktemp("templates")
    groups = ("engine-tests",)
    return {template: write_project(base / template, template, groups) for template in TEMPLATES}


@pytest.fixture(scope="module")
def outcomes(projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """How pytest ended for each fault, and under the template's name for the project as it is."""
    base = tmp_path_factory.mktemp("faults")
    jobs: dict[str, Job] = {}
    for template, project in projects.items():
        own = tuple(str(path.relative_to(project)) for path in sorted((project / "tests").glob("test_*.py")))
        jobs[template] = Job(copy(project, base / template), own)
        for number, fault in enumerate(FAULTS[template]):
            jobs[f"{template}: {fault.name}"] = job(project, base / f"{template}-{number}", fault)
    return run_jobs(jobs, at_once=len(TEMPLATES))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_is_formatted_and_passes_its_own_linter(projects: dict[str, Path], template: str) -> None:
    for arguments in (["format", "--check", "."], ["check", "."]):
        done = run(projects[template], "-m", "ruff", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_is_strictly_typed(projects: dict[str, Path], template: str) -> None:
    shared = projects[template].parent / "mypy"  # most of the time goes into reading torch, which both do
    done = run(projects[template], "-m", "mypy", MYPY_CACHE_DIR=str(shared))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_passes_its_own_tests_and_smoke_test(outcomes: dict[str, Outcome], template: str) -> None:
    assert outcomes[template].code == 0, outcomes[template].output


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{template}: {fault.name}" for template in TEMPLATES for fault in FAULTS[template]])
def test_each_fault_is_caught_by_the_projects_own_tests(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].code == 1, outcomes[name].output


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_bad_input_is_refused_with_a_hint(projects: dict[str, Path], template: str) -> None:
    for arguments, message in REFUSALS[template]:
        done = run(projects[template], "-m", f"{PACKAGE}.train", "--device", "cpu", *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "\n\nhint: " in done.stderr
        assert "Traceback" not in done.stderr
