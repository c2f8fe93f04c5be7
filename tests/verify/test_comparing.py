"""Test the comparison of two machines and of a fleet: differences, outliers, and tolerated values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from msgspec.structs import replace
from packaging.version import Version

from envforge.cli import main
from envforge.verify import reports
from envforge.verify.machine.facts import MachineFacts
from envforge.verify.record import record_to_json
from envforge.verify.reports.compare import FleetComparison, compare
from envforge.verify.values import Report, Verdict
from tests.verify.made_up import T4, finding, published_schema, record, report
from tests.verify.trained import facts

Captured = pytest.CaptureFixture[str]


def compared(*reports: Report) -> FleetComparison:
    return compare(dict(zip("abcdef", reports, strict=False)), tolerance=0.1)


def different(found: FleetComparison) -> list[str]:
    return [row.name for row in found.different]


def on_glibc(version: str) -> MachineFacts:
    return MachineFacts(machine=replace(T4, glibc=Version(version)))


def test_alike_machines_do_not_differ() -> None:
    assert compared(report(), report()).different == ()


def test_of_two_machines_neither_is_odd() -> None:
    found = compared(report(), report(machine=on_glibc("2.17")))
    assert (different(found), found.outliers) == (["glibc"], ())


def test_who_is_unlike_the_majority_is_named() -> None:
    found = compared(report(), report(machine=on_glibc("2.17")), report())
    assert [(name, [row.name for row in rows]) for name, rows in found.outliers] == [("b", ["glibc"])]


def test_without_a_majority_nobody_is_odd() -> None:
    found = compared(*(report(machine=on_glibc(version)) for version in ("2.17", "2.28", "2.36")))
    assert (different(found), found.outliers) == (["glibc"], ())


def test_what_a_machine_was_not_asked_is_no_difference() -> None:
    assert different(compared(report(), report(machine=None), report(project=None))) == []


@pytest.mark.parametrize(("slower", "differs"), [(1.09, False), (1.12, True), (0.8, True)])
def test_speed_may_differ_by_ten_percent(slower: float, differs: bool) -> None:
    found = compared(report(training=facts()), report(training=facts(slower=slower)))
    assert ("cuda:0, AMP fp16: step" in different(found)) is differs


def test_a_slow_machine_of_a_fleet_is_off_the_median() -> None:
    found = compared(*(report(training=facts(slower=each)) for each in (1.0, 1.02, 1.5, 0.99)))
    ((name, rows),) = found.outliers
    assert name == "c"
    assert rows[0].cells[2].note == "+49% off the median"


def test_a_bad_verdict_that_not_all_share_is_a_difference_with_what_was_observed() -> None:
    well, bad = finding("power-cap", Verdict.PASS), finding("power-cap", Verdict.WARN, observed="150 W of 300 W")
    found = compared(report(well), report(bad), report(well))
    (row,) = found.different
    assert (row.name, row.cells[1].note, row.cells[1].is_odd) == ("power-cap", "150 W of 300 W", True)


def test_verdicts_that_are_all_good_are_no_difference() -> None:
    one, other = finding("x", Verdict.PASS), finding("x", Verdict.SKIP)
    assert different(compared(report(one), report(other))) == []


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three records, of which c.json is of another glibc."""
    monkeypatch.chdir(tmp_path)
    values: dict[str, dict[str, Any]] = {"a": {}, "b": {}, "c": {"machine": on_glibc("2.17")}}
    for name, changes in values.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(record_to_json(record(**changes))))
    return tmp_path


def test_what_people_read_of_a_fleet(files: Path, capsys: Captured) -> None:
    assert main(["compare", "a.json", "b.json", "c.json"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("3 machines differ in ")
    assert "different from the majority: c\n" in out
    assert "  glibc\n    a, b: 2.36\n    c: 2.17  <- different from the majority\n" in out


def test_machines_that_agree_exit_with_0(files: Path, capsys: Captured) -> None:
    assert main(["compare", "a.json", "b.json"]) == 0
    assert capsys.readouterr().out == "2 machines match\n"


def test_equal_machines_of_a_fleet_are_counted_not_named() -> None:
    fleet = {f"n{number}": report() for number in range(40)}
    found = compare({**fleet, "n7": report(machine=on_glibc("2.17"))}, tolerance=0.1)
    lines = [line.plain for line in reports.comparison_lines(found, 80, verbose=False)]
    assert lines[-2:] == ["    n7: 2.17  <- different from the majority", "    39 others: 2.36"]
    assert "| Machine: glibc | 2.36 | 39 others |" in reports.comparison_markdown(found)
    assert "39 others" in reports.comparison_html(found)
    assert "    all 40: 535.216.01" in [line.plain for line in reports.comparison_lines(found, 80, verbose=True)]


def test_the_json_fits_its_published_schema(files: Path, capsys: Captured) -> None:
    assert main(["compare", "a.json", "c.json", "--json"]) == 1
    jsonschema.validate(json.loads(capsys.readouterr().out), published_schema("verify-compare"))


def test_every_form_is_written(files: Path, capsys: Captured) -> None:
    main(["compare", "a.json", "c.json", "--markdown", "m.md", "--html", "c.html"])
    assert "| Machine: glibc | 2.36 | 2.17 |" in Path("m.md").read_text()
    assert "2.17" in Path("c.html").read_text()


def test_identities_in_a_record_are_shown_only_on_request(files: Path, capsys: Captured) -> None:
    text = (files / "a.json").read_text(encoding="utf-8")
    (files / "a.json").write_text(text.replace('"Tesla T4"', '"T4 of max@lab.example"'), encoding="utf-8")
    shown = []
    for option in ((), ("--no-redact",)):
        main(["compare", "a.json", "c.json", "--json", *option])
        shown.append("lab.example" in capsys.readouterr().out)
    assert shown == [False, True]


def test_a_record_of_another_version_is_refused_by_its_name(files: Path, capsys: Captured) -> None:
    value = {**record_to_json(record()), "record_version": 2}
    Path("new.json").write_text(json.dumps(value))
    assert main(["compare", "a.json", "new.json"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "record `new.json`: expected record_version `1`, found `2`" in captured.err


def test_one_record_cannot_be_compared(files: Path, capsys: Captured) -> None:
    assert main(["compare", "a.json"]) == 2
    assert main(["compare", "a.json", "a.json"]) == 2
    assert "two or more different records, found 1: `a.json`" in capsys.readouterr().err


def test_records_of_one_name_are_told_apart_by_their_folders(files: Path, capsys: Captured) -> None:
    for folder, source in (("x", "a"), ("y", "c")):
        Path(folder).mkdir()
        Path(folder, "r.json").write_bytes(Path(f"{source}.json").read_bytes())
    main(["compare", "x/r.json", "y/r.json", "--json"])
    assert json.loads(capsys.readouterr().out)["result"]["machines"] == ["x/r", "y/r"]
