"""``envforge verify``: observe or read a record, evaluate it, and write the report in each format."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import click
from msgspec import Struct
from msgspec.structs import replace

from envforge.cli.options import (
    EnvironmentOptions,
    FiniteRange,
    JsonOption,
    MachineOption,
    Option,
    chosen_machine,
    takes,
)
from envforge.errors import RequestError

if TYPE_CHECKING:
    from rich.text import Text

    from envforge.verify.discovery import Place
    from envforge.verify.record import Asked, Record
    from envforge.verify.values import Check, Cost, Question, Report

T = TypeVar("T")
STDOUT = Path("-")


def markdown_option(help_text: str) -> Option:
    """Return ``--markdown``, whose FILE may be omitted; the value is then ``STDOUT``."""
    kind = click.Path(path_type=Path, dir_okay=False, allow_dash=True)
    return Option(help_text, type=kind, is_flag=False, flag_value=STDOUT, metavar="[FILE]")


class VerifyOptions(Struct, frozen=True, kw_only=True):
    """The options of ``envforge verify`` and of each subcommand."""

    fast: Annotated[bool, Option("Run only the checks that take a moment.")]
    deep: Annotated[bool, Option("Also run the checks that take minutes.")]
    only: Annotated[
        tuple[str, ...],
        Option("Run only this check or group, whatever it costs. May be provided more than once.", metavar="ID"),
    ]
    skip: Annotated[tuple[str, ...], Option("Omit this check or group. May be provided more than once.", metavar="ID")]
    show_list: Annotated[bool, Option("List the checks with group, severity, and cost.", "--list")]
    strict: Annotated[bool, Option("Exit with 1 on warnings, too.")]
    record: Annotated[
        Path | None,
        Option(
            "Evaluate the output of `envforge verify --json` from another machine or time.", "--from", metavar="RECORD"
        ),
    ]
    lock: Annotated[
        Path | None,
        Option("Compare with this lockfile.  [default: the lockfile of the environment or project]", metavar="FILE"),
    ]
    variant: Annotated[str | None, Option("Compare with lockfiles/NAME/conda-lock.yml.", metavar="NAME")]
    environment: EnvironmentOptions
    limit: Annotated[
        float,
        Option("Stop each process that a check starts after this time.", type=FiniteRange(min=1), metavar="SECONDS"),
    ] = 120.0
    junit: Annotated[Path | None, Option("Write a JUnit XML report for CI.", metavar="FILE")]
    markdown: Annotated[
        Path | None, markdown_option("Write a Markdown report for an issue, to stdout unless you name a FILE.")
    ]
    html: Annotated[Path | None, Option("Write an HTML report with charts and filters.", metavar="FILE")]
    no_redact: Annotated[bool, Option("Keep user names, host names, and serial numbers.")]
    verbose: Annotated[bool, Option("Show every finding in full, also if it passes.", "-v", "--verbose")]
    as_json: JsonOption

    def place(self) -> Place:
        """Return where to look for the project, the lockfile, and the environment."""
        from envforge.verify.discovery import Place

        if self.lock is not None and not self.lock.exists():
            raise RequestError(
                f"the lockfile `{self.lock}` does not exist", hint="check the path in `--lock`", code="no-lockfile"
            )
        prefix, name = self.environment.prefix, self.environment.name
        return Place(folder=Path.cwd(), prefix=prefix, name=name, lock=self.lock, variant=self.variant)


class MachineOptions(Struct, frozen=True, kw_only=True):
    """The options of the commands that can check another machine."""

    machine: MachineOption
    common: VerifyOptions


class _VerifyGroup(click.Group):
    """A group whose options may also be given before the subcommand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self._subcommand_first(ctx, args))

    def _subcommand_first(self, ctx: click.Context, args: list[str]) -> list[str]:
        plain = list(args)
        for position, word in enumerate(plain[:-1]):
            if word == "--markdown" and plain[position + 1] in self.commands:
                plain[position] = f"--markdown={STDOUT}"  # a subcommand, not the optional FILE
        try:
            # click parses the options of a group only before its subcommand, and these belong to the subcommand
            rest = self.make_parser(ctx).parse_args(list(plain))[1]
        except click.NoSuchOption as error:
            if (name := error.option_name.removeprefix("--")) not in self.commands:
                raise
            message = f"no such option `{error.option_name}` for `envforge verify`"
            raise RequestError(
                message, hint="to use the subcommand of this name", command=f"{ctx.command_path} {name}", code="usage"
            ) from error
        before, after = plain[: len(plain) - len(rest)], plain[len(plain) - len(rest) :]
        return [after[0], *before, *after[1:]] if after and after[0] in self.commands else plain


@click.group("verify", cls=_VerifyGroup, invoke_without_command=True, subcommand_metavar="[COMMAND]")
@click.pass_context
@takes(MachineOptions)
def verify(context: click.Context, options: MachineOptions) -> None:
    """Check that this machine, this environment, and this GPU can train.

    Without a command, envforge selects the checks from the current directory: the machine; in a project also the
    lockfile; if the environment is installed, also the environment and training. Nothing is changed or reset.

    With --machine, envforge checks whether the lockfile supports another machine, without being there.

    \b
    Exits with 0 if nothing fails. There may be warnings.
    Exits with 1 if a check fails, or if a required check can't decide.
    Exits with 3 if nothing could be observed, or a report could not be written.
    """  # noqa: D301 - click needs the control character
    if context.invoked_subcommand is None:
        _run((), options.common, options.machine)


@verify.command("machine")
@takes(MachineOptions)
def machine(options: MachineOptions) -> None:
    """Check the machine and whether it supports the lockfile. Needs no torch and no environment, and takes seconds.

    Covers the driver, GPUs, containers, hardware errors, clocks, disks, limits, and environment variables.

    With --machine, envforge compares the lockfile with a record made by `envforge detect --json` on another machine, or
    with a built-in profile. Facts that the record lacks are UNKNOWN. Exits with 1 if the lockfile doesn't fit.
    """
    _run(("machine",), options.common, options.machine)


@verify.command("env")
@takes(VerifyOptions)
def env(options: VerifyOptions) -> None:
    """Check that the environment matches its lockfile, and that its torch and libraries load.

    Compares the installed files with the lockfile, then imports torch with the environment's own Python. Exits with 1
    if the environment is missing or incomplete.
    """
    _run(("environment",), options)


@verify.command("train")
@takes(VerifyOptions)
def train(options: VerifyOptions) -> None:
    """Train on every GPU, and check that the model learns and the GPU computes correctly.

    Runs kernels, the project's own training step, and speed tests with the environment's own Python, one process per
    GPU. Without a GPU, the same runs on the CPU. Nothing is written into the project.
    """
    _run(("training",), options)


def _run(questions: tuple[Question, ...], options: VerifyOptions, described: str | None = None) -> None:
    """Verify; ``described`` is the value of ``--machine``."""
    from envforge.verify.checks import checks_for, choose, judge
    from envforge.verify.record import read_record_file

    asked = _asked(questions, options, described)
    checks = checks_for(asked)
    if options.show_list:
        is_limited = asked.explicit or asked.only or asked.skip
        _show_list(choose(asked, checks).checks if is_limited else checks, as_json=options.as_json)
        return
    if options.record is not None:
        record = read_record_file(options.record)
        selected = choose(_asked_before(asked, record), checks).checks
    elif described is not None:
        selected, record = _plan(options, described, asked, checks)
    else:
        with _progress(quiet=options.as_json) as say:
            selected, record = _observe(options, asked, checks, say)
    report = judge(record, selected)
    # after judging, so that no verdict depends on what is hidden; `--from` judges the redacted record again
    report = without_secrets(report, is_redacted=not options.no_redact)
    _write(report, options)
    # an external failure and not a finding: nothing is known about the machine
    if not record.observed and any(lack.why in ("broken", "late") for lack in record.not_observed):
        raise click.exceptions.Exit(3)
    if not report.passed(strict=options.strict):
        raise click.exceptions.Exit(1)


def _asked(questions: tuple[Question, ...], options: VerifyOptions, described: str | None) -> Asked:
    from envforge.verify.record import Asked

    if described is not None and described.startswith("-"):
        raise RequestError(
            "`--machine` requires a machine record or a profile",
            hint="to check this machine",
            command="envforge verify machine",
            code="no-such-machine",
        )
    for one, other, code, are_both in (
        ("fast", "deep", "two-depths", options.fast and options.deep),
        ("lock", "variant", "two-locks", options.lock is not None and options.variant is not None),
        ("from", "machine", "two-machines", options.record is not None and described is not None),
    ):
        if are_both:
            hint = f"omit `--{one}` or `--{other}`"
            raise RequestError(f"`--{one}` can't be used with `--{other}`", hint=hint, code=code)
    depth: Cost = "fast" if options.fast else "deep" if options.deep else "default"
    only, skip = _split(options.only), _split(options.skip)
    return Asked(explicit=questions, depth=depth, only=only, skip=skip, machine=described or "")


def _split(given: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(word.strip() for each in given for word in each.split(",") if word.strip()))


def _asked_before(asked: Asked, record: Record) -> Asked:
    """Return the request that the record was made with, changed by what is requested now."""
    before = record.asked
    if asked.only or asked.skip:
        return replace(asked, explicit=asked.explicit or before.explicit, depth=before.depth)
    return replace(before, explicit=asked.explicit or before.explicit)


def _plan(
    options: VerifyOptions, described: str, asked: Asked, checks: Sequence[Check]
) -> tuple[tuple[Check, ...], Record]:
    import datetime as dt

    from envforge.verify.discovery import plan_for

    now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    return plan_for(chosen_machine(described), asked, options.place(), checks, now)


@contextmanager
def _progress(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show progress on stderr: one changing line on a terminal, plain lines elsewhere, nothing if ``quiet``."""
    if quiet or sys.stderr is None:
        yield lambda _text: None
    elif sys.stderr.isatty() and os.environ.get("TERM") != "dumb":  # a dumb terminal can't erase a line
        from rich.console import Console
        from rich.text import Text

        with Console(file=sys.__stderr__).status("checking this machine") as status:
            yield lambda text: status.update(Text(text))
    else:
        yield lambda text: click.echo(text, err=True)


def _observe(
    options: VerifyOptions, asked: Asked, checks: Sequence[Check], say: Callable[[str], None]
) -> tuple[tuple[Check, ...], Record]:
    import datetime as dt

    from envforge.base.process import adopt_orphans, ending_children, survivors
    from envforge.cli.options import warn_of_incomplete_change
    from envforge.machine.world import World
    from envforge.verify.checks import choose
    from envforge.verify.discovery import RunContext, find_situation
    from envforge.verify.observe import observe

    now = dt.datetime.now(dt.timezone.utc).replace(microsecond=0)
    context = RunContext(world=World.here(os.environ), now=now, limit_s=options.limit, say=say)
    selection = choose(asked, checks)
    adopt_orphans()
    with ending_children():
        situation, surroundings = find_situation(options.place(), asked, selection, context)
        if situation.lock is not None:
            warn_of_incomplete_change(situation.lock)
        record = observe(situation, surroundings, selection.checks)
    if left := " ".join(map(str, survivors())):
        click.echo(
            f"warning: a check left processes that could not be killed; to try again, run `kill -9 {left}`", err=True
        )
    return selection.checks, record


def without_secrets(report: Report, *, is_redacted: bool) -> Report:
    """Return the report without secrets and, unless ``--no-redact``, without what identifies people and computers."""
    from envforge.base.redact import Identity, change_texts
    from envforge.base.urls import hide_secrets
    from envforge.verify.record import redact

    return redact(report, Identity.here()) if is_redacted else change_texts(report, hide_secrets)


def _write(report: Report, options: VerifyOptions) -> None:
    """Write the report files, then the report on stdout."""
    from envforge.verify import reports
    from envforge.verify.reports.presentation import present

    shown = present(report, strict=options.strict)
    write_reports(
        shown,
        [
            (options.junit, reports.report_junit),
            (options.markdown, reports.report_markdown),
            (options.html, reports.report_html),
        ],
    )
    if options.as_json:
        from envforge.base.envelope import finding, success

        result = reports.report_to_json(report, strict=options.strict)
        click.echo(finding("verify", result) if shown.outcome == "FAIL" else success("verify", result))
    elif options.markdown == STDOUT:
        click.echo(reports.report_markdown(shown), nl=False)
    else:
        print_lines(lambda width: reports.report_lines(shown, width=width, verbose=options.verbose))


def write_reports(shown: T, files: Iterable[tuple[Path | None, Callable[[T], str]]]) -> None:
    """Write each report file atomically, and name it on stderr, because stdout may be data."""
    from envforge.base.files import write_atomic
    from envforge.base.urls import show_url

    for path, render in files:
        if path is None or path == STDOUT:
            continue
        write_atomic(path, render(shown).encode())
        click.echo(f"Wrote {show_url(str(path))}", err=True)


def _show_list(checks: Sequence[Check], *, as_json: bool) -> None:
    from envforge.base.envelope import success
    from envforge.verify.reports import check_lines, check_to_json

    if as_json:
        click.echo(success("verify", {"checks": [check_to_json(check) for check in checks]}))
    else:
        print_lines(lambda width: check_lines(checks, width))


def print_lines(render: Callable[[int], Iterable[Text]]) -> None:
    """Print the lines that ``render`` returns for the width of the terminal, or for 80 columns without a terminal."""
    from rich.console import Console

    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    console = Console(highlight=False, width=None if is_terminal else 80)
    for line in render(console.width):
        # the lines are wrapped already, and a command must stay on one line
        console.print(line, soft_wrap=True)
