"""Build wheels from source distributions if the user allows it; building runs the packages' own code.

Build requirements come from the user's package index and are not locked, so the result can differ between machines.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from packaging.utils import canonicalize_name, parse_wheel_filename

from envforge.errors import Hint, OutsideError
from envforge.install.archive import check_archive
from envforge.install.fetch import Fetched
from envforge.install.store import Store, digest_of
from envforge.install.values import Artifact, Digest, Progress
from envforge.install.wheels import Site


def build_wheels(
    fetched: Iterable[Fetched], site: Site, store: Store, *, offline: bool, progress: Progress
) -> list[Fetched]:
    """Build a wheel from each source distribution in ``fetched``, and return wheels unchanged."""
    chosen = tuple(fetched)
    sources = [item for item in chosen if not item.path.name.endswith(".whl")]
    if not sources:
        return list(chosen)
    built: dict[str, Fetched] = {}
    progress.begin("building wheels", len(sources), "packages")
    for item in sources:
        built[item.artifact.package.name] = _build(item, site, store, offline=offline)
        progress.advance(1)
    progress.end()
    return [built.get(item.artifact.package.name, item) for item in chosen]


def _build(item: Fetched, site: Site, store: Store, *, offline: bool) -> Fetched:
    from uv import find_uv_bin  # noqa: PLC0415 - only if something is built

    (store.root / "built").mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.root / "built") as folder:
        command = [find_uv_bin(), "build", "--wheel", "--out-dir", folder, "--python", str(site.program)]
        command += ["--cache-dir", str(store.uv), "--no-progress", "--color", "never", "--no-create-gitignore"]
        command += [*(["--offline"] if offline else []), str(item.path)]
        environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "CONDA_PREFIX"}}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        wheels = sorted(Path(folder).glob("*.whl"))
        if done.returncode != 0 or len(wheels) != 1:
            raise OutsideError(
                f"failed to build `{item.artifact.label}` from source:\n{done.stderr.strip()[-4000:]}",
                hint=(
                    Hint("install what the build requires, such as a compiler"),
                    Hint("once environment.yml requires a version that is published as a wheel", "envforge lock"),
                ),
                code="build-failed",
            )
        return _keep(item.artifact, wheels[0], store)


def _keep(artifact: Artifact, wheel: Path, store: Store) -> Fetched:
    """Store a built wheel in the cache under its own checksum."""
    name, _, _, _ = parse_wheel_filename(wheel.name)
    if name != canonicalize_name(artifact.package.name):
        raise OutsideError(
            f"the source distribution of `{artifact.label}` built a wheel of another package, `{wheel.name}`",
            hint="once environment.yml requires a version that is published as a wheel",
            command="envforge lock",
            code="build-differs",
        )
    digest = digest_of(wheel, Digest(algorithm="sha256", hex=""))
    package = replace(artifact.package, url=wheel.as_uri(), sha256=digest.hex)
    made = Artifact(package=package, digest=digest)
    check_archive(wheel, made)
    path = store.path(made)
    path.parent.mkdir(parents=True, exist_ok=True)
    store.keep(wheel, path)
    return Fetched(artifact=made, path=path, downloaded_bytes=0)
