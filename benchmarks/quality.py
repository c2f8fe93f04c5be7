"""Compare each template's default run with a classic baseline on the same offline data and split.

    python benchmarks/quality.py [TEMPLATE …] [--seeds 3] [--threads 1]

Prints a Markdown table with the metric of the last evaluation (not of the best) for each seed, their mean, the
baselines, and the CPU seconds of a run. The baselines are computed from the split of the rendered project.
``tabular`` is measured on five random splits, too, because one row of its default validation data is 0.009. Needs torch
and the packages of the templates.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PACKAGE = "digits"  # the name that tests/templates gives the project
CONTEXT = 4  # bytes; with 3 or 5 of them, the statistics are worse
SPLITS = (2000, 2001, 2002, 2003, 2004)
Scores = dict[str, float]


class Case(Struct, frozen=True, kw_only=True):
    """A template with its metric, and a function from its data to the scores of baselines, the classic one first."""

    template: str
    metric: str
    baselines: Callable[[Any], Scores]
    splits: Sequence[int] = ()
    lower_is_better: bool = False


class Row(Struct, frozen=True, kw_only=True):
    """The scores of the seeds, and the baselines."""

    name: str
    metric: str
    scores: tuple[float, ...]
    baselines: Scores
    seconds: float
    lower_is_better: bool

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return statistics.mean(self.scores)

    @property
    def wins(self) -> bool:
        """Whether the mean is better than the classic baseline; one that was tuned is only shown."""
        classic = next(iter(self.baselines.values()))
        return self.mean < classic if self.lower_is_better else self.mean > classic


def support_vectors(data: Any) -> Scores:
    """Classify the pixels with scikit-learn."""
    from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]  # noqa: PLC0415 - slow
    from sklearn.svm import SVC  # type: ignore[import-untyped]  # noqa: PLC0415 - slow

    train, validation = (side.tensors for side in (data.train, data.validation))
    flat = [images.flatten(1).numpy() for images, _ in (train, validation)]
    models = {"SVC": SVC(gamma=0.256), "logistic regression": LogisticRegression(max_iter=5000)}
    return {
        name: float(model.fit(flat[0], train[1].numpy()).score(flat[1], validation[1].numpy()))
        for name, model in models.items()
    }


def otsu(data: Any) -> Scores:
    """Label the pixels by one threshold, computed from the training pixels."""
    threshold_otsu: Any = importlib.import_module("skimage.filters").threshold_otsu

    found = data.validation.tensors[0][:, 0] > float(threshold_otsu(data.train.tensors[0].numpy()))
    true = data.validation.tensors[1] == 1
    unions = [(found & true, found | true), (~found & ~true, ~found | ~true)]
    return {"Otsu's threshold": statistics.mean(float(both.sum() / either.sum()) for both, either in unions)}


def logistic_regression(data: Any) -> Scores:
    """Classify the scaled columns with scikit-learn."""
    from sklearn.ensemble import HistGradientBoostingClassifier  # type: ignore[import-untyped]  # noqa: PLC0415 - slow
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow

    train, validation = (side.tensors for side in (data.train, data.validation))
    models = {
        "logistic regression": LogisticRegression(max_iter=5000),
        "HistGradientBoosting": HistGradientBoostingClassifier(random_state=0),
    }
    return {
        name: float(model.fit(train[0].numpy(), train[2].numpy()).score(validation[0].numpy(), validation[2].numpy()))
        for name, model in models.items()
    }


def tf_idf(_: Any) -> Scores:
    """Classify the texts by their character n-grams with scikit-learn."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]  # noqa: PLC0415 - slow
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - slow

    pieces = importlib.import_module(f"{PACKAGE}.data").python_pieces()
    (texts, labels), (unseen, expected) = (zip(*rows, strict=True) for rows in pieces)
    vectors = TfidfVectorizer(analyzer="char", ngram_range=(2, 4))
    model = LogisticRegression(max_iter=2000).fit(vectors.fit_transform(texts), labels)
    tuned = TfidfVectorizer(analyzer="char", ngram_range=(1, 5), min_df=2, sublinear_tf=True)
    best = LogisticRegression(C=10, max_iter=2000).fit(tuned.fit_transform(texts), labels)
    return {
        "TF-IDF and logistic regression": float(model.score(vectors.transform(unseen), expected)),
        "the same, tuned": float(best.score(tuned.transform(unseen), expected)),
    }


def byte_statistics(data: Any) -> Scores:
    """Return bits per byte from the 4 bytes before, with Witten-Bell smoothing, and of zlib."""
    train, validation = (bytes(_bytes_of(side)) for side in (data.train, data.validation))
    counts: dict[bytes, Counter[int]] = defaultdict(Counter)
    for place in range(CONTEXT, len(train)):
        for order in range(CONTEXT + 1):
            counts[train[place - order : place]][train[place]] += 1
    bits = 0.0
    for place in range(CONTEXT, len(validation)):
        chance = 1 / 256
        for order in range(CONTEXT + 1):
            seen = counts.get(validation[place - order : place])
            if seen:
                total, kinds = seen.total(), len(seen)
                chance = (seen[validation[place]] + kinds * chance) / (total + kinds)
        bits -= math.log2(chance)
    packed = len(zlib.compress(validation, 9)) * 8
    return {"byte 4-gram": bits / (len(validation) - CONTEXT), "zlib": packed / len(validation)}


def _bytes_of(windows: Any) -> Iterator[int]:
    for part in windows.parts:
        yield from (number if number < 256 else 0 for number in part.tolist())


CASES = (
    Case(template="image-classification", metric="accuracy", baselines=support_vectors),
    Case(template="segmentation", metric="mean_iou", baselines=otsu),
    Case(template="tabular", metric="accuracy", baselines=logistic_regression, splits=SPLITS),
    Case(template="text-classification", metric="accuracy", baselines=tf_idf),
    Case(template="language-model", metric="bits_per_byte", baselines=byte_statistics, lower_is_better=True),
)


def measure(case: Case, seeds: int, threads: int) -> list[Row]:
    """Train with each seed, and on each split if the case has several; return a row for each kind of split."""
    from tests.templates.conftest import write_project  # noqa: PLC0415 - torch is not needed for --help

    with tempfile.TemporaryDirectory() as name:
        folder = write_project(Path(name), case.template)
        runs = [(split, seed) for split in case.splits or (0,) for seed in range(seeds)]
        found = {each: train(folder, case.metric, *each, threads) for each in runs}
        baselines = {split: in_project(folder, case, split) for split in case.splits or (0,)}
    groups = [("", [runs[0][0]])]
    if case.splits:
        groups = [(", default split", [runs[0][0]]), (f", {len(case.splits)} splits", list(case.splits))]
    return [
        Row(
            name=case.template + suffix,
            metric=case.metric,
            scores=tuple(statistics.mean(found[split, seed][0] for split in splits) for seed in range(seeds)),
            baselines={
                baseline: statistics.mean(baselines[split][baseline] for split in splits)
                for baseline in baselines[splits[0]]
            },
            seconds=statistics.mean(found[split, seed][1] for split in splits for seed in range(seeds)),
            lower_is_better=case.lower_is_better,
        )
        for suffix, splits in groups
    ]


def train(folder: Path, metric: str, split: int, seed: int, threads: int) -> tuple[float, float]:
    """Run the project's own training with its defaults; return the last evaluation and the CPU seconds."""
    run_dir = folder / "runs" / f"{split}-{seed}"
    options = ["--seed", str(seed), "--run-dir", str(run_dir), "--device", "cpu", "--threads", str(threads)]
    options += ["--split-seed", str(split)] if split else []
    began = os.times()
    subprocess.run(
        [sys.executable, "-m", f"{PACKAGE}.train", *options],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        capture_output=True,
    )
    ended = os.times()  # CPU time, because other work on the machine makes a run slower
    seconds = ended.children_user + ended.children_system - began.children_user - began.children_system
    return float(json.loads((run_dir / "run.json").read_text())["evaluation"][metric]), seconds


def in_project(folder: Path, case: Case, split: int) -> Scores:
    """Import the project and compute the baselines from its data."""
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        config = importlib.import_module(f"{PACKAGE}.config").Config(**({"split_seed": split} if split else {}))
        return case.baselines(importlib.import_module(f"{PACKAGE}.data").load_data(config))
    finally:
        sys.path.remove(str(folder))


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| template | metric | seeds | mean | baselines | CPU s |", "|---|---|---|---|---|---|"]
    for row in rows:
        scores = ", ".join(f"{score:.4f}" for score in row.scores)
        baselines = ", ".join(f"{name} {score:.4f}" for name, score in row.baselines.items())
        mean = f"**{row.mean:.4f}**" if row.wins else f"{row.mean:.4f}"
        lines.append(f"| {row.name} | {row.metric} | {scores} | {mean} | {baselines} | {row.seconds:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure the named templates, or all of them; print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("templates", nargs="*", metavar="TEMPLATE", help="templates to measure; all by default")
    parser.add_argument("--seeds", type=int, default=3, help="runs with different seeds (default: 3)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of a run (default: 1)")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for case in CASES:
        if not arguments.templates or case.template in arguments.templates:
            rows += measure(case, arguments.seeds, arguments.threads)
            sys.stderr.write(table(rows[-1:]).splitlines()[-1] + "\n")
    sys.stdout.write(table(rows) + "\n")


if __name__ == "__main__":
    main()
