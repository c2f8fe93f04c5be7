"""Test the output and exit codes of ``envforge verify``."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from junitparser import JUnitXml
from msgspec.structs import replace

from envforge.cli import main
from envforge.verify.machine.facts import MachineFacts
from envforge.verify.record import ProjectFacts, record_to_json
from envforge.verify.training.facts import TrainingFacts
from tests.prefix.install.support import LockWriter
from tests.support.wheel import text_wheel
from tests.verify.environment import torches
from tests.verify.made_up import T4, published_schema, record

assert sys.platform != "win32"

Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, in no project."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def project(folder: Path) -> Path:
    LockWriter("https://channel.invalid/c").write(folder / "conda-lock.yml")
    return folder


def printed(capsys: Captured) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def verdicts(document: dict[str, Any]) -> dict[str, str]:
    return {found["check"]: found["verdict"] for found in document["result"]["findings"]}


def test_alone_it_asks_what_applies_and_says_how_to_install_the_rest(project: Path, capsys: Captured) -> None:
    main(["verify", "--only", "observation"])
    out = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"environment-observed, training-observed: no environment is installed in `\S+` run envforge install", out
    )


def test_an_environment_that_was_asked_for_and_is_missing_fails(project: Path, capsys: Captured) -> None:
    assert main(["verify", "env", "--json"]) == 1
    assert verdicts(printed(capsys))["environment-observed"] == "fail"


def test_a_project_without_a_lock_fails_with_the_command_that_makes_one(folder: Path, capsys: Captured) -> None:
    (folder / "envforge.toml").write_text("")
    (folder / "environment.yml").touch()
    assert main(["verify", "--only", "lock-usable"]) == 1
    assert "  run       envforge lock\n" in capsys.readouterr().out


def test_what_verify_prints_fits_its_published_schema(project: Path, capsys: Captured) -> None:
    main(["verify", "machine", "--json"])
    jsonschema.Draft202012Validator.check_schema(published_schema())
    jsonschema.validate(printed(capsys), published_schema())


def test_a_document_that_lacks_a_field_does_not_fit_the_schema(project: Path, capsys: Captured) -> None:
    main(["verify", "machine", "--json"])
    document = printed(capsys)
    del document["result"]["findings"][0]["source"]
    with pytest.raises(jsonschema.ValidationError, match="source"):
        jsonschema.validate(document, published_schema())


def test_a_record_judged_elsewhere_says_what_was_said_here(project: Path, capsys: Captured) -> None:
    first = main(["verify", "machine", "--json"])
    here = capsys.readouterr().out
    (project / "record.json").write_text(here)
    (project / "conda-lock.yml").unlink()  # only the record counts
    assert main(["verify", "--from", "record.json", "--json"]) == first
    assert verdicts(printed(capsys)) == verdicts(json.loads(here))


def test_a_record_is_judged_by_what_is_asked_of_it_now(project: Path, capsys: Captured) -> None:
    Path("record.json").write_text(json.dumps(record_to_json(record())))
    main(["verify", "--from", "record.json", "--only", "lock-usable", "--json"])
    assert list(verdicts(printed(capsys))) == ["machine-observed", "lock-usable"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "expected JSON"),
        ("{}", "not a record of `verify`"),
        ('{"record":"envforge-verify","record_version":9}', "newer"),
    ],
)
def test_a_record_that_cannot_be_read_is_one_clear_error(folder: Path, capsys: Captured, text: str, said: str) -> None:
    Path("record.json").write_text(text)
    assert main(["verify", "--from", "record.json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert said in captured.err
    assert "hint: " in captured.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("--fast", "--deep"), "two-depths"),
        (("--only", "nonsense"), "no-such-check"),
        (("--skip", "nonsense"), "no-such-check"),
        (("machine", "--only", "training-observed"), "nothing-to-check"),
        (("--prefix", "a", "--name", "b"), "two-places"),
    ],
)
def test_contradictions_are_usage_errors(capsys: Captured, arguments: tuple[str, ...], code: str) -> None:
    assert main(["verify", *arguments, "--json"]) == 2
    assert printed(capsys)["error"]["code"] == code


def test_name_of_a_check_forges_no_line(capsys: Captured) -> None:
    assert main(["verify", "--skip", "a\nhint: b"]) == 2
    assert r"unknown check or group `a\nhint: b`" in capsys.readouterr().err


def test_every_report_is_written_also_when_the_run_fails(folder: Path, capsys: Captured) -> None:
    (folder / "envforge.toml").write_text("")
    files = ("--junit", "j.xml", "--markdown", "m.md", "--html", "h.html")
    assert main(["verify", "--only", "lock-usable", *files]) == 1
    assert [case.name for suite in JUnitXml.fromfile("j.xml") for case in suite] == ["machine-observed", "lock-usable"]
    assert Path("m.md").read_text().startswith("## envforge verify: FAIL\n")
    assert "<!doctype html>" in Path("h.html").read_text()


@pytest.mark.parametrize(
    ("torch", "limit", "said"),
    [
        (torches.dies_by("SIGSEGV"), "30", "SIGSEGV"),
        (torches.dies_by("SIGILL"), "30", "SIGILL"),
        (torches.HANGS, "2", "did not finish within 2 s"),
        (torches.RAISES, "30", "libcudnn.so.9"),
    ],
    ids=["SIGSEGV", "SIGILL", "hang", "no library"],
)
def test_a_torch_that_crashes_or_hangs_fails_and_every_report_is_written(
    project: Path, capsys: Captured, torch: str, limit: str, said: str
) -> None:
    torches.virtual_environment(project / "env", torch)
    files = ("--junit", "j.xml", "--markdown", "m.md", "--html", "h.html")
    only = ("--only", "torch-import-failed", "--only", "process-died", "--only", "matmul-wrong")
    assert main(["verify", "--prefix", "env", "--limit", limit, *only, *files, "--json"]) == 1
    document = printed(capsys)
    jsonschema.validate(document, published_schema())
    assert verdicts(document)["torch-import-failed"] == "fail"
    for text in (json.dumps(document), *(Path(name).read_text() for name in ("j.xml", "m.md", "h.html"))):
        assert said in text.replace("\\", "")


def test_verify_names_the_files_that_it_wrote_on_stderr(folder: Path, capsys: Captured) -> None:
    main(["verify", "--only", "lock-usable", "--junit", "j.xml", "--html", "h.html", "--json"])
    captured = capsys.readouterr()
    assert captured.err == "Wrote j.xml\nWrote h.html\n"
    assert json.loads(captured.out)["ok"]


def test_a_report_into_a_pipe_does_not_replace_the_pipe(folder: Path) -> None:
    os.mkfifo("pipe")
    reader = os.open("pipe", os.O_RDWR | os.O_NONBLOCK)
    try:
        main(["verify", "--only", "lock-usable", "--junit", "pipe"])
        assert os.read(reader, 5) == b"<?xml"
    finally:
        os.close(reader)
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize(
    "arguments",
    [("machine", "--only", "lock-usable"), ("--only", "lock-usable", "machine"), ("--markdown", "machine", "--fast")],
)
def test_verify_accepts_options_around_the_subcommand(capsys: Captured, arguments: tuple[str, ...]) -> None:
    assert main(["verify", *arguments]) == 0
    assert "Machine checks passed" in capsys.readouterr().out
    assert not Path("machine").exists()


def test_verify_lists_the_checks_of_a_subcommand(capsys: Captured) -> None:
    main(["verify", "--list", "train", "--json"])
    checks = printed(capsys)["result"]["checks"]
    assert {check["question"] for check in checks} == {"training"}


@pytest.mark.parametrize("arguments", [("trani",), ("--train",), ("machine", "env")])
def test_verify_rejects_what_is_no_subcommand(capsys: Captured, arguments: tuple[str, ...]) -> None:
    assert main(["verify", *arguments]) == 2


@pytest.mark.parametrize(("word", "near"), [("enviroment", "env"), ("machin", "machine"), ("training", "train")])
def test_verify_suggests_the_nearest_subcommand(capsys: Captured, word: str, near: str) -> None:
    assert main(["verify", word]) == 2
    assert f"did you mean `envforge verify {near}`?" in capsys.readouterr().err


def test_verify_suggests_the_subcommand_for_an_option_of_its_name(capsys: Captured) -> None:
    assert main(["verify", "--env", "--fast"]) == 2
    assert "run `envforge verify env`" in capsys.readouterr().err


def test_verify_help_shows_its_exit_codes_on_lines_of_their_own(capsys: Captured) -> None:
    main(["verify", "--help"])
    out = capsys.readouterr().out
    assert "\\b" not in out
    assert "\n  Exits with 1 if a check fails" in out


def test_verify_finds_the_project_from_a_subdirectory(
    project: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project / "src" / "deep").mkdir(parents=True)
    monkeypatch.chdir(project / "src" / "deep")
    main(["verify", "--only", "lock-usable", "--json"])
    document = printed(capsys)
    assert document["result"]["record"]["project"]["lock_file"] == "conda-lock.yml"
    assert verdicts(document)["lock-usable"] == "pass"


def test_markdown_without_a_file_goes_to_stdout(folder: Path, capsys: Captured) -> None:
    main(["verify", "--only", "lock-usable", "--markdown"])
    assert capsys.readouterr().out.startswith("## envforge verify: PASS\n")


def test_a_report_that_cannot_be_written_is_an_error_of_the_outside(folder: Path, capsys: Captured) -> None:
    Path("file").write_text("")
    assert main(["verify", "--only", "lock-usable", "--html", "file/h.html"]) == 3
    assert "`file`" in capsys.readouterr().err


def test_the_list_names_every_check_with_its_cost(capsys: Captured) -> None:
    assert main(["verify", "--list"]) == 0
    out = capsys.readouterr().out
    assert "  lock-usable  [observation, fail, fast]\n" in out
    assert max(map(len, out.splitlines())) <= 80
    assert main(["verify", "--list", "--json"]) == 0
    listed = printed(capsys)["result"]["checks"]
    assert len(listed) == len(re.findall(r"^  \S+  \[", out, re.MULTILINE))


def test_nothing_in_a_record_names_who_made_it(project: Path, capsys: Captured, monkeypatch: Any) -> None:
    home = project.parent / "home" / "elvira"
    home.mkdir(parents=True)
    (home / "my.yml").touch()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("USER", "elvira")
    main(["verify", "machine", "--json", "--lock", str(home / "my.yml")])
    text = capsys.readouterr().out
    assert "elvira" not in text
    assert "~/my.yml" in text
    main(["verify", "machine", "--json", "--no-redact", "--lock", str(home / "my.yml")])
    assert str(home) in capsys.readouterr().out


SECRETS = {
    "user": "elvira",
    "host": "gpu-box-7",
    "home": "/data/people/",
    "another's home": "/home/max",
    "UUID": "12345678-aaaa-bbbb-cccc-1234567890ab",
    "address": "0a:1b:2c:3d:4e:5f",
}
TELLING = (
    "no lock in `/data/people/elvira/cats` or `/home/max/cats`, said elvira@gpu-box-7 (gpu-box-7.lab.example), "
    "GPU-12345678-aaaa-bbbb-cccc-1234567890ab, 0a:1b:2c:3d:4e:5f, /scratch/elvira/run"
)
FORMATS = ("json", "html", "markdown", "junit", "terminal")


def written(folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, *more: str) -> dict[str, str]:
    """Every report of a record that tells who and where in a finding, in its facts and in what a team added."""
    monkeypatch.setenv("HOME", "/data/people/elvira")
    monkeypatch.setenv("USER", "elvira")
    machine = MachineFacts(machine=replace(T4, hostname="gpu-box-7.lab.example"))
    lock = ProjectFacts(name="cats", lock_file="conda-lock.yml", lock_unreadable=TELLING)
    training = TrainingFacts(python="/data/people/elvira/.conda/bin/python", unreadable=TELLING)
    telling = record(machine=machine, project=lock, training=training, own={"team": [TELLING]})
    Path("record.json").write_text(json.dumps(record_to_json(telling)))
    chosen = ("--only", "lock-usable", "--only", "trains-on-gpu")
    files = {"html": folder / "h.html", "markdown": folder / "m.md", "junit": folder / "j.xml"}
    options = [text for name, path in files.items() for text in (f"--{name}", str(path))]
    main(["verify", "--from", "record.json", *chosen, *options, *more, "--json"])
    texts = {"json": capsys.readouterr().out, **{name: path.read_text() for name, path in files.items()}}
    main(["verify", "--from", "record.json", *chosen, *more])
    return {**texts, "terminal": capsys.readouterr().out.replace("\n            ", "")}


def test_no_report_tells_who_and_where(folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = written(folder, capsys, monkeypatch)
    assert set(texts) == set(FORMATS)
    told = {(name, kind) for name, text in texts.items() for kind, secret in SECRETS.items() if secret in text}
    assert told == set()
    assert [name for name, text in texts.items() if "HOST" not in text or "USER" not in text] == []  # it stood there


def test_every_report_tells_all_of_it_where_that_is_asked_for(
    folder: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = written(folder, capsys, monkeypatch, "--no-redact")
    lacking = {(name, kind) for name, text in texts.items() for kind, secret in SECRETS.items() if secret not in text}
    assert lacking == set()


TEAM = """
from envforge.verify.judging import check, failed, passed, record_of

def observe(situation):
    return {"free": 3, "folder": situation.folder.name}

@check("team-scratch", "Free scratch space", of=record_of("machine"), group="own", observe=observe)
def scratch(record):
    '''Runs write there.'''
    size = record.own["team-scratch"]["free"]
    if size > 10:
        return passed(f"{size} free")
    return failed(f"{size} free", "10", command="rm -r /scratch/old")
"""


def installed(folder: Path, code: str) -> dict[str, str]:
    """The variables of a process in which a tiny distribution is installed, with one entry point of checks."""
    points = f"[envforge.checks]\nteam = {'teamchecks:CHECKS' if 'CHECKS' in code else 'teamchecks'}\n"
    texts = {"teamchecks.py": code, "teamchecks-1.0.dist-info/entry_points.txt": points}
    wheel = text_wheel("teamchecks", "1.0", texts, folder)
    target = folder / "site"
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "install",
        "--quiet",
        "--no-index",
        "--target",
        str(target),
        str(wheel),
    ]
    subprocess.run(command, check=True, timeout=60)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(target), *sys.path])}


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "envforge", "verify", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


def test_a_teams_own_check_is_listed_observed_and_judged(folder: Path) -> None:
    environment = installed(folder, TEAM)
    done = run(environment, "--only", "team-scratch", "--json")
    document = json.loads(done.stdout)
    assert (done.returncode, verdicts(document)["team-scratch"]) == (1, "fail")
    assert document["result"]["record"]["own"] == {"team-scratch": {"free": 3, "folder": folder.name}}
    assert "  team-scratch  [own, fail, fast]" in run(environment, "--list").stdout


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ImportError('no such driver')", "ImportError: no such driver"),
        ("CHECKS = ['driver']", "expected a Check"),
        (TEAM.replace("team-scratch", "lock-usable"), "two checks have the id `lock-usable`"),
    ],
)
def test_a_teams_broken_check_stops_the_run_with_its_name(folder: Path, code: str, said: str) -> None:
    done = run(installed(folder, code), "--list")
    assert done.returncode == 1
    assert said in done.stderr
    assert "teamchecks" in done.stderr


TRAIN = ("verify", "train", "--fast", "--prefix", "env")


def test_while_it_trains_stderr_says_which_measure_runs_and_stdout_says_nothing_of_it(
    project: Path, capsys: Captured
) -> None:
    torches.virtual_environment(project / "env", torches.RAISES)
    assert main([*TRAIN]) == 1
    captured = capsys.readouterr()
    assert "cpu 2/4: matrix products compared with float64\n" in captured.err
    assert "2/4" not in captured.out


def test_with_json_nothing_is_said_but_the_document(project: Path, capsys: Captured) -> None:
    torches.virtual_environment(project / "env", torches.RAISES)
    assert main([*TRAIN, "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out)["command"] == "verify"


def test_on_a_terminal_the_progress_is_one_line_that_goes_away(project: Path) -> None:
    torches.virtual_environment(project / "env", torches.RAISES)
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "TERM": "xterm", "COLUMNS": "80"}
    command = [sys.executable, "-m", "envforge", *TRAIN]
    said = b""
    with Path("out").open("wb") as out, subprocess.Popen(command, stdout=out, stderr=theirs, env=environment):
        os.close(theirs)
        with contextlib.suppress(OSError):  # what a terminal says when nobody is left at its other end
            while part := os.read(ours, 65536):
                said += part
    os.close(ours)
    assert b"cpu 4/4: attention compared with float64" in said
    assert said.rstrip().endswith(b"\x1b[2K")  # the line is erased
    assert "4/4" not in Path("out").read_text()
