"""A change of environment.yml with the lock that belongs to it: both, or neither.

Enters: a request and an edit of the text. Leaves: both files changed, or both as they were, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from envforge.environment_file import Edit
from envforge.errors import EnvforgeError
from envforge.lock.inputs import read_text
from envforge.lock.locking import make
from envforge.lock.request import LockReport, LockRequest, Progress
from envforge.lock.together import finish, replace_together
from envforge.lock.workplace import alone


def change(request: LockRequest, edit: Callable[[str], Edit], progress: Progress = repr) -> tuple[Edit, LockReport]:
    """Edit the environment of ``request`` and lock it; raises ``EnvforgeError`` with both files untouched."""
    environment = request.environment
    with alone(request.lockfile):
        finish(environment)
        before = read_text(environment)
        edited = edit(before)
        try:
            made = make(replace(request, environment_text=edited.text.replace("\r\n", "\n")), progress)
        except EnvforgeError as error:
            raise type(error)(
                f"{error.message}\n`{environment}` and `{request.lockfile}` stay as they were",
                hint=error.hints,
                code=error.code,
            ) from error
        if read_text(environment) != before:
            raise EnvforgeError(
                f"`{environment}` was edited by someone else in the meantime, and nothing was written",
                hint="run the command again",
                code="edited-since",
            )
        files = {environment: edited.text.encode(), request.lockfile: made.text.encode()}
        changed = {p: data for p, data in files.items() if not p.exists() or p.read_bytes() != data}
        if changed:
            replace_together(environment, changed)
    return edited, made.report
