"""Test the measurement of the reference models with tiny ones on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")


def context_of(folder: Path, lines: list[dict[str, Any]]) -> Any:
    from envforge.programs.envforge_measures.context import Context

    return Context({"device": "cpu", "tiny": True}, str(folder), lines.append)


def test_models_are_timed_in_each_precision(tmp_path: Path) -> None:
    from tools.gpu_acceptance.measures import language_model, models

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
    from tools.gpu_acceptance.measures import compilation, graphs

    context = context_of(tmp_path, [])
    compiled = compilation(context)["runs"]
    assert [(run["model"], run["batch"], run["precision"]) for run in compiled] == [
        ("resnet50-size", 2, "bf16"),
        ("vit-b-size", 2, "bf16"),
        ("gpt2-size", 2, "bf16"),
    ]
    assert [run for run in compiled if run.get("step_s", 0) <= 0] == []
    assert {run["error"] for run in graphs(context)["runs"]} == {"RuntimeError: CUDA graphs require a GPU"}


def test_a_model_that_does_not_fit_has_an_error(tmp_path: Path) -> None:
    from envforge.programs.envforge_measures.models import Reference, measured

    def build() -> Any:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    runs = measured(context_of(tmp_path, []), [Reference("large", build, (2,), (3, 32, 32))])["runs"]
    assert {run["error"] for run in runs} == {"OutOfMemoryError: CUDA out of memory"}


def test_reference_models_have_the_size_of_those_in_published_figures() -> None:
    from envforge.programs.envforge_measures.models import Transformer, residual
    from tools.gpu_acceptance.measures import Decoder

    sizes = [sum(each.numel() for each in model.parameters()) for model in (residual(), Transformer(), Decoder())]
    assert sizes == [25_557_032, 86_566_120, 124_439_808]


def test_language_model_does_not_see_later_words() -> None:
    from tools.gpu_acceptance.measures import TINY_TEXTS

    model = TINY_TEXTS[0].build().eval()
    tokens, _ = TINY_TEXTS[0].batch(1, torch.device("cpu"))
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 64
    before, after = model(tokens), model(changed)
    assert torch.allclose(before[0, :-1], after[0, :-1], atol=1e-6)
    assert not torch.allclose(before[0, -1], after[0, -1], atol=1e-6)


def test_repeated_convolution_uses_cudnn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from envforge.programs.envforge_measures import device

    seen: list[tuple[bool, bool]] = []
    convolve = torch.nn.functional.conv2d

    def watched(*arguments: Any, **options: Any) -> Any:
        seen.append((torch.backends.cudnn.enabled, torch.backends.cudnn.deterministic))
        return convolve(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "conv2d", watched)
    device.same_bits(context_of(tmp_path, []))
    assert set(seen) == {(True, True)}


@pytest.mark.gpu
def test_a_captured_step_trains_like_the_step_itself() -> None:
    from envforge.programs.envforge_measures.models import WARM
    from tools.gpu_acceptance.measures import _captured

    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")

    def trained(*, is_captured: bool) -> tuple[Any, float]:
        torch.manual_seed(0)
        model = torch.nn.Linear(16, 16).cuda()
        rows = torch.randn(8, 16, device="cuda")
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True, capturable=is_captured)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cuda", torch.float16):
                loss = model(rows).square().mean()
            loss.backward()
            optimizer.step()

        # capturing executes nothing, so the steps are those before it and the replays
        act = _captured(step) if is_captured else step
        for _ in range(5 if is_captured else WARM + 5):
            act()
        torch.cuda.synchronize()
        return model.weight.detach().clone(), float(model(rows).square().mean())

    torch.testing.assert_close(trained(is_captured=True), trained(is_captured=False), rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["eager", "graph", "compile"])
def test_each_variant_runs_on_a_gpu(tmp_path: Path, variant: str) -> None:
    from envforge.programs.envforge_measures.context import Context
    from envforge.programs.envforge_measures.models import run
    from tools.gpu_acceptance import measures

    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")
    context = Context({"device": "cuda:0", "tiny": True}, str(tmp_path), print)
    for reference in (*measures.TINY_IMAGES, *measures.TINY_TEXTS):
        found = run(context, reference, 2, context.low, getattr(measures, variant))
        assert found.get("step_s", 0) > 0, found
        assert found["peak_memory_bytes"] > 0


@pytest.mark.gpu
def test_nccl_sums_in_one_process() -> None:
    import json
    import subprocess
    import sys

    from envforge.base.process import marked_lines
    from envforge.verify.environment.observe import PROGRAMS

    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU here")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    done = subprocess.run(
        [*torchrun, str(PROGRAMS / "envforge_measures" / "collective.py"), "nccl"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = marked_lines(done.stdout)
    assert (line["sum"], line["ranks"]) == (1.0, 1), json.dumps(line)
