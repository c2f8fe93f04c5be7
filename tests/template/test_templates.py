"""Each template's own code as its owner meets it: linted, typed, tested, refusing bad input; and broken on purpose."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.template.conftest import PACKAGE, write_project
from tests.template.test_mutants import Mutant, _copy, _runner
from tests.template.test_project import run

DATA, MODEL, TRAIN, SMOKE = (f"tests/test_{name}.py" for name in ("data", "model", "train", "smoke"))
TEMPLATES = ("text-classification", "language-model", "segmentation", "tabular")

FAULTS = {
    "text-classification": (
        Mutant("padding attended to", "model", "attn_mask=mask)", "attn_mask=None)", MODEL),
        Mutant("padding in the mean", "model", "mask[:, :, None].to(hidden.dtype)", "torch.ones_like(hidden)", MODEL),
        Mutant("places forgotten", "model", "hidden + self.positions(", "hidden + 0 * self.positions(", MODEL),
        Mutant("weights of classes, not of texts", "train", "(len(data.classes) * counts)", "counts", MODEL),
        Mutant("half the F1", "scoring", "2 * table.diagonal()", "table.diagonal()", MODEL),
        Mutant("loss summed over the batch", "train", "* weights[labels]).mean()", "* weights[labels]).sum()", TRAIN),
        Mutant("long texts kept", "data", "tokens[number] = tokens[number][:context]", "pass", DATA),
        Mutant("control sees true labels", "data", "if config.shuffle_labels:", "if False:", DATA),
        Mutant("validation texts in training", "data", "if row[0] not in held_back]", "]", DATA),
        Mutant("pieces of the library on both sides", "data", "and text not in seen", "", DATA),
        Mutant("bad rows left out in silence", "data", "if bad > config.max_bad_rows:", "if False:", DATA),
        Mutant("nan taken for a text", "data", 'return "" if text.lower() == "nan" else text', "return text", DATA),
        Mutant("batch not filled up", "data", "row + [self.pad] * (length - len(row))", "row", DATA),
    ),
    "language-model": (
        Mutant("sees what follows", "model", "is_causal=True", "is_causal=False", MODEL),
        Mutant("places forgotten", "model", "+ self.positions(places)", "", MODEL),
        Mutant("begins too sure of itself", "model", "spread = 0.02 *", "spread = 0.4 *", MODEL),
        Mutant("writes tokens that do not exist", "sample", "[0, -1, : size + 1]", "[0, -1]", MODEL),
        Mutant("writes on behind the end", "sample", "if number == size:", "if False:", MODEL),
        Mutant("same choices for every seed", "sample", "manual_seed(options.seed)", "manual_seed(1)", MODEL),
        Mutant("nats for bits", "train", "mean / math.log(2) /", "mean /", TRAIN),
        Mutant("targets are the tokens themselves", "data", "rows[:, 1:]", "rows[:, :-1]", DATA),
        Mutant("windows overlap", "data", "self.cut(index * self.context,", "self.cut(index,", DATA),
        Mutant(
            "no end of a document", "data", "(torch.from_numpy(document), end)", "(torch.from_numpy(document),)", DATA
        ),
        Mutant("control sees true text", "data", "if config.shuffle_text:", "if False:", DATA),
        Mutant("validation text in training", "data", "if number not in chosen]", "]", DATA),
        Mutant("copies count twice", "data", "if digest not in seen:", "if True:", DATA),
        Mutant("paragraphs on both sides", "data", "and text not in seen", "", DATA),
        Mutant("file cut in the middle of a line", "data", "near if found < 0 else near + found + 1", "near", DATA),
    ),
    "segmentation": (
        Mutant(
            "skips of another level",
            "model",
            "seen.pop()",
            "seen.pop(0)",
            DATA,
        ),
        Mutant("padding left on", "model", "[..., :height, :width]", "", DATA),
        Mutant(
            "images mirrored without masks",
            "data",
            "masks = torch.where(mirrored, masks.flip(dimension), masks)",
            "pass",
            DATA,
        ),
        Mutant("mirrored in one direction", "data", "for dimension in (1, 2)", "for dimension in (1, 1)", DATA),
        Mutant(
            "masks smoothed",
            "data",
            "(size, size), Image.Resampling.NEAREST",
            "(size, size), Image.Resampling.BICUBIC",
            DATA,
        ),
        Mutant("control sees true masks", "data", "if config.shuffle_labels:", "if False:", DATA),
        Mutant("masks of another size", "data", "if sizes[0] != sizes[1]:", "if False:", DATA),
        Mutant("labels out of range", "data", "if unknown:", "if False:", DATA),
        Mutant("one class", "data", "if len(seen) == 1:", "if False:", DATA),
        Mutant("absent classes score 0", "train", "if whole > 0}", "}", DATA),
        Mutant("union counts hits twice", "train", "table.sum(dim=1) - hits", "table.sum(dim=1)", DATA),
        Mutant("dice of ignored pixels", "train", "softmax(dim=1) * counted", "softmax(dim=1)", DATA),
    ),
    "tabular": (
        Mutant(
            "embeddings forgotten",
            "model",
            "torch.cat([numbers, *embedded]",
            "torch.cat([numbers, *(0 * e for e in embedded)]",
            TRAIN,
        ),
        Mutant("scaled by all rows", "data", "column[kept][~empty[kept]]", "column[~empty]", DATA),
        Mutant("unknown classes known", "data", "places.get(cell, UNKNOWN)", "places.get(cell, 1)", DATA),
        Mutant("empty cells not marked", "data", "if empty.any() else", "if False else", DATA),
        Mutant("empty cells taken for 0", "data", ".masked_fill(empty, 0.0)", "", DATA),
        Mutant("control sees true targets", "data", "if config.shuffle_labels:", "if False:", DATA),
        Mutant("words taken for numbers", "data", "if value is None and not is_empty(cell):", "if False:", DATA),
        Mutant("one class", "data", "if len(labels) < 2:", "if False:", DATA),
        Mutant("short lines", "table", "if row and len(row) != len(names):", "if False:", DATA),
        Mutant("error in deviations", "train", "* self.scale[1]", "* 0", TRAIN),
        Mutant("r2 without the mean", "train", "target_squares - target_sum**2 / count", "squares", TRAIN),
    ),
}
REFUSALS = {
    "text-classification": (
        (("--data", "nowhere.csv"), "error: --data `nowhere.csv` is not a file"),
        (("--batch-size", "5000"), "a batch of 5000 is larger than the training data, 4000 samples"),
    ),
    "language-model": (
        (("--data", "nowhere"), "error: --data `nowhere` is neither a file nor a folder"),
        (("--context", "60000"), "tokens, a window of --context 60000 needs one more"),
    ),
    "segmentation": (
        (("--data", "nowhere"), "error: --data `nowhere` is not a folder"),
        (("--crop", "96", "--validation-part", "0.2"), "--crop 96 does not fit into both parts of the coins"),
    ),
    "tabular": (
        (("--data", "nowhere.csv"), "error: --data `nowhere.csv` is not a file"),
        (("--target", "price"), "has no column `price`"),
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
def outcomes(projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Exit code and output of pytest for each fault, and under the template's name for the project as it is."""
    base = tmp_path_factory.mktemp("faults")
    shares = []
    for template, project in projects.items():
        jobs: dict[str, tuple[Path, tuple[str, ...]]] = {}
        own = tuple(test for test in (DATA, MODEL, TRAIN, SMOKE) if (project / test).is_file())
        jobs[template] = (_copy(project, base / template, None), own)
        for number, fault in enumerate(FAULTS[template]):
            folder = _copy(project, base / f"{template}-{number}", fault)
            jobs[f"{template}: {fault.name}"] = (folder, (fault.tests,))
        shares.append((jobs, _runner(list(jobs.values()))))
    found = {}
    for jobs, runner in shares:
        assert runner.wait(timeout=900) == 0
        assert runner.stdout is not None
        for (name, (folder, _)), code in zip(jobs.items(), json.load(runner.stdout), strict=True):
            found[name] = (code, (folder / "pytest.txt").read_text(encoding="utf-8"))
        runner.stdout.close()
    return found


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
def test_a_project_passes_its_own_tests_and_smoke_test(outcomes: dict[str, tuple[int, str]], template: str) -> None:
    code, output = outcomes[template]
    assert code == 0, output


@pytest.mark.slow
@pytest.mark.parametrize("name", [f"{template}: {fault.name}" for template in TEMPLATES for fault in FAULTS[template]])
def test_each_fault_is_caught_by_the_projects_own_tests(outcomes: dict[str, tuple[int, str]], name: str) -> None:
    code, output = outcomes[name]
    assert code == 1, output  # 1 is a test that failed; 2 and above would be a fault that does not even load


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_bad_input_is_refused_with_a_hint(projects: dict[str, Path], template: str) -> None:
    for arguments, message in REFUSALS[template]:
        done = run(projects[template], "-m", f"{PACKAGE}.train", "--device", "cpu", *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "\n\nhint: " in done.stderr
        assert "Traceback" not in done.stderr
