"""``envforge audit`` prints a report for people, or JSON."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from envforge.cli import main
from envforge.prefix.journal import read_journal, write_journal
from tests.prefix.audit.support import Audited, edit


@pytest.fixture
def project(audited: Audited, monkeypatch: pytest.MonkeyPatch) -> Audited:
    """The environment of a project, in whose folder the command line is run."""
    monkeypatch.chdir(audited.place.folder)
    monkeypatch.setenv("ENVFORGE_CACHE", str(audited.place.cache))
    return audited


def _normal(text: str, audited: Audited) -> str:
    text = re.sub(r"sha256:[0-9a-f]{64}", "sha256:D", text.replace(str(audited.place.folder), "PROJECT"))
    return re.sub(r"\d+ files, \d+\.\d+ MB", "N files, N MB", text)


def test_what_people_read_of_a_whole_environment(project: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--prefix", "prefix"]) == 0
    assert _normal(capsys.readouterr().out, project) == (
        "PROJECT/prefix matches PROJECT/conda-lock.yml (8 packages, N files, N MB)\n"
        "1 file outside Python's library directory belongs to no package\n"
        "digest: sha256:D\n"
    )


def test_what_people_read_of_drift(project: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    edit(project.prefix / "share" / "greeting.txt")
    (project.prefix / "lib" / "blob").unlink()
    (project.site / "mine.py").write_text("")
    assert main(["audit", "--prefix", "prefix"]) == 1
    captured = capsys.readouterr()
    site = project.site.relative_to(project.prefix)
    assert _normal(captured.out, project) == (
        "PROJECT/prefix does not match PROJECT/conda-lock.yml: 3 differences (8 packages, N files, N MB)\n"
        "\n"
        "changed files:\n"
        "  `share/greeting.txt` of `greeting 1.0` differs from its package\n"
        "\n"
        "missing files:\n"
        "  `lib/blob` of `binary 2.0+cu118` is missing\n"
        "\n"
        "files in Python's library directory that belong to no package:\n"
        f"  `{site}/mine.py` belongs to no package\n"
        "\n"
        "1 file outside Python's library directory belongs to no package\n"
        "digest: sha256:D\n"
    )
    assert captured.err.endswith(
        "\nhint: to restore what the lockfile contains, run `envforge audit --fix --prefix prefix`\n"
    )


def test_fix_says_what_it_did_and_leaves_a_whole_environment(
    project: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(project.prefix / "share" / "greeting.txt")
    (project.site / "mine.py").write_text("")
    assert main(["audit", "--prefix", "prefix", "--fix", "--offline"]) == 0
    site = project.site.relative_to(project.prefix)
    assert _normal(capsys.readouterr().out, project).splitlines()[:3] == [
        "reinstalled: greeting 1.0",
        f"moved to PROJECT/prefix/.envforge/moved: {site}/mine.py",
        "PROJECT/prefix matches PROJECT/conda-lock.yml (8 packages, N files, N MB)",
    ]
    assert main(["audit", "--prefix", "prefix"]) == 0


def test_json_is_one_document_whatever_was_found(project: Audited, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "--prefix", "prefix", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["command"], document["ok"], captured.err) == ("audit", True, "")
    assert document["result"]["drift"] == []
    edit(project.prefix / "share" / "greeting.txt")
    assert main(["audit", "--prefix", "prefix", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    (found,) = document["result"]["drift"]
    assert (found["kind"], found["manager"], found["package"]) == ("file-changed", "conda", "greeting")
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", document["result"]["digest"])


def test_an_unfinished_environment_is_named_and_completed_by_fix(
    project: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    journal = read_journal(project.prefix)
    assert journal is not None
    write_journal(project.prefix, journal.at("conda done"))
    assert main(["audit", "--prefix", "prefix"]) == 1
    assert "`PROJECT/prefix` is incomplete: an earlier command was interrupted (last step: `conda done`)" in _normal(
        capsys.readouterr().err, project
    )
    assert main(["audit", "--prefix", "prefix", "--fix", "--offline"]) == 0
    assert "; completing it" in capsys.readouterr().err


def test_a_place_without_an_environment_says_how_to_make_one(
    project: Audited, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit"]) == 1
    assert capsys.readouterr().err.endswith("\nhint: to create it, run `envforge install`\n")


def test_two_places_are_refused(project: Audited) -> None:
    assert main(["audit", "--prefix", "a", "--name", "b"]) == 2


def test_an_audit_starts_without_the_solver_and_the_downloader(project: Audited, tmp_path: Path) -> None:
    program = (
        "import sys; from envforge.cli import main; code = main(['audit', '--prefix', 'prefix'])\n"
        "print(sorted({'rattler', 'requests', 'urllib3', 'conda_lock', 'jinja2', 'torch'} & set(sys.modules)))"
    )
    words = [sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=project.place.folder, env=environment)
    assert done.stdout.splitlines()[-1] == "[]"
