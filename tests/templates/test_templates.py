"""Test each template's own code: linted, typed, tested, with invalid input, and with deliberate errors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.templates.conftest import PACKAGE, write_project
from tests.templates.faults import Fault, Job, Outcome, copy, job, run_jobs
from tests.templates.test_project import run

DATA, MODEL, TRAIN, SMOKE = (f"tests/test_{name}.py" for name in ("data", "model", "train", "smoke"))
TEMPLATES = ("text-classification", "language-model", "segmentation", "tabular")

FAULTS = {
    "text-classification": (
        Fault("padding attended to", "transformer", "attn_mask=mask,", "attn_mask=None,", MODEL),
        Fault("padding in the mean", "model", "mask[:, :, None].to(hidden.dtype)", "torch.ones_like(hidden)", MODEL),
        Fault("places forgotten", "model", "hidden + self.positions(", "hidden + 0 * self.positions(", MODEL),
        Fault("weights of classes, not of texts", "train", "(len(data.classes) * counts)", "counts", MODEL),
        Fault("half the F1", "scoring", "2 * table.diagonal()", "table.diagonal()", MODEL),
        Fault("loss summed over the batch", "train", "* weights[labels]).mean()", "* weights[labels]).sum()", TRAIN),
        Fault("long texts kept", "data", "[row[: config.context] for row in tokens]", "tokens", DATA),
        Fault("control sees true labels", "data", "if config.shuffle_labels:", "if False:", DATA),
        Fault("validation texts in training", "data", "if row[0] not in held_back]", "]", DATA),
        Fault("pieces of the library on both sides", "data", "and text not in seen", "", DATA),
        Fault("bad rows left out in silence", "data", "if bad > config.max_bad_rows:", "if False:", DATA),
        Fault("nan taken for a text", "data", 'return "" if text.lower() == "nan" else text', "return text", DATA),
        Fault("control's labels stay", "samples", "self.answer_of = shuffled(len(self), seed)", "pass", DATA),
        Fault("too many cells in a line", "csvfile", "if len(cells) > len(names):", "if False:", DATA),
        Fault("tokenizer ignored", "data", "make_tokenizer(config.tokenizer)", 'make_tokenizer("bytes")', DATA),
        Fault("batch not filled up", "data", "row + [self.pad] * (length - len(row))", "row", DATA),
    ),
    "language-model": (
        Fault("sees what follows", "transformer", "is_causal=self.causal", "is_causal=False", MODEL),
        Fault("places forgotten", "model", "+ self.positions(places)", "", MODEL),
        Fault("begins too sure of itself", "model", "spread = 0.02 *", "spread = 0.4 *", MODEL),
        Fault("writes tokens that do not exist", "sample", "[0, -1, : size + 1]", "[0, -1]", MODEL),
        Fault("writes on behind the end", "sample", "if number == size:", "if False:", MODEL),
        Fault("same choices for every seed", "sample", "manual_seed(options.seed)", "manual_seed(1)", MODEL),
        Fault("nats for bits", "train", "mean / math.log(2) /", "mean /", TRAIN),
        Fault("targets are the tokens themselves", "data", "rows[:, 1:]", "rows[:, :-1]", DATA),
        Fault("windows overlap", "data", "self.cut(index * self.context,", "self.cut(index,", DATA),
        Fault(
            "no end of a document", "data", "(torch.from_numpy(document), end)", "(torch.from_numpy(document),)", DATA
        ),
        Fault("control sees true text", "data", "if config.shuffle_text:", "if False:", DATA),
        Fault("validation text in training", "data", "if number not in chosen]", "]", DATA),
        Fault("copies count twice", "data", "if digest not in seen:", "if True:", DATA),
        Fault("paragraphs on both sides", "data", "and text not in seen", "", DATA),
        Fault("file cut in the middle of a line", "data", "near if found < 0 else near + found + 1", "near", DATA),
    ),
    "segmentation": (
        Fault(
            "skips of another level",
            "model",
            "seen.pop()",
            "seen.pop(0)",
            DATA,
        ),
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
            "masks smoothed",
            "data",
            "mixing=False",
            "mixing=True",
            DATA,
        ),
        Fault("control sees true masks", "data", "if config.shuffle_labels:", "if False:", DATA),
        Fault("masks of another size", "data", "if sizes[0] != sizes[1]:", "if False:", DATA),
        Fault("labels out of range", "data", "if unknown:", "if False:", DATA),
        Fault("one class", "data", "if len(seen) == 1:", "if False:", DATA),
        Fault("absent classes score 0", "train", "if whole > 0}", "}", DATA),
        Fault("union counts hits twice", "train", "table.sum(dim=1) - hits", "table.sum(dim=1)", DATA),
        Fault("dice of ignored pixels", "train", "softmax(dim=1) * counted", "softmax(dim=1)", DATA),
    ),
    "tabular": (
        Fault(
            "embeddings forgotten",
            "model",
            "torch.cat([numbers, *embedded]",
            "torch.cat([numbers, *(0 * e for e in embedded)]",
            TRAIN,
        ),
        Fault("scaled by all rows", "data", "column[kept][~empty[kept]]", "column[~empty]", DATA),
        Fault("unknown classes known", "data", "places.get(cell, UNKNOWN)", "places.get(cell, 1)", DATA),
        Fault("empty cells not marked", "data", "if empty.any() else", "if False else", DATA),
        Fault("empty cells taken for 0", "data", ".masked_fill(empty, 0.0)", "", DATA),
        Fault("control sees true targets", "data", "if config.shuffle_labels:", "if False:", DATA),
        Fault("words taken for numbers", "data", "if value is None and not is_empty(cell):", "if False:", DATA),
        Fault("one class", "data", "if len(labels) < 2:", "if False:", DATA),
        Fault("short lines", "table", "if len(row) < len(names):", "if False:", DATA),
        Fault("two columns of one name", "csvfile", "    if repeated:", "    if False:", DATA),
        Fault("error in deviations", "train", "* self.scale[1]", "* 0", TRAIN),
        Fault("r2 without the mean", "train", "target_squares - target_sum**2 / count", "squares", TRAIN),
    ),
}
REFUSALS = {
    "text-classification": (
        (("--data", "nowhere.csv"), "error: cannot read `--data nowhere.csv`"),
        (("--batch-size", "5000"), "a batch of 5000 samples is larger than the training data (4000 samples)"),
    ),
    "language-model": (
        (("--data", "nowhere"), "error: `--data nowhere` is neither a file nor a directory"),
        (("--context", "60000"), "tokens, but `--context 60000` requires at least 60001"),
        (("--batch-size", "5000"), "a batch of 5000 samples is larger than the training data"),
    ),
    "segmentation": (
        (("--data", "nowhere"), "error: `--data nowhere` is not a directory"),
        (("--crop", "96", "--validation-part", "0.2"), "`--crop 96` is larger than a part of the coins"),
        (("--batch-size", "300"), "a batch of 300 samples is larger than the training data (256 samples)"),
    ),
    "tabular": (
        (("--data", "nowhere.csv"), "error: `--data nowhere.csv` is not a file"),
        (("--target", "price"), "has no column `price`"),
        (("--batch-size", "500"), "a batch of 500 samples is larger than the training data (455 samples)"),
    ),
}


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")  # what runs the faults imports it
    pytest.importorskip("skimage")
    base = tmp_path_factory.mktemp("templates")
    return {template: write_project(base / template, template) for template in TEMPLATES}


@pytest.fixture(scope="module")
def outcomes(projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """How pytest ended for each fault, and under the template's name for the project as it is."""
    base = tmp_path_factory.mktemp("faults")
    jobs: dict[str, Job] = {}
    for template, project in projects.items():
        own = tuple(test for test in (DATA, MODEL, TRAIN, SMOKE) if (project / test).is_file())
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
