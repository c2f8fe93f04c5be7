"""Build findings of the environment checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from envforge.base.redact import quoted
from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.record import Record
from envforge.verify.values import Judgement, Signal, Verdict

Judge = Callable[[Record], Iterable[Judgement]]


def passed(observed: str, *, wanted: str = "", source: str = "", subject: str = "") -> Judgement:
    """Return a judgement: the check found what was expected."""
    return Judgement(verdict=Verdict.PASS, observed=observed, wanted=wanted, source=source, subject=subject)


def info(observed: str, *, source: str = "", subject: str = "") -> Judgement:
    """Return a judgement: a fact worth knowing."""
    return Judgement(verdict=Verdict.INFO, observed=observed, source=source, subject=subject)


def skipped(why: str, subject: str = "") -> Judgement:
    """Return a judgement: the check doesn't apply."""
    return Judgement(verdict=Verdict.SKIP, observed=why, subject=subject)


def unknown(signal: Signal[Any], what: str, subject: str = "", command: str = "") -> Judgement:
    """Return a judgement: the check applies, but its facts could not be read."""
    why = signal.unreadable or "not read"
    return Judgement(
        verdict=Verdict.UNKNOWN, observed=f"{what}: {why}", source=signal.source, subject=subject, command=command
    )


def on_environment(judge: Callable[[EnvironmentFacts], Iterable[Judgement]]) -> Judge:
    """Return a function that judges a record, from one that judges the facts of the environment."""

    def look(record: Record) -> Iterable[Judgement]:
        if record.environment is None:
            return (skipped("the environment was not observed"),)
        return judge(record.environment)

    return look


def with_prefix(command: str, facts: EnvironmentFacts) -> str:
    """Return the command with the environment's prefix."""
    return command if facts.prefix is None else f"{command} --prefix {quoted(facts.prefix)}"


def repair_command(facts: EnvironmentFacts) -> str:
    """Return the command that repairs the environment; one that envforge can't audit is only checked."""
    if facts.state == "virtual" and facts.prefix is not None:
        return f"{quoted(facts.prefix)}/bin/python -m pip check"
    return with_prefix("envforge audit --fix", facts)


def without_library_path(facts: EnvironmentFacts) -> str:
    """Return the command that shows whether LD_LIBRARY_PATH or LD_PRELOAD is the cause."""
    return f"env -u LD_LIBRARY_PATH -u LD_PRELOAD {with_prefix('envforge verify env', facts)}"


def failed(observed: str, wanted: str, source: str = "", why: str = "", command: str = "") -> Judgement:
    """Return a judgement: training fails, or its results can't be trusted."""
    return Judgement(
        verdict=Verdict.FAIL, observed=observed, wanted=wanted, source=source, why=why, command=command or SMOKE
    )


def warned(observed: str, wanted: str, source: str = "", why: str = "", command: str = "") -> Judgement:
    """Return a judgement: training works, but worse than it should."""
    return Judgement(verdict=Verdict.WARN, observed=observed, wanted=wanted, source=source, why=why, command=command)


SMOKE = "envforge verify train --deep"
