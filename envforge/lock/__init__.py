"""Lock environment.yml to conda-lock.yml, and check whether a lockfile is up to date.

Read in this order: ``request``, ``inputs``, ``virtual``, ``condalock`` (which starts ``child``), ``server``, ``index``
(uses ``sources``, ``pages``, ``download``, ``target``, ``solved``, ``mapping``), ``document``, ``audit``, ``cutoff``,
``keep``, ``workplace``, ``run``, ``reasons``, ``locking``. ``agreement`` checks a lockfile. ``together``, ``change``
(``add`` and ``remove``), and ``variants`` change several files.
"""

from envforge.lock.request import LockReport, LockRequest, PlatformSummary, Progress, Step

__all__ = ["LockReport", "LockRequest", "PlatformSummary", "Progress", "Step"]
