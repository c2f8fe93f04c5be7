"""``envforge bundle``: write one archive with everything that an install needs."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import click
from msgspec import Struct
from msgspec.structs import replace

from envforge.cli import print_result
from envforge.cli.options import (
    Argument,
    CacheOption,
    JsonOption,
    MirrorsOption,
    Option,
    chosen_mirrors,
    need_lock,
    platform_here,
    takes,
    variant,
)
from envforge.cli.progress import counted, megabytes, shown_progress
from envforge.errors import EnvforgeError

if TYPE_CHECKING:
    from envforge.prefix.values import InstallProgress, InstallRequest


class _Bundled(Struct, frozen=True, kw_only=True):
    file: Path
    platform: str
    packages: int
    bytes: int


class BundleOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge bundle``."""

    lock: Annotated[Path | None, Argument()] = None
    variant: Annotated[str | None, variant("Bundle")]
    output: Annotated[
        Path | None,
        Option(
            "Write the bundle to this file.  [default: bundle-PLATFORM.tar, or bundle-VARIANT-PLATFORM.tar]",
            "-o",
            "--output",
        ),
    ]
    platform: Annotated[
        str | None, Option("Bundle the packages of this platform.  [default: this machine's]", "-p", "--platform")
    ]
    offline: Annotated[bool, Option("Use only the cache and local mirrors.")]
    mirrors: MirrorsOption
    cache: CacheOption
    as_json: JsonOption

    def make(self, progress: InstallProgress) -> _Bundled:
        """Write the bundle, with what the cache lacks downloaded first."""
        from envforge.lock.inputs import refuse_credentials
        from envforge.lock.plan import make_plan, read_any_lock
        from envforge.prefix.bundle import member_name, write_bundle
        from envforge.prefix.cache import Store, default_root, in_use
        from envforge.prefix.fetch import fetch_all

        platform = self.platform or platform_here()
        lock = need_lock(self.lock, self.variant, "envforge bundle")
        data = lock.read_bytes() if lock.is_file() else b""
        lockfile = read_any_lock(lock, platform)  # reports a file that is missing or invalid
        if lock.read_bytes() != data:
            message = f"`{lock}` changed while it was read"
            raise EnvforgeError(message, hint="run the command again", code="edited-since")
        refuse_credentials(str(lock), [*lockfile.channels, *(package.url for package in lockfile.packages)])
        plan = make_plan(lockfile, platform, lock)
        for warning in plan.warnings:
            progress.note(f"warning: {warning}")
        store = Store((self.cache or default_root()).absolute())
        named = "-".join(["bundle", *([self.variant] if self.variant else []), platform])
        output = self.output or Path(f"{named}.tar")
        with in_use(store.root):  # until the archive is written, because it is read from the cache
            request = replace(self._request(lock, platform), access_variables=lockfile.access_variables)
            fetched = fetch_all((*plan.conda, *plan.wheels), store, request, progress)
            files = {member_name(each.artifact): (each.path, each.artifact.digest) for each in fetched}
            write_bundle(output, data, platform, files, progress)
        return _Bundled(file=output, platform=platform, packages=len(files), bytes=output.stat().st_size)

    def _request(self, lock: Path, platform: str) -> InstallRequest:
        from envforge.prefix.values import InstallRequest

        return InstallRequest(
            lockfile=lock, prefix=Path(), platform=platform, offline=self.offline, mirrors=chosen_mirrors(self.mirrors)
        )


@click.command("bundle")
@takes(BundleOptions)
def bundle(options: BundleOptions) -> None:
    """Write every package of LOCK, the lockfile, and the checksums to one archive.

    LOCK defaults to the project's conda-lock.yml. To install the archive on a machine without a network, run
    `envforge install --bundle FILE` there. The same lockfile always produces the same bytes.
    """
    with shown_progress(quiet=options.as_json) as progress:
        made = options.make(progress)
    packages = counted(made.packages, "package")
    text = f"bundled {packages} for {made.platform} into {made.file} ({megabytes(made.bytes)})\n"
    text += f"to install it without a network, run `envforge install --bundle {shlex.quote(str(made.file))}`"
    print_result("bundle", made, text, as_json=options.as_json)
