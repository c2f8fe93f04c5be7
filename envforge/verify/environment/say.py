"""Short ways to say what a check found; shared by the checks of environment and training. Pure."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable
from typing import Any

from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.record import Record
from envforge.verify.values import Judgement, Signal, Verdict

Judge = Callable[[Record], Iterable[Judgement]]
_PLAIN = re.compile(r"~?[\w@%+=:,./-]+")


def passed(observed: str, *, wanted: str = "", source: str = "", subject: str = "") -> Judgement:
    """It is as it should be."""
    return Judgement(verdict=Verdict.PASS, observed=observed, wanted=wanted, source=source, subject=subject)


def info(observed: str, *, source: str = "", subject: str = "") -> Judgement:
    """Worth knowing, and no fault."""
    return Judgement(verdict=Verdict.INFO, observed=observed, source=source, subject=subject)


def skipped(why: str, subject: str = "") -> Judgement:
    """It does not apply here."""
    return Judgement(verdict=Verdict.SKIP, observed=why, subject=subject)


def unknown(signal: Signal[Any], what: str, subject: str = "", command: str = "") -> Judgement:
    """It applies, and could not be read."""
    why = signal.unreadable or "it was not read"
    return Judgement(
        verdict=Verdict.UNKNOWN, observed=f"{what}: {why}", source=signal.source, subject=subject, command=command
    )


def on_environment(judge: Callable[[EnvironmentFacts], Iterable[Judgement]]) -> Judge:
    """A judge of the environment's facts; a record without them is skipped."""

    def look(record: Record) -> Iterable[Judgement]:
        if record.environment is None:
            return (skipped("the environment was not looked at: envforge verify --env"),)
        return judge(record.environment)

    return look


def quoted(path: str) -> str:
    """A path as a shell takes it; ``~`` at its start stays what it is."""
    return path if _PLAIN.fullmatch(path) else shlex.quote(path)


def with_prefix(command: str, facts: EnvironmentFacts) -> str:
    """The command for this environment: inside its project the prefix need not be named."""
    return command if facts.prefix is None else f"{command} --prefix {quoted(facts.prefix)}"
