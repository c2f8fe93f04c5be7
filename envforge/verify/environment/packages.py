"""Check that the environment is complete and matches its lockfile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from envforge.verify.environment.facts import AuditFinding, EnvironmentFacts
from envforge.verify.findings import info, on_environment, passed, repair_command, skipped, unknown, with_prefix
from envforge.verify.judging import counted
from envforge.verify.values import Check, Judgement, Verdict

_FILES = ("file-changed", "file-missing", "file-stray")
_SHOWN = 3


def _missing(facts: EnvironmentFacts) -> Iterator[Judgement]:
    if facts.state == "finished":
        yield passed(facts.state_text)
    elif facts.state in ("foreign", "virtual"):
        yield info(facts.state_text)
    elif facts.state == "none":
        yield skipped(facts.state_text)
    else:
        yield Judgement(
            verdict=Verdict.FAIL,
            observed=facts.state_text,
            wanted="a complete environment",
            source=facts.prefix or "",
            command=with_prefix("envforge install", facts),
        )


def _drift(facts: EnvironmentFacts) -> Iterator[Judgement]:
    yield from _audited(
        facts,
        tuple(found for found in _all(facts) if not found.kind.startswith("file-") and found.kind != "owned-twice"),
        "every package as in the lockfile",
    )


def _files(facts: EnvironmentFacts) -> Iterator[Judgement]:
    yield from _audited(
        facts, tuple(found for found in _all(facts) if found.kind in _FILES), "every file as in its package"
    )


def _all(facts: EnvironmentFacts) -> tuple[AuditFinding, ...]:
    return facts.audit.value.drift if facts.audit.value is not None else ()


def _audited(facts: EnvironmentFacts, found: tuple[AuditFinding, ...], wanted: str) -> Iterator[Judgement]:
    audit = facts.audit.value
    if facts.state == "virtual":
        yield skipped(f"{facts.state_text}: only conda and envforge environments can be audited")
    elif facts.state not in ("finished", "foreign"):
        yield skipped(f"nothing to compare: {facts.state_text}")
    elif audit is None and facts.state == "foreign" and facts.locked.value is None:
        yield skipped(f"{facts.state_text}, and there is no lockfile to compare it with")
    elif audit is None:
        yield unknown(facts.audit, "the environment could not be audited", command=with_prefix("envforge audit", facts))
    elif found:
        more = f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        yield Judgement(
            verdict=Verdict.FAIL,
            observed="; ".join(item.text for item in found[:_SHOWN]) + more,
            wanted=f"{wanted} (`{audit.lockfile}`)",
            source=facts.audit.source,
            command=repair_command(facts),
        )
    else:
        total = f"{counted(audit.packages, 'package')} and {counted(audit.files, 'file')}, digest {audit.digest[:12]}"
        yield passed(total, wanted=wanted, source=facts.audit.source)


def _twice(facts: EnvironmentFacts) -> Iterable[Judgement]:
    audit = facts.audit.value
    if audit is None:
        return (skipped("the environment was not audited: see `environment-drift`"),)
    found = [item for item in (*audit.drift, *audit.warnings) if item.kind == "owned-twice"]
    if not found:
        return (passed("no library is owned by both conda and pip", source=facts.audit.source),)
    return tuple(
        Judgement(
            verdict=Verdict.WARN,
            observed=item.text,
            wanted="one owner for each library",
            source=facts.audit.source,
            subject=item.package,
            command=repair_command(facts),
        )
        for item in found
    )


CHECKS = (
    Check(
        id="environment-missing",
        question="environment",
        group="packages",
        title="State of the environment",
        why="An interrupted installation leaves an environment in which some packages work and others fail.",
        severity=Verdict.FAIL,
        judge=on_environment(_missing),
    ),
    Check(
        id="environment-drift",
        question="environment",
        group="packages",
        title="Packages compared with the lockfile",
        why="If a package differs from the lockfile, no other machine can reproduce the results.",
        severity=Verdict.FAIL,
        judge=on_environment(_drift),
        cost="default",
        row=38,
    ),
    Check(
        id="files-changed",
        question="environment",
        group="packages",
        title="Files compared with their packages",
        why="A file changed after installation is different code under the same version. `pip check` can't detect it.",
        severity=Verdict.FAIL,
        judge=on_environment(_files),
        cost="default",
        row=39,
    ),
    Check(
        id="packages-twice",
        question="environment",
        group="packages",
        title="Libraries owned by both conda and pip",
        why="Two owners overwrite each other's files, so the version depends on which was installed last.",
        severity=Verdict.WARN,
        judge=on_environment(_twice),
        cost="default",
        row=34,
    ),
)
