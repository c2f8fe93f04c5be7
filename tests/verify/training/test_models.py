"""Test the measurement of the reference models with tiny ones on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")


def context_of(folder: Path, lines: list[dict[str, Any]]) -> Any:
    from envforge.verify.training.envforge_measures.context import Context

    return Context({"device": "cpu", "tiny": True}, str(folder), lines.append)


def test_models_are_timed_in_each_precision(tmp_path: Path) -> None:
    from envforge.verify.training.envforge_measures.models import language_model, models

    lines: list[dict[str, Any]] = []
    context = context_of(tmp_path, lines)
    runs = models(context)["runs"] + language_model(context)["runs"]
    assert [(run["model"], run["batch"], run["precision"]) for run in runs] == [
        (model, batch, precision)
        for model, batch in (("resnet50-size", 2), ("resnet50-size", 4), ("vit-b-size", 2), ("vit-b-size", 4))
        for precision in ("bf16", "fp32")
    ] + [("gpt2-size", 2, "bf16"), ("gpt2-size", 2, "fp32")]
    assert [run for run in runs if run.get("step_s", 0) <= 0] == []
    assert [{"event": "run", "variant": "eager", **run} for run in runs] == lines


def test_variants_are_measured_in_low_precision(tmp_path: Path) -> None:
    from envforge.verify.training.envforge_measures.models import compilation, graphs

    context = context_of(tmp_path, [])
    compiled = compilation(context)["runs"]
    assert [(run["model"], run["batch"], run["precision"]) for run in compiled] == [
        ("resnet50-size", 2, "bf16"),
        ("vit-b-size", 2, "bf16"),
        ("gpt2-size", 2, "bf16"),
    ]
    assert [run for run in compiled if run.get("step_s", 0) <= 0] == []
    assert {run["error"] for run in graphs(context)["runs"]} == {"CUDA graphs require a GPU"}


def test_a_model_that_does_not_fit_has_an_error(tmp_path: Path) -> None:
    from envforge.verify.training.envforge_measures.models import Reference, run

    def build() -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    found = run(context_of(tmp_path, []), Reference("large", build, (2,), (3, 32, 32)), 2, "fp32")
    assert found == {"error": "OutOfMemoryError: CUDA out of memory"}


def test_reference_models_have_the_size_of_those_in_published_figures() -> None:
    from envforge.verify.training.envforge_measures.models import Decoder, Transformer, residual

    sizes = [sum(each.numel() for each in model.parameters()) for model in (residual(), Transformer(), Decoder())]
    assert sizes == [25_557_032, 86_566_120, 124_439_808]


def test_language_model_does_not_see_later_words() -> None:
    from envforge.verify.training.envforge_measures.models import TINY_TEXTS

    model = TINY_TEXTS[0].build().eval()
    tokens, _ = TINY_TEXTS[0].batch(1, torch.device("cpu"))
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 64
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[0, :-1], after[0, :-1], atol=1e-6)
    assert not torch.allclose(before[0, -1], after[0, -1], atol=1e-6)


def test_repeated_convolution_uses_cudnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from envforge.verify.training.envforge_measures import device

    seen: list[tuple[bool, bool]] = []
    convolve = device.functional.conv2d

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic))
        return convolve(*arguments, **options)

    monkeypatch.setattr(device.functional, "conv2d", watched)
    device.same_bits(context_of(tmp_path, []))
    assert set(seen) == {(True, True)}
