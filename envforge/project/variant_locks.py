"""Lock a project's variants again for an environment that is about to change.

Nothing is written into the project, so that the variants change in the same transaction as everything else.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from envforge.install.variant_files import FOLDER, list_variants
from envforge.project.locking import LockWay, request_aside
from envforge.project.staging import PlannedFile
from envforge.spec import ENVIRONMENT_FILE, LOCK_FILE, VIRTUAL_PACKAGES_FILE, EnvironmentTexts

if TYPE_CHECKING:
    from envforge.lock import Step

_FILES = (ENVIRONMENT_FILE, VIRTUAL_PACKAGES_FILE, LOCK_FILE)


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantLock:
    """One variant and its new files."""

    name: str
    files: tuple[PlannedFile, ...]
    warnings: tuple[str, ...] = ()


def derived_variants(folder: Path) -> tuple[str, ...]:
    """Return the variants that were derived from the project's environment.yml; the user maintains all others."""
    names = list_variants(folder)
    if not names:
        return ()
    from envforge.variants import HEAD  # noqa: PLC0415 - most projects have no variants

    sources = {name: folder / FOLDER / name / ENVIRONMENT_FILE for name in names}
    texts = {name: path.read_text(encoding="utf-8") for name, path in sources.items() if path.is_file()}
    return tuple(name for name, text in texts.items() if text.startswith(HEAD))


def relock_variants(
    folder: Path, texts: EnvironmentTexts, way: LockWay, progress: Callable[[Step], None]
) -> tuple[VariantLock, ...]:
    """Derive and lock each variant for ``texts`` in a temporary directory; raise if one can't be locked."""
    from envforge.cuda import WheelTag  # noqa: PLC0415 - as above
    from envforge.lock.variants import lock_variant  # noqa: PLC0415 - as above

    names = derived_variants(folder)
    if not names:
        return ()
    made = []
    with request_aside(texts, way) as request:
        aside = request.environment.parent
        for variant in names:
            place = PurePosixPath(FOLDER, variant)
            shutil.copytree(folder / place, aside / place)  # a variant keeps the versions that still fit
            report = lock_variant(request, WheelTag.parse(variant), progress).report
            paths = [place / file for file in _FILES]
            files = tuple(PlannedFile(path=path, content=(aside / path).read_bytes()) for path in paths)
            made.append(VariantLock(name=variant, files=files, warnings=report.warnings))
    return tuple(made)
