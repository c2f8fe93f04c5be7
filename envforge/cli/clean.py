"""``envforge clean``: remove caches, leftovers, and incomplete environments, and show their sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct

from envforge.base.envelope import fields_to_json
from envforge.cli import print_result
from envforge.cli.options import CacheOption, JsonOption, Option, takes
from envforge.cli.progress import megabytes

if TYPE_CHECKING:
    from envforge.prefix.clean import Cleaning, Places


class CleanOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge clean``."""

    dry_run: Annotated[bool, Option("Show what would be removed, without removing it.")]
    cache: CacheOption
    as_json: JsonOption


@click.command("clean")
@takes(CleanOptions)
def clean(options: CleanOptions) -> None:
    """Remove caches, leftovers of interrupted commands, and incomplete environments.

    Incomplete environments are removed if they belong to this project or have a name. Complete environments are kept,
    along with the files that they share with the cache. Files that a running command uses are kept, too.
    """
    from envforge.prefix.clean import clean as run

    is_dry = options.dry_run
    done = run(_places(options.cache), is_dry=is_dry)
    removed = [{**fields_to_json(item, "size"), **fields_to_json(item.size)} for item in done.removed]
    text = "\n".join(_to_words(done, is_dry=is_dry))
    print_result("clean", {"dry_run": is_dry, "removed": removed, "kept": done.kept}, text, as_json=options.as_json)


def _places(cache: Path | None) -> Places:
    import tempfile

    from envforge.lock.project import IN_PROJECT, VENV_IN_PROJECT, project_folder
    from envforge.prefix.cache import default_root
    from envforge.prefix.clean import Places
    from envforge.prefix.locate import named_prefix

    here = Path.cwd()
    project = project_folder(here)
    named = named_prefix("x").parent
    in_project = [project / IN_PROJECT, project / VENV_IN_PROJECT] if project else []
    prefixes = [*in_project, *(sorted(named.iterdir()) if named.is_dir() else [])]
    return Places(
        packages=(cache or default_root()).absolute(),
        caches=default_root().parent,
        temporary=Path(tempfile.gettempdir()),
        projects=tuple(dict.fromkeys([here, *([project] if project else [])])),
        prefixes=tuple(prefixes),
    )


def _amount(size: int) -> str:
    return megabytes(size) if size >= 1e5 else f"{size / 1e3:.1f} kB"


def _to_words(done: Cleaning, *, is_dry: bool) -> list[str]:
    rows = [f"  {_amount(item.size.bytes):>10}  {item.kind:<22}  {item.path}" for item in done.removed]
    kept = [f"kept {item.path}: {item.why}" for item in done.kept]
    if not rows:
        return ["nothing to remove", *kept]
    total, freed = (sum(getattr(item.size, name) for item in done.removed) for name in ("bytes", "freed_bytes"))
    shared = f"; {_amount(total - freed)} of it remains in use by environments" if freed < total else ""
    return [f"{'would remove' if is_dry else 'removed'} {_amount(total)}{shared}:", *rows, *kept]
