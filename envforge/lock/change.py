"""Change environment.yml and its lockfile in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from envforge.environment_file import Edit
from envforge.errors import EnvforgeError
from envforge.lock.inputs import read_text
from envforge.lock.locking import make
from envforge.lock.request import LockReport, LockRequest, Progress
from envforge.lock.together import finish, refuse_unfinished, replace_together
from envforge.lock.workplace import alone


def change(
    request: LockRequest, edit: Callable[[str], Edit], progress: Progress = repr, *, dry_run: bool = False
) -> tuple[Edit, LockReport]:
    """Edit the environment of ``request`` and lock it; write neither file on errors or with ``dry_run``.

    With ``dry_run``, raise ``EnvforgeError`` if an earlier change is incomplete, because completing it would write.
    """
    environment = request.environment
    with alone(request.lockfile):
        if dry_run:
            refuse_unfinished(environment)
        else:
            finish(environment)
        before = read_text(environment)
        edited = edit(before)
        try:
            made = make(replace(request, environment_text=edited.text.replace("\r\n", "\n")), progress)
        except EnvforgeError as error:
            raise type(error)(
                f"{error.message}\n`{environment}` and `{request.lockfile}` are unchanged",
                hint=error.hints,
                code=error.code,
            ) from error
        # solving takes long enough for an editor to save the file in between
        if read_text(environment) != before:
            raise EnvforgeError(
                f"`{environment}` was edited while this command was running; nothing was written",
                hint="run this command again",
                code="edited-since",
            )
        files = {environment: edited.text.encode(), request.lockfile: made.text.encode()}
        changed = {p: data for p, data in files.items() if not p.exists() or p.read_bytes() != data}
        if changed and not dry_run:
            replace_together(environment, changed)
    return edited, made.report
