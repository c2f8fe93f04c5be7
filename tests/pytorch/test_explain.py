"""Test the output of ``envforge explain`` as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from envforge.cli import main
from envforge.pytorch.matrix import selection_from_json
from tests.pytorch.machines import MATRIX

SNAPSHOTS = Path(__file__).parent / "snapshots"


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["explain", *words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("envforge.pytorch.matrix.load_matrix", lambda: MATRIX)
    for variable in ("CONDA_OVERRIDE_CUDA", "CONDA_OVERRIDE_CUDA_ARCH", "CONDA_OVERRIDE_GLIBC", "ENVFORGE_TORCH_INDEX"):
        monkeypatch.delenv(variable, raising=False)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a10g", ["--machine", "a10g"]),
        ("v100", ["--machine", "v100"]),
        ("t4-cu118", ["--machine", "t4", "--cuda", "11.8"]),
        ("cpu", ["--machine", "cpu"]),
        ("two-platforms", ["--machine", "t4", "--cuda", "11.8", "-p", "linux-64", "-p", "osx-arm64"]),
    ],
)
def test_the_answer_reads_as_reviewed_and_fits_80_columns(
    capsys: pytest.CaptureFixture[str], name: str, words: list[str]
) -> None:
    code, out, err = run(capsys, *words)
    assert (code, err) == (0, "")
    assert out == (SNAPSHOTS / f"{name}.txt").read_text(encoding="utf-8")
    assert max(map(len, out.splitlines())) <= 80


def test_a_refusal_names_both_sides_and_what_would_fit(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--machine", "b200", "--cuda", "11.8")
    assert (code, out) == (1, "")
    assert "no kernel for compute capability 10.0 (NVIDIA B200), the newest is 9.0" in err
    assert "hint: to use torch 2.11.0+cu128 (direct), omit `--cuda`" in err


def test_all_lists_every_build_of_the_matrix_once(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "--machine", "a10g", "--all")
    accepted, refused = out.split(" builds don't fit:\n")
    fits = [line for line in accepted.splitlines() if line.startswith("  2.")]
    assert len(fits) + len(refused.splitlines()) == len(MATRIX.builds)


def test_all_lists_the_refused_builds_where_none_fits(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--machine", "b200", "--cuda", "11.8", "--all")
    assert (code, len(out.splitlines())) == (1, len(MATRIX.builds) + 1)
    assert err.startswith("error: no PyTorch build fits")


def test_json_holds_the_selection_with_every_build(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--machine", "v100", "--json")
    document = json.loads(out)
    assert (code, document["ok"], document["command"]) == (0, True, "explain")
    (selection,) = document["result"]["selections"]
    read = selection_from_json(selection, "stdout")
    assert str(read.build.tag) == "cu126"
    assert len(read.accepted) + len(read.refused) == len(MATRIX.builds)


def test_json_of_a_refusal_is_one_document_with_every_reason(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--machine", "b200", "--cuda", "11.8", "--json")
    document = json.loads(out)
    assert (code, document["ok"]) == (1, False)
    assert document["result"]["error"]["code"] == "no-build"
    assert len(document["result"]["refused"]) == len(MATRIX.builds)
    assert "error: no PyTorch build fits" in err


def test_an_unknown_word_is_a_usage_error_in_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "--cuda", "11.9", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (2, "unknown-cuda")
    assert "did you mean `--cuda 11.8`?" in err


def test_another_index_is_not_contacted_and_explain_reports_that(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--machine", "t4", "--torch-index", "http://x"]) == 0

    note = "note: the builds are those of https://download.pytorch.org/whl; http://x was not contacted\n"
    assert capsys.readouterr().err == note
