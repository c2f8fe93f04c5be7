"""Install a lockfile into a prefix, and verify every file against the lockfile before it is linked.

Module order: ``values`` → ``explicit`` → ``plan`` → ``engine`` → ``steps``. The steps use ``needs`` → ``fetch`` (with
``store``, ``transfer``, ``credentials``, ``archive``) → ``space`` → ``link`` (py-rattler) → ``build`` → ``wheels``
(uv). ``journal`` records how far an install got.
"""

from __future__ import annotations

from envforge.install.journal import unfinished
from envforge.install.values import InstallReport, InstallRequest, Preview, Progress, Silent

__all__ = ["InstallReport", "InstallRequest", "Preview", "Progress", "Silent", "install", "preview", "unfinished"]


def install(request: InstallRequest, progress: Progress | None = None) -> InstallReport:
    """Make ``request.prefix`` match ``request.lockfile`` for ``request.platform``.

    Raises ``EnvforgeError`` for problems that the user can fix, and ``OutsideError`` if network, disk, or another
    program failed. After an error, the prefix is unchanged or its journal records the last completed step.
    """
    from envforge.install.engine import run  # noqa: PLC0415 - pulls in rattler and an HTTP client

    return run(request, progress or Silent())


def preview(request: InstallRequest, progress: Progress | None = None) -> Preview:
    """Return what ``install`` would download, link, and remove, without writing anything.

    Raises the same errors as ``install``.
    """
    from envforge.install.engine import look_ahead  # noqa: PLC0415 - as above

    return look_ahead(request, progress or Silent())
