"""Add to the solver's explanation why a package was not available, and what to do about it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct, field
from packaging.utils import canonicalize_name
from packaging.version import Version

from envforge.errors import EnvforgeError, Hint, OutsideError
from envforge.lock.condalock import NoSuchPackageError
from envforge.lock.index import NO_TORCH_INDEX, PlatformIndex
from envforge.lock.inputs import Inputs, virtual_package_hint
from envforge.lock.project import project_of, update_command
from envforge.lock.python_index import configured_index
from envforge.lock.request import LockRequest
from envforge.pytorch.matrix import PYTORCH_INDEX, load_matrix


def with_reasons(
    error: EnvforgeError, request: LockRequest, inputs: Inputs, indexes: Mapping[str, PlatformIndex]
) -> EnvforgeError:
    """Return the error with a line for each unavailable package that it names, and with hints that fit the cause."""
    if isinstance(error, OutsideError):
        return error
    advice = [_Advice(request, inputs, index) for index in indexes.values()]
    if isinstance(error, NoSuchPackageError):
        hints = [*error.hints, *(hint for name in error.names for hint in advice[0].for_unknown_conda(name))]
        check = Hint("check the package name, and that `channels:` lists a channel that has it")
        return EnvforgeError(error.message, hint=tuple(dict.fromkeys(hints)) or (check,), code=error.code)
    lines, hints, code, fallback = [], [], error.code, error.hints
    for one in advice:
        for name, why in one.index.reasons(error.message):
            lines.append(f"- {name}: {why}")
            hints += one.for_wheel(name, why)
            if name in one.index.missing:
                fallback = ()  # the package is missing, so loosening a constraint doesn't help
            if name in one.index.unlisted and one.requests(name) and not one.index.sources.is_family(name):
                code = "no-such-package"
    message = "\n".join([error.message, *dict.fromkeys(lines)])
    return EnvforgeError(message, hint=tuple(dict.fromkeys(hints)) or fallback, code=code)


class _Advice(Struct):
    """Hints for one platform. Each suggested package is looked up first, so that its command succeeds."""

    request: LockRequest
    inputs: Inputs
    index: PlatformIndex
    _names: frozenset[str] | None = field(default=None)

    @property
    def is_written(self) -> bool:
        """Return whether the requested packages are already in the file, and not only about to be added."""
        return self.request.environment_text is None or self.request.source is not None

    def requests(self, name: str) -> bool:
        """Return whether ``pip:`` lists a package."""
        return any(canonicalize_name(requirement.name) == name for requirement in self.index.wanted.pip)

    def _editing(self, name: str) -> LockRequest:
        """Return the request with the file that lists a package as the one to edit."""
        paths = [one.line.path for one in self.inputs.entries if canonicalize_name(one.name) == canonicalize_name(name)]
        return self.request.editing(paths[0]) if set(paths[:1]) & set(self.request.others) else self.request

    def for_unknown_conda(self, name: str) -> Iterator[Hint]:
        """Suggest the wheel of an unknown conda package, if the package index has one."""
        if not self._is_wheel(name):
            return
        request = self._editing(name)
        add = request.command("add", "--pip", name)
        if add:
            words = [request.command("remove", name), add] if self.is_written else [add]
            yield Hint(f"to install `{name}` from the package index instead", " && ".join(words))

    def for_wheel(self, name: str, why: str) -> Iterator[Hint]:
        """Suggest what to do about a package that no index provides."""
        if self.index.advice.get(name):
            yield Hint(self.index.advice[name])
        if glibc := self.index.needed_glibc.get(name):
            wanted = self.index.wanted
            yield Hint(virtual_package_hint(self.inputs, wanted.platform, "__glibc", glibc, wanted.virtual))
        if why == NO_TORCH_INDEX:
            yield from self._torch_index()
        elif self.index.sources.is_family(name):
            yield from self._other_build()
        elif self.requests(name):
            yield from self._for_request(name)
        elif name in self.index.missing:
            yield from self._for_dependency(name)
        if name in self.index.newer and self.request.command("lock"):
            command = self.request.command("lock", "--exclude-newer", "none")
            yield Hint(f"to allow packages newer than {self.index.wanted.cutoff}", command)

    def _for_request(self, name: str) -> Iterator[Hint]:
        if name in self.index.newer and name not in self.index.missing:
            return
        near = self._nearest(name) if name in self.index.unlisted else None
        if near is not None:
            yield Hint(f"did you mean `{near}`?")
        conda = self.index.mapping.to_conda(name)
        remove = self._editing(name).command("remove", name)
        if conda in self._conda_names() and remove:
            add = self._editing(name).command("add", conda)
            words = [remove, add] if self.is_written else [add]
            yield Hint(f"to install `{conda}` from conda instead", " && ".join(words))
        elif near is None and name in self.index.unlisted:
            registry = self.index.sources.registry
            where = f" (configured in {registry.source})" if registry is not None else ""
            yield Hint(f"check the name of the package, and the URL of the package index{where}")
        elif near is None and name in self.index.missing and self.is_written and remove:
            yield Hint(f"to remove `{name}` from `{self.request.source or self.request.environment}`", remove)
        elif near is None and name not in self.index.missing and not self.index.advice.get(name):
            yield Hint(f"change the version of `{name}` to one that exists for {self.index.wanted.platform}")

    def _for_dependency(self, name: str) -> Iterator[Hint]:
        conda = self.index.mapping.to_conda(name)
        if conda in self._conda_names():
            command = self.request.command("add", conda)
        elif self._is_wheel(name):
            command = self.request.command("add", "--pip", name)
        else:
            return
        if command:
            yield Hint(f"to provide `{name}`", command)

    def _other_build(self) -> Iterator[Hint]:
        """Suggest to plan the project for the requested platforms, if it was planned for others."""
        if self.request.platforms and not self.request.is_aside:
            update = update_command(project_of(self.request.lockfile), self.inputs.platforms)
            if update:
                yield Hint("to select a build for each of these platforms", update)
                return
        yield Hint("to list the builds that exist", "envforge explain")

    def _torch_index(self) -> Iterator[Hint]:
        pin = next((one.specifier for one in self.index.wanted.pip if one.name == "torch"), None)
        builds = [
            build
            for build in load_matrix().builds
            if build.platform == self.index.wanted.platform
            and pin is not None
            and pin.contains(Version(dict(build.pins)["torch"]), prereleases=True)
        ]
        if builds:
            newest = max(builds, key=lambda build: (build.torch, build.tag.cuda or Version("0")))
            line = f'`pip-repositories: ["{PYTORCH_INDEX}/{newest.tag}"]`'
            yield Hint(f"to select a build, add its index to `environment.yml`, such as {line}")
        yield Hint("to list the builds that this machine supports", "envforge explain")

    def _nearest(self, name: str) -> str | None:
        """Return the nearest name on the package index; candidates are the names of conda packages."""
        from envforge.lock.solver.solve import suggested  # noqa: PLC0415 - loads rattler, and only errors need it

        near = suggested(name, {self.index.mapping.to_python(one) for one in self._conda_names()})
        return near if near is not None and self._is_wheel(near) else None

    def _is_wheel(self, name: str) -> bool:
        """Return whether an index has a project of this name, including the package index if the file allows it."""
        if self.index.has_page(name):
            return True
        if not self.inputs.allow_registry or self.index.sources.registry is not None:
            return False
        try:
            registry = configured_index(os.environ, Path.home(), Path(sys.prefix))
            return bool(self.index.downloads.page(registry.simple_url, canonicalize_name(name)).files)
        except EnvforgeError:
            return False

    def _conda_names(self) -> frozenset[str]:
        """Return the names of all packages in the channels; empty if they can't be read."""
        from envforge.lock.solver.solve import known_names  # noqa: PLC0415 - as above

        if self._names is None:
            mirrors = self.request.mirrors
            self._names = known_names(self.inputs.channels, self.index.wanted.platform, mirrors, os.environ)
        return self._names
