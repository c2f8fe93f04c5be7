"""From a lockfile to a working prefix: every byte checked against the lock before it is linked.

Enters: an ``InstallRequest``. Leaves: the prefix as the lock says, and an ``InstallReport``. The modules in data-flow
order: ``values`` → ``explicit`` → ``plan`` → ``engine`` → ``steps``, which are ``needs`` → ``fetch`` (with ``store``,
``transfer``, ``credentials``, ``archive``) → ``space`` → ``link`` (py-rattler) → ``build`` → ``wheels`` (uv);
``journal`` tells finished from unfinished.
"""

from __future__ import annotations

from envforge.install.journal import unfinished
from envforge.install.values import InstallReport, InstallRequest, Preview, Progress, Silent

__all__ = ["InstallReport", "InstallRequest", "Preview", "Progress", "Silent", "install", "preview", "unfinished"]


def install(request: InstallRequest, progress: Progress | None = None) -> InstallReport:
    """Bring ``request.prefix`` to what ``request.lockfile`` says for ``request.platform``.

    Raises ``EnvforgeError`` for what the user can put right and ``OutsideError`` where network, disk or another
    program failed; the prefix is then as it was, or its journal says which step comes next.
    """
    from envforge.install.engine import run  # noqa: PLC0415 - pulls in rattler and an HTTP client

    return run(request, progress or Silent())


def preview(request: InstallRequest, progress: Progress | None = None) -> Preview:
    """Return what ``install`` would download, link, and remove, without writing anything; raises as ``install``."""
    from envforge.install.engine import look_ahead  # noqa: PLC0415 - as above

    return look_ahead(request, progress or Silent())
