"""Choose builds whose lockfile is in the built-in catalogue, for when a solve has no network."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from envforge import catalogue
from envforge.errors import RequestError
from envforge.machine import Machine
from envforge.matrix import Matrix
from envforge.mirrors import Mirrors
from envforge.project import Project
from envforge.resources import lockfiles_root, templates_root
from envforge.select import NoBuildError, select_platforms
from envforge.selection import Build, Request, Selection
from envforge.solver.channels import ALIAS
from envforge.spec import render_texts

_CHANNEL = f"{ALIAS}/conda-forge"
_ANSWER_S = 4.0
_PREFERRED = "is the best build with a lockfile in the catalogue"


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildQuery:
    """What a project's builds are selected from."""

    machine: Machine
    request: Request
    platforms: tuple[str, ...]
    matrix: Matrix

    def select(self) -> tuple[Selection, ...]:
        """Return the best build for each platform; raise ``NoBuildError`` if there is none."""
        return select_platforms(self.machine, self.request, self.platforms, self.matrix)

    def select_build(self, build: Build) -> tuple[Selection, ...]:
        """Return ``build``, and its counterparts on the other platforms, with the request as it was made."""
        exact = replace(self.request, torch=build.torch, cuda=build.tag)
        answers = select_platforms(self.machine, exact, self.platforms, self.matrix, preferred=_PREFERRED)
        return tuple(
            replace(answer, request=replace(answer.request, torch=self.request.torch, cuda=self.request.cuda))
            for answer in answers
        )

    def without(self, *options: str) -> BuildQuery:
        """Return the query without some of the requested versions: ``cuda``, ``torch``, ``python``."""
        without: dict[str, Any] = dict.fromkeys(options)
        return replace(self, request=replace(self.request, **without))


def locked_projects(project: Project, query: BuildQuery) -> Iterator[Project]:
    """Yield the project on each build that fits the query and has a lockfile in the built-in catalogue, best first."""
    try:
        best = query.select()
    except NoBuildError:
        return
    first = next((each for each in best if each.build.platform == query.machine.platform), best[0])
    platforms = {each.build.platform for each in best}
    known = {
        (entry.selection.torch, entry.selection.tag)
        for entry in catalogue.entries(lockfiles_root())
        if set(entry.platforms) == platforms
    }
    for candidate in first.accepted:
        if (candidate.build.torch, candidate.build.tag) in known:
            found = _with_build(project, query, candidate.build)
            if found is not None and catalogue.find(lockfiles_root(), found.texts.sha256) is not None:
                yield found


def _with_build(project: Project, query: BuildQuery, build: Build) -> Project | None:
    try:
        selections = query.select_build(build)
        texts = render_texts(selections, project.template.needs_with(project.groups), templates_root())
    except (NoBuildError, RequestError):  # another platform, or another member of the torch family, has no such build
        return None
    return replace(project, selections=selections, texts=texts)


def unreachable_host(project: Project, mirrors: Mirrors) -> str | None:
    """Return the first server needed for a solve that doesn't answer within a few seconds; None if all answer."""
    urls = [_CHANNEL, *dict.fromkeys(selection.index_url for selection in project.selections)]
    return _first_silent([mirrors.to_mirror(url) for url in urls])


def _first_silent(urls: Iterable[str]) -> str | None:
    asked = []
    for url in urls:
        answered = threading.Event()
        # a daemon, because a name server that doesn't answer can't be interrupted
        thread = threading.Thread(target=_ask, args=(url, answered), daemon=True)
        thread.start()
        asked.append((url, thread, answered))
    for _, thread, _ in asked:
        thread.join(_ANSWER_S + 1)
    return next((_host(url) for url, _, answered in asked if not answered.is_set()), None)


def _ask(url: str, answered: threading.Event) -> None:
    """Set ``answered`` if the server sends any HTTP response; a proxy that rejects the connection doesn't count."""
    import os  # noqa: PLC0415 - with the HTTP client, which only a solve needs

    import urllib3  # noqa: PLC0415 - as above

    from envforge.install.credentials import expand, open_pool, split_credentials  # noqa: PLC0415 - as above

    if url.startswith("file:"):
        if Path(unquote(urlsplit(url).path)).exists():
            answered.set()
        return
    clean, _ = split_credentials(expand(url, os.environ))
    try:
        open_pool(clean, 1).request("HEAD", f"{clean.rstrip('/')}/", timeout=_ANSWER_S, redirect=False)
    except (urllib3.exceptions.HTTPError, OSError, ValueError):
        return
    answered.set()


def _host(url: str) -> str:
    return urlsplit(url).hostname or url
