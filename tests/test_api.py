"""The public API does what the commands do, whatever was imported before, and its documentation page runs."""

from __future__ import annotations

import re
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path

import pytest

import envforge
from tests.prefix.install.support import LockWriter
from tests.support.channel import Channel, text_package
from tests.support.loopback import Loopback
from tests.support.transcripts import ROOT

FUNCTIONS = [name for name in envforge.__all__ if name[0].islower()]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_example_of_the_page_prints_what_the_page_shows() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    code, shown = (re.findall(rf"```{kind}\n(.*?)```", page, re.DOTALL)[0] for kind in ("python", "text"))
    printed = StringIO()
    with redirect_stdout(printed):
        exec(code, {})
    assert printed.getvalue() == shown


def test_page_lists_every_function() -> None:
    page = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == FUNCTIONS


@pytest.mark.parametrize("before", ["envforge.lock.lockfile", "envforge.verify.values", "envforge.cli", "envforge.api"])
def test_functions_are_the_same_whatever_was_imported_before(before: str) -> None:
    program = f"import {before}, envforge; print([callable(getattr(envforge, name)) for name in {FUNCTIONS}])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == f"{[True] * len(FUNCTIONS)}\n"


def test_import_of_the_package_imports_nothing_else() -> None:
    program = "import sys, envforge; print([name for name in sys.modules if name.startswith('envforge.')])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute `nothing`"):
        getattr(envforge, "nothing")  # noqa: B009 - a type checker rejects the attribute


def test_an_error_has_a_code_and_hints() -> None:
    with pytest.raises(envforge.EnvforgeError) as caught:
        envforge.select_builds(envforge.detect_machine("t4"), cuda="11.9")
    assert caught.value.code == "unknown-cuda"
    assert caught.value.hints[0].purpose == "did you mean `--cuda 11.8`?"


def test_dry_run_creates_nothing(here: Path) -> None:
    machine = envforge.detect_machine("t4")
    created = envforge.create_project("tabular", "net", machine=machine, lock=False, groups=["docker"], dry_run=True)
    assert created.project.groups == ("docker",)
    assert [*here.iterdir()] == []


def test_environment_is_installed_audited_and_verified(here: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    channel = Channel(tmp_path_factory.mktemp("channel"))
    channel.add(text_package("greeting", "1.0", {"share/greeting.txt": "hello\n"}))
    with Loopback(channel.folder) as server:
        lock = LockWriter(server.url).conda(*channel.packages.values()).write(here / "conda-lock.yml")
        report = envforge.install_environment(lock, "prefix", cache="cache")
    assert (report.outcome, len(report.linked)) == ("installed", 1)
    assert envforge.audit_environment("prefix").drift == ()
    (here / "prefix" / "share" / "greeting.txt").write_text("changed\n", encoding="utf-8")
    assert [found.kind for found in envforge.audit_environment("prefix").drift] == ["file-changed"]
    assert envforge.verify_environment(prefix="prefix", depth="fast").record.asked.depth == "fast"
