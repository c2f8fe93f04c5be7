"""Test the tool that runs the projects' own tests with other Pythons, including its counts and exit codes."""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import pytest

from tools.run_projects import main, render, run_tests

FEW = "tests/test_data.py"


def test_a_rendered_project_runs_its_tests_with_the_interpreter_that_is_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch = pytest.importorskip("torch")
    assert main(["--python", sys.executable, "tabular", "--", FEW, "-k", "not parquet"]) == 0
    head, row, *rest = capsys.readouterr().out.splitlines()
    assert head.split() == ["template", "passed", "failed", "skipped", "seconds"]
    assert row.split()[:5] == ["torch", torch.__version__, "Python", platform.python_version(), "tabular"]
    passed, failed, skipped, _ = row.split()[5:]
    assert (int(passed) >= 3, failed, skipped, rest) == (True, "0", "0", [])


def test_what_fails_and_what_is_skipped_is_told_with_its_reason(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    render("tabular", tmp_path)
    (tmp_path / "tests" / "test_own.py").write_text(
        "import warnings, pytest\n\n"
        "def test_warns():\n    warnings.warn('of an old torch')\n\n"
        "@pytest.mark.skip(reason='no such card')\ndef test_card():\n    pass\n\n"
        "def test_passes():\n    pass\n"
    )
    run = run_tests(sys.executable, tmp_path, ["tests/test_own.py"])
    assert (run.exit_code, run.passed, run.failed, run.skipped) == (1, 1, 1, ("test_own: no such card",))
    assert "UserWarning: of an old torch" in run.said


def test_tests_that_do_not_run_are_no_success(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main(["--python", sys.executable, "tabular", "--", "tests/test_gone.py"]) == 1
    assert "pytest exited with 4" in capsys.readouterr().out


def test_a_template_that_is_not_there_is_an_error_of_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--python", sys.executable, "tabluar"])
    assert ended.value.code == 2
    assert "unknown template `tabluar`; expected one of: image-classification," in capsys.readouterr().err
