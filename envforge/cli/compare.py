"""``envforge compare``: compare records of machines, and write the differences as text, JSON, Markdown, and HTML."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct

from envforge.cli.options import FILE, Argument, FiniteRange, JsonOption, Option, takes
from envforge.cli.verify import STDOUT, markdown_option, print_lines, without_secrets, write_reports

if TYPE_CHECKING:
    from envforge.verify.reports.compare import FleetComparison


class CompareOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge compare``."""

    records: Annotated[tuple[Path, ...], Argument(metavar="A.json B.json ...", type=FILE)]
    tolerance: Annotated[
        float, Option("Report speeds that differ by more than this.", type=FiniteRange(min=0), metavar="PERCENT")
    ] = 10.0
    markdown: Annotated[Path | None, markdown_option("Write a Markdown report, to stdout unless you name a FILE.")]
    html: Annotated[Path | None, Option("Write an HTML report.", metavar="FILE")]
    no_redact: Annotated[bool, Option("Keep user names, host names, and serial numbers of records that contain them.")]
    verbose: Annotated[bool, Option("Also show equal values.", "-v", "--verbose")]
    as_json: JsonOption


@click.command("compare")
@takes(CompareOptions)
def compare(options: CompareOptions) -> None:
    """Compare the output of `envforge verify --json` from two machines or a fleet.

    Compares facts, speeds, and the verdicts of the checks. With three or more machines, envforge names those that
    differ from the majority, or from the median by more than the tolerance.

    Exits with 0 if the machines match, and with 1 if they differ.
    """
    from envforge.base.envelope import finding, success
    from envforge.verify import reports

    found = _compared(options.records, options.tolerance / 100, is_redacted=not options.no_redact)
    markdown, html = reports.comparison_markdown, reports.comparison_html
    write_reports(found, [(options.markdown, markdown), (options.html, html)])
    if options.as_json:
        result = reports.comparison_to_json(found)
        click.echo(finding("compare", result) if found.different else success("compare", result))
    elif options.markdown == STDOUT:
        click.echo(markdown(found), nl=False)
    else:
        print_lines(lambda width: reports.comparison_lines(found, width, verbose=options.verbose))
    # as `diff` does; durations, depths, and questions that one machine wasn't asked are no difference
    if found.different:
        raise click.exceptions.Exit(1)


def _compared(records: Sequence[Path], tolerance: float, *, is_redacted: bool) -> FleetComparison:
    from envforge.errors import RequestError
    from envforge.verify.checks import all_checks, choose, judge
    from envforge.verify.record import read_record_file
    from envforge.verify.reports.compare import compare as run

    records = tuple({path.resolve(): path for path in reversed(records)}.values())[::-1]
    if len(records) < 2:
        raise RequestError(
            f"`compare` requires two or more different records, found {len(records)}: `{records[0]}`",
            hint="to evaluate a single record",
            command=f"envforge verify --from {shlex.quote(str(records[0]))}",
            code="one-record",
        )
    checks = all_checks()
    reports = {}
    for name, path in zip(_names(records), records, strict=True):
        record = read_record_file(path)
        report = judge(record, choose(record.asked, checks).checks)
        reports[name] = without_secrets(report, is_redacted=is_redacted)
    return run(reports, tolerance=tolerance)


def _names(records: Sequence[Path]) -> list[str]:
    """Return the shortest distinct part of each path: NAME of NAME.json, else its directory with the name, else all."""
    for shorten in (lambda path: path.stem, lambda path: f"{path.parent.name}/{path.stem}"):
        names = [shorten(path) for path in records]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {path}" for number, path in enumerate(records, start=1)]
