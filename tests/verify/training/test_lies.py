"""Test that one wrong line in torch or in a project fails exactly the check for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from msgspec import Struct

from envforge.base.process import ProcessEnd
from envforge.verify.checks import judge
from envforge.verify.record import Record
from envforge.verify.training.facts import TrainingFacts
from envforge.verify.training.measurements import device_facts
from envforge.verify.values import Verdict
from tests.templates.conftest import PACKAGE, write_project
from tests.verify.environment.support import NOW
from tests.verify.training.records import CHECKS

LEARN = ("device", "project", "learning")
CONTROL = (*LEARN, "control")
SCALER = ("device", "project", "scaler")  # these do not train as long as the others: the suite stays short
GUARD = ("device", "project", "guard")
REPEAT = ("device", "project", "repeat")
MORE = (*LEARN, "guard", "scaler", "repeat")
ALL = (*MORE, "control")

LOSS = "return losses.mean()"
BACKWARD = "self._scaler.scale(loss).backward()"
UNSCALE = (
    "        if self.precision.scaled:\n"
    "            gradient = next(each.grad for each in self._parameters if each.grad is not None)\n"
    "            gradient += mean_loss - mean_loss  # NaN if the loss is not finite: the scaler judges only gradients\n"
    "            self._scaler.unscale_(self.optimizer)\n"
)
CLIP = "        norm = distributed.whole(nn.utils.clip_grad_norm_(self._parameters, self._clip_grad))\n"
BAD = "        bad = verdict - verdict != 0  # finite: 0; else: NaN. Three small kernels, not isfinite's ten\n"
FORWARD = "        features: Tensor = self.stages"


class Lie(Struct, frozen=True):
    """A fault: ``old`` becomes ``new`` in a module of the package; ``check`` alone must find it."""

    name: str
    module: str
    old: str
    new: str
    check: str
    measures: tuple[str, ...] = LEARN


LIES = (
    Lie(
        "autocast silently off",
        "engine/amp",
        "with self.autocast():\n                    loss",
        "if True:\n                    loss",
        "autocast-off",
    ),
    Lie("autocast without a dtype", "engine/amp", "dtype = self.precision.dtype", "dtype = None", "autocast-off"),
    Lie(
        "model leaves autocast",
        "model",
        FORWARD,
        "        import torch\n\n        torch.set_autocast_enabled('cpu', False)\n" + FORWARD,
        "low-precision-unused",
    ),
    Lie(
        "backward inside autocast",
        "engine/amp",
        BACKWARD,
        f"exec('with self.autocast(): {BACKWARD}')",
        "backward-in-autocast",
    ),
    Lie("loss is NaN", "task", LOSS, "return float('nan') * losses.mean()", "loss-not-finite", MORE),
    Lie("loss is constant", "task", LOSS, "return 0.0 * losses.mean()", "loss-constant", MORE),
    Lie("backward skipped", "engine/amp", BACKWARD, "pass", "gradients-missing", MORE),
    Lie(
        "gradients are zero",
        "engine/amp",
        BACKWARD,
        "(0.0 * self._scaler.scale(loss)).backward()",
        "gradients-zero",
        MORE,
    ),
    Lie(
        "learning rate zero",
        "engine/optim",
        'rate * group.get("scale", 1.0)',
        "0.0",
        "weights-still",
        (*LEARN, "scaler"),
    ),
    Lie(
        "optimizer never steps",
        "engine/amp",
        "            self.optimizer.step()\n",
        "            pass\n",
        "weights-still",
    ),
    Lie("loss does not fall", "engine/optim", 'rate * group.get("scale", 1.0)', "1e-7", "loss-does-not-fall"),
    Lie(
        "labels leak",
        "engine/run",
        "if config.control else data.train",
        "if False else data.train",
        "control-learns",
        CONTROL,
    ),
    Lie(
        "validation of other labels",
        "scores",
        "torch.bincount(labels * count",
        "torch.bincount((9 - labels) * count",
        "metric-not-reached",
    ),
    Lie("smoke demands lowered", "task", "Limits(reach=0.9,", "Limits(reach=0.05,", "smoke-thresholds", CONTROL),
    Lie(
        "bad batch applied", "engine/amp", BAD, BAD + "        bad = torch.zeros_like(bad)\n", "non-finite-guard", GUARD
    ),
    Lie("loss not scaled", "engine/amp", BACKWARD, "loss.backward()", "scaled-gradients-wrong", SCALER),
    Lie("clip before unscale", "engine/amp", UNSCALE + CLIP, CLIP + UNSCALE, "scaled-gradients-wrong", SCALER),
    Lie("scaler never steps", "engine/amp", "self._scaler.step(self.optimizer)", "pass", "scaler-no-step", SCALER),
    Lie("scaler never updates", "engine/amp", "            self._scaler.update()\n", "", "scaler-no-backoff", SCALER),
    Lie(
        "seed from the clock", "engine/checkpoint", "torch.manual_seed(seed)", "torch.seed()", "not-repeatable", REPEAT
    ),
    Lie(
        "resume loses randomness",
        "engine/run",
        'set_random_state(state["random"][distributed.rank()])',
        "pass",
        "resume-differs",
        REPEAT,
    ),
    Lie(
        "resume loses the optimizer",
        "engine/run",
        "        optimizer.load_state_dict(of_optimizer)\n",
        "",
        "resume-differs",
        REPEAT,
    ),
    Lie(
        "training gives up",
        "engine/run",
        "        self.step += 1\n",
        "        self.step += 1\n        1 / (self.step - 9)\n",
        "learning-stopped",
        MORE,
    ),
    Lie(
        "import fails",
        "model",
        "from torch import Tensor, nn",
        "from torch import Tensor, nn, gone",
        "project-not-importable",
        MORE,
    ),
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """For each lie, and for the sound project under the name "", the checks that complain and what they say."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    base = tmp_path_factory.mktemp("lies")
    project = _narrow(write_project(base / "sound"))
    jobs: list[tuple[str, Path, tuple[str, ...]]] = [("", project, ALL)]
    jobs += [(lie.name, _changed(project, base / str(number), lie), lie.measures) for number, lie in enumerate(LIES)]
    runners = [_runner(jobs[half::2]) for half in (0, 1)]
    for runner in runners:
        assert runner.wait(timeout=900) == 0
    return {name: _complaints(folder, measures) for name, folder, measures in jobs}


def _narrow(project: Path) -> Path:
    """Half as wide a model and a larger step: the same real digits are learnt in less than half the time."""
    path = project / PACKAGE / "task.py"
    text = path.read_text(encoding="utf-8")
    assert "lr=4e-3," in text
    path.write_text(text.replace("lr=4e-3,", "lr=1e-2, width=8,"), encoding="utf-8")
    return project


def _runner(jobs: Sequence[tuple[str, Path, Sequence[str]]]) -> subprocess.Popen[str]:
    runner = subprocess.Popen(
        [sys.executable, "-m", "tests.verify.training.forked"],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        text=True,
    )
    assert runner.stdin is not None
    with runner.stdin:
        json.dump([(str(folder), measures) for _, folder, measures in jobs], runner.stdin)
    return runner


def _changed(project: Path, folder: Path, lie: Lie) -> Path:
    shutil.copytree(project / PACKAGE, folder / PACKAGE, ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / PACKAGE / f"{lie.module}.py"
    text = path.read_text(encoding="utf-8")
    assert lie.old in text, f"{lie.name}: `{lie.old}` is no longer in {lie.module}.py"
    path.write_text(text.replace(lie.old, lie.new), encoding="utf-8")
    return folder


def _complaints(folder: Path, measures: Sequence[str]) -> dict[str, str]:
    lines = json.loads((folder / "lines.json").read_text(encoding="utf-8"))
    device = device_facts("cpu", measures, ProcessEnd(seconds=1.0, exit_code=0), lines)
    record = Record(envforge="0", created_at=NOW, training=TrainingFacts(python="python", devices=(device,)))
    good = (Verdict.PASS, Verdict.INFO, Verdict.SKIP)
    return {f.check: f.observed for f in judge(record, CHECKS).findings if f.verdict not in good}


def test_the_documentation_lists_the_check_of_each_lie() -> None:
    text = (Path(__file__).parents[3] / "docs" / "verify-training.md").read_text(encoding="utf-8")
    assert {lie.check for lie in LIES if f"`{lie.check}`" not in text} == set()
    assert len({lie.name for lie in LIES}) >= 15


@pytest.mark.slow
def test_nothing_is_said_of_a_sound_project(found: dict[str, dict[str, str]]) -> None:
    assert found[""] == {}


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES, ids=[lie.name for lie in LIES])
def test_each_lie_is_caught_by_its_own_check_alone(found: dict[str, dict[str, str]], lie: Lie) -> None:
    assert list(found[lie.name]) == [lie.check], found[lie.name]
