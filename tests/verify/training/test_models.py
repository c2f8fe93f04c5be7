"""Test the measurement of the reference models with tiny ones on the CPU."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_models_are_timed_in_each_precision(tmp_path: Path, precision: str) -> None:
    from envforge.verify.training.envforge_measures.context import Context
    from envforge.verify.training.envforge_measures.speed import Transformer, residual, run

    context = Context({"device": "cpu"}, str(tmp_path), print)
    for build in (partial(residual, (1, 1), 8), partial(Transformer, depth=1, width=32, heads=2, size=32)):
        assert run(context, build, 2, precision, size=32)["step_s"] > 0


def test_a_model_that_does_not_fit_has_an_error(tmp_path: Path) -> None:
    from envforge.verify.training.envforge_measures.context import Context
    from envforge.verify.training.envforge_measures.speed import run

    def build() -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    context = Context({"device": "cpu"}, str(tmp_path), print)
    assert run(context, build, 2, "fp32") == {"error": "OutOfMemoryError: CUDA out of memory"}


def test_reference_models_have_the_size_of_those_in_published_figures() -> None:
    from envforge.verify.training.envforge_measures.speed import Transformer, residual

    sizes = [sum(each.numel() for each in model.parameters()) for model in (residual(), Transformer())]
    assert sizes == [25_557_032, 86_566_120]
