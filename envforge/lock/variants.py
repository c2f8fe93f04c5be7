"""Lock variants of a project: ``lockfiles/TAG/`` contains a lockfile and the two files that it was solved from."""

from __future__ import annotations

import contextlib
import shlex
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from envforge.cuda import WheelTag
from envforge.errors import EnvforgeError
from envforge.install.needs import describe, read_needs
from envforge.install.plan import make_plan
from envforge.install.variant_files import FOLDER, LOCK_NAME, list_variants
from envforge.lock.agreement import Difference, check
from envforge.lock.locking import make
from envforge.lock.request import VIRTUAL_PACKAGES, LockReport, LockRequest, Progress
from envforge.lock.together import finish, replace_together
from envforge.lock.workplace import alone
from envforge.lockfile import Lockfile
from envforge.matrix import Matrix, load_matrix
from envforge.spec import ENVIRONMENT_FILE
from envforge.variants import HEAD, VariantTexts, derive


@dataclass(frozen=True, kw_only=True, slots=True)
class VariantReport:
    """A locked variant; ``needs`` describes for each platform what it requires of the machine."""

    name: str
    report: LockReport
    needs: tuple[str, ...]


def lock_variant(request: LockRequest, tag: WheelTag, progress: Progress = repr) -> VariantReport:
    """Derive and lock one variant; on errors, raise ``EnvforgeError`` and leave its files unchanged."""
    matrix = load_matrix()
    texts = derive(request.environment, tag, matrix)
    folder = variant_folder(request.environment, tag)
    environment, lockfile = folder / ENVIRONMENT_FILE, folder / LOCK_NAME
    _refuse_foreign(environment)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with alone(lockfile):
            finish(environment)
            report = _make(
                replace(request, environment=environment, lockfile=lockfile, source=request.environment),
                texts,
                progress,
            )
    except EnvforgeError as error:
        raise type(error)(f"variant {tag}: {error.message}", hint=error.hints, code=error.code) from error
    finally:
        for empty in (folder, folder.parent):
            with contextlib.suppress(OSError):  # only an empty directory is removed
                empty.rmdir()
    return VariantReport(name=str(tag), report=report, needs=_needs(report.lock, lockfile, matrix))


def check_variant(request: LockRequest, tag: WheelTag) -> tuple[Difference, ...]:
    """Return the differences between a variant and the project's current environment.yml."""
    folder = variant_folder(request.environment, tag)
    texts = derive(request.environment, tag, load_matrix())
    if not _is_current(folder, texts):
        return (
            Difference(
                code="variant-changed",
                platform=None,
                wanted=f"variant {tag} of `{request.environment}` is requested",
                found=f"`{folder}` {'was derived from another version of it' if folder.is_dir() else 'does not exist'}",
            ),
        )
    return check(folder / ENVIRONMENT_FILE, folder / LOCK_NAME, exclude_newer=request.exclude_newer)


def stale_variants(environment: Path) -> tuple[str, ...]:
    """Return the variants that were derived from another version of the project's environment.yml."""
    found = []
    for name in list_variants(environment.parent):
        path = environment.parent / FOLDER / name / ENVIRONMENT_FILE
        if not path.is_file() or not path.read_text(encoding="utf-8").startswith(HEAD):
            continue
        tag = WheelTag.parse(name)
        with contextlib.suppress(EnvforgeError):  # `lock --variant` explains why it can't be derived
            if _is_current(path.parent, derive(environment, tag, load_matrix())):
                continue
        found.append(name)
    return tuple(found)


def variant_folder(environment: Path, tag: WheelTag) -> Path:
    """Return the directory of a variant."""
    return environment.parent / FOLDER / str(tag)


def _make(request: LockRequest, texts: VariantTexts, progress: Progress) -> LockReport:
    beside = request.environment.with_name(VIRTUAL_PACKAGES)
    with tempfile.TemporaryDirectory(prefix="envforge-variant-") as folder:
        virtual = Path(folder) / VIRTUAL_PACKAGES
        virtual.write_text(texts.virtual_packages, encoding="utf-8", newline="\n")
        made = make(replace(request, environment_text=texts.environment, virtual_packages=virtual), progress)
    files = {
        request.environment: texts.environment.encode(),
        beside: texts.virtual_packages.encode(),
        request.lockfile: made.text.encode(),
    }
    changed = {path: data for path, data in files.items() if not path.exists() or path.read_bytes() != data}
    if changed:
        replace_together(request.environment, changed)
    return replace(made.report, virtual_packages_source=str(beside))


def _refuse_foreign(environment: Path) -> None:
    if environment.exists() and not environment.read_text(encoding="utf-8").startswith(HEAD):
        raise EnvforgeError(
            f"`{environment}` was not created by `envforge lock --variant`, and is not overwritten",
            hint="to lock it as it is",
            command=shlex.join(["envforge", "lock", "-f", str(environment)]),
            code="foreign-variant",
        )


def _is_current(folder: Path, texts: VariantTexts) -> bool:
    wanted = {ENVIRONMENT_FILE: texts.environment, VIRTUAL_PACKAGES: texts.virtual_packages}
    files = {name: folder / name for name in wanted}
    return all(path.is_file() and path.read_text(encoding="utf-8") == wanted[name] for name, path in files.items())


def _needs(lock: Lockfile, path: Path, matrix: Matrix) -> tuple[str, ...]:
    plans = (make_plan(lock, platform, path, allow_builds=True) for platform in lock.platforms)
    return tuple(describe(read_needs(plan, matrix), matrix) for plan in plans)
