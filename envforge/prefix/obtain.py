"""Bring packages into the cache, unpacked: each one is unpacked as soon as, or while, it is downloaded."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager

from msgspec import Struct, field

from envforge.errors import EnvforgeError, OutsideError
from envforge.lock.plan import Artifact
from envforge.machine.world import World, usable_cpus
from envforge.prefix.cache import Store, Unpacked, need_room
from envforge.prefix.conda_packages import Archive, standing_archive, unpack
from envforge.prefix.fetch import Fetched, check_room, fetch_all
from envforge.prefix.package_checks import check_wheel
from envforge.prefix.relay import Relay, loopback_works
from envforge.prefix.values import InstallProgress, InstallRequest, progress_step
from envforge.prefix.wheels import unpack_wheels


class Obtained(Struct, frozen=True, kw_only=True):
    """Unpacked packages. Files that are newer than ``began_ns`` were unpacked from verified archives."""

    conda: tuple[Archive, ...]
    wheels: tuple[Fetched, ...]
    began_ns: int

    @property
    def downloaded_bytes(self) -> int:
        """Size of the files that were downloaded now."""
        return sum(item.downloaded_bytes for item in (*(archive.item for archive in self.conda), *self.wheels))


def obtain(
    artifacts: Iterable[Artifact],
    store: Store,
    request: InstallRequest,
    progress: InstallProgress,
    python: str,
    removals: Executor,
) -> Obtained:
    """Download, verify, check, and unpack what the cache lacks; ``python`` is the minor version that wheels are for.

    ``removals`` removes what the cache needs no longer, and may not have finished when this function returns.
    Raises ``EnvforgeError`` for the first package that can't be downloaded, isn't the locked one, or isn't safe.
    """
    began_ns = time.time_ns()
    every = tuple(artifacts)
    conda = tuple(artifact for artifact in every if artifact.package.manager == "conda")
    work = _Unpacker(store=store, request=request, removals=removals)
    # threads help only if the files are hashed; to list them, they would wait for the interpreter's lock
    with ThreadPoolExecutor(None if request.reread else 1) as pool:
        stands = dict(zip(every, pool.map(work.has, every), strict=True))
    missing = tuple(artifact for artifact in every if not stands[artifact])
    fetched: tuple[Fetched, ...] = ()
    if missing:
        with work.unpacking_wheels(missing, python, progress):
            fetched = fetch_all(missing, store, request, progress, work)
    items = {item.artifact: item for item in fetched}
    return Obtained(
        conda=tuple(work.archives[artifact] for artifact in conda),
        wheels=tuple(
            items.get(artifact) or Fetched(artifact=artifact, path=store.path(artifact), downloaded_bytes=0)
            for artifact in every
            if artifact.package.manager == "pip"
        ),
        began_ns=began_ns,
    )


class _Unpacker(Struct, kw_only=True):
    """Receiver of verified files."""

    store: Store
    request: InstallRequest
    removals: Executor
    relay: Relay | None = None
    archives: dict[Artifact, Archive] = field(default_factory=dict)
    # more unpacking threads than cores hinder each other, and the downloads
    cores: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(usable_cpus(World.here(os.environ))))
    wheels: dict[Artifact, Unpacked] = field(default_factory=dict)

    def has(self, artifact: Artifact) -> bool:
        """Return whether a package is unpacked and unchanged, as far as that is known before its install."""
        if artifact.package.manager == "conda":
            archive = standing_archive(artifact, self.store, reread=self.request.reread)
            if archive is not None:
                self.archives[artifact] = archive
            return archive is not None
        is_unpacked = self.store.unpacked(artifact) is not None
        if is_unpacked and self.relay is not None:
            self.relay.stop()  # uv would wait for a file that never comes; the install unpacks the others
        return is_unpacked

    def receive(self, item: Fetched) -> None:
        """Unpack a package, or let uv complete it."""
        check_room(item, self.store)
        if item.artifact.package.manager == "conda":
            with self.cores:
                self.archives[item.artifact] = unpack(item, self.store, self.request.platform)
        elif not item.artifact.is_source:
            try:
                self.wheels[item.artifact] = check_wheel(item.path, item.artifact)
            except EnvforgeError:
                # else the next run would find the rejected file in the cache
                self.store.evict(item.artifact)
                raise
            if self.relay is not None:
                self.relay.complete(item.path)

    @contextmanager
    def unpacking_wheels(self, artifacts: Iterable[Artifact], python: str, progress: InstallProgress) -> Iterator[None]:
        """Let uv unpack wheels while the block downloads them, and remove their archives.

        If uv fails, for example because the wheels are for another machine, the install unpacks them and reports it.
        """
        wheels = tuple(a for a in artifacts if a.package.manager == "pip" and not a.is_source)
        # without the loopback interface, as in some sandboxes, uv reads the files from the cache instead
        if not wheels or not python or not loopback_works():
            yield
            return
        options = ("--python", sys.executable, "--python-version", python)
        with Relay(wheels, self.store) as self.relay, ThreadPoolExecutor(1, thread_name_prefix="uv") as pool:
            unpacking = pool.submit(unpack_wheels, wheels, self.store, options, self.relay)
            try:
                yield
                with progress_step(progress, "unpacking wheels", len(wheels), "packages"):
                    wait([unpacking])
                    progress.advance(len(wheels))
            except BaseException:
                self.relay.stop()
                raise
        if isinstance(unpacking.exception(), OutsideError):
            total = sum(kept.unpacked_bytes for kept in self.wheels.values())
            need_room(self.store.root, total, f"in `{self.store.root}` to unpack the wheels")
            return
        self.removals.submit(shutil.rmtree, unpacking.result())
        for artifact, kept in self.wheels.items():
            self.store.note_unpacked(artifact, kept)
            self.removals.submit(self.store.remove_archive, artifact)
