"""Answer a ``Call``: with settings, the packages of a prefix, or a solve.

If ``ENVFORGE_SOLVE_RECORDS`` is set, each solve is also recorded in that directory.
"""

from __future__ import annotations

import platform as python_platform
from collections.abc import Mapping
from pathlib import Path

from envforge.errors import EnvforgeError
from envforge.mirrors import Mirrors
from envforge.solver import answers, installed, journal
from envforge.solver.arguments import Call
from envforge.solver.channels import ALIAS, Naming
from envforge.solver.records import Record
from envforge.solver.wishes import read as read_wishes


def answer(call: Call, environment: Mapping[str, str]) -> object:
    """Return the document that conda would print for ``call``; raise ``EnvforgeError`` if the call fails."""
    platform = environment.get("CONDA_SUBDIR") or _host()
    if call.command == "list":
        return answers.installed(installed.read(_prefix(call)))
    if call.command == "info":
        return answers.settings(environment, platform)
    if call.command == "config":
        settings = answers.settings(environment, platform)
        wanted = [word for word in call.words if word not in {"list", "show"}]
        return {key: value for key, value in settings.items() if not wanted or key in wanted}
    return _solved(call, environment, platform)


def _solved(call: Call, environment: Mapping[str, str], platform: str) -> answers.Json:
    from envforge.solver import request, solve, virtual  # noqa: PLC0415 - rattler takes 0.1 s, which other calls don't need

    naming = Naming(
        mirrors=Mirrors.from_environment(environment),
        platform=platform,
        alias=environment.get("CONDA_CHANNEL_ALIAS", ALIAS).rstrip("/"),
    )
    channels, virtual_packages = virtual.split(naming.channels(call.channels), platform)
    before = () if call.command == "create" else installed.read(_prefix(call))
    after = solve.solve(
        request.Request(
            specs=call.words,
            channels=channels,
            naming=naming,
            virtual=virtual_packages,
            installed=before,
            priority=call.priority,
            environment=environment,
            wishes=read_wishes(environment),
        )
    )
    folder = environment.get(journal.VARIABLE)
    if folder:
        journal.write(Path(folder), platform, call.words, after)
    return _difference(_prefix(call), before, after)


def _difference(prefix: Path, before: tuple[Record, ...], after: tuple[Record, ...]) -> answers.Json:
    link, unlink = _without(after, before), _without(before, after)
    if before and not link and not unlink:
        return answers.nothing_to_do()
    return answers.dry_run(answers.Change(prefix=prefix, link=link, unlink=unlink))


def _without(records: tuple[Record, ...], others: tuple[Record, ...]) -> tuple[Record, ...]:
    known = {(record.dist_name, record.subdir) for record in others}
    return tuple(record for record in records if (record.dist_name, record.subdir) not in known)


def _prefix(call: Call) -> Path:
    if call.prefix is None:
        raise EnvforgeError(f"`{call.command}` requires `--prefix PATH`", code="no-prefix")
    return call.prefix


def _host() -> str:
    # rattler knows the platform too, but takes 0.1 s to import
    system = {"Linux": "linux", "Darwin": "osx", "Windows": "win"}.get(python_platform.system(), "linux")
    machine = python_platform.machine().lower()
    if machine in {"amd64", "x86_64"}:
        return f"{system}-64"
    return f"{system}-arm64" if machine in {"arm64", "aarch64"} and system != "linux" else f"{system}-{machine}"
