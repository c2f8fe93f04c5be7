"""``envforge compare``: compare records of machines, and write the differences as text, JSON, Markdown, and HTML."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from envforge.cli.options import json_option

if TYPE_CHECKING:
    from envforge.verify.reports.compare import Comparison

_FILE = click.Path(path_type=Path, dir_okay=False)
_STDOUT = Path("-")


@click.command("compare")
@click.argument("records", metavar="A.json B.json ...", nargs=-1, type=_FILE, required=True)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    default=10.0,
    show_default=True,
    metavar="PERCENT",
    help="Report speeds that differ by more than this.",
)
@click.option(
    "--markdown",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    is_flag=False,
    flag_value=_STDOUT,
    metavar="[FILE]",
    help="Write a Markdown report, to stdout unless you name a FILE.",
)
@click.option("--html", type=_FILE, metavar="FILE", help="Write an HTML report.")
@click.option("-v", "--verbose", is_flag=True, help="Also show equal values.")
@json_option()
def compare(
    *,
    records: tuple[Path, ...],
    tolerance: float,
    markdown: Path | None,
    html: Path | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Compare the output of `envforge verify --json` from two machines or a fleet.

    Compares facts, speeds, and the verdicts of the checks. With three or more machines, envforge names those that
    differ from the majority, or from the median by more than the tolerance.

    Exits with 0 if the machines match, and with 1 if they differ.
    """
    from envforge.base.envelope import finding, success
    from envforge.cli.verify import print_lines, write_report
    from envforge.verify.reports import formats
    from envforge.verify.reports.terminal import comparison_lines

    found = _compared(records, tolerance / 100)
    if markdown not in (None, _STDOUT):
        write_report(markdown, formats.comparison_markdown(found))
    if html is not None:
        write_report(html, formats.comparison_html(found))
    if as_json:
        result = formats.comparison_to_json(found)
        click.echo(finding("compare", result) if found.different else success("compare", result))
    elif markdown == _STDOUT:
        click.echo(formats.comparison_markdown(found), nl=False)
    else:
        print_lines(lambda width: comparison_lines(found, width, verbose=verbose))
    # as `diff` does; durations, depths, and questions that one machine wasn't asked are no difference
    if found.different:
        raise click.exceptions.Exit(1)


def _compared(records: Sequence[Path], tolerance: float) -> Comparison:
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
        reports[name] = judge(record, choose(record.asked, checks).checks)
    return run(reports, tolerance=tolerance)


def _names(records: Sequence[Path]) -> list[str]:
    """Return the shortest distinct part of each path: NAME of NAME.json, else its directory with the name, else all."""
    for shorten in (lambda path: path.stem, lambda path: f"{path.parent.name}/{path.stem}"):
        names = [shorten(path) for path in records]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {path}" for number, path in enumerate(records, start=1)]
