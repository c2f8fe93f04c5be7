"""For containers: a Dockerfile that rebuilds the environment from the lock, and leaves the tools behind."""

from __future__ import annotations

import re

from packaging.version import Version

from envforge import __version__
from envforge.errors import EnvforgeError
from envforge.export.source import Exported, Source, header
from envforge.matrix import load_matrix
from envforge.requirements import requirements_of

PREFIX = "/opt/env"
# Source: libc6 in Debian 12 (bookworm) is 2.36, in Debian 13 (trixie) 2.41; official image tags have these names.
_BASES = ((Version("2.36"), "bookworm"), (Version("2.41"), "trixie"))


def dockerfile(source: Source) -> Exported:
    """Two stages: the first installs the lock into ``/opt/env``, the second has that folder alone."""
    linux = [plan.platform for plan in source.plans if plan.platform.startswith("linux-")]
    if not linux:
        names = ", ".join(f"`{plan.platform}`" for plan in source.plans)
        raise EnvforgeError(
            f"`{source.name}` is for {names}; an image needs packages for Linux",
            hint="add them: envforge lock -p linux-64",
            code="platform-not-locked",
        )
    if re.fullmatch(r"[A-Za-z0-9._-]+", source.name) is None or source.name.startswith("-"):
        raise EnvforgeError(
            f"a Dockerfile cannot name the lock `{source.name}`: wanted letters, digits, `.`, `_` and `-`",
            hint="copy it to conda-lock.yml",
            code="bad-name",
        )
    matrix = load_matrix()
    needs = [requirements_of(source.lockfile, platform, matrix) for platform in linux]
    base = _base(max((need.glibc for need in needs if need.glibc), default=None))
    words = [f"{platform} needs: {need.words}" for platform, need in zip(linux, needs, strict=True)]
    use = [f"    docker build -t NAME .        with {source.name} in the same folder", *words]
    return Exported(
        text=header(source, *use) + _TEXT.format(base=base, lock=source.name, prefix=PREFIX, version=__version__)
    )


def _base(glibc: Version | None) -> str:
    for provided, name in _BASES:
        if glibc is None or glibc <= provided:
            return name
    raise EnvforgeError(
        f"the lock needs glibc {glibc}; the newest base image that envforge knows has {_BASES[-1][0]}",
        hint="write the Dockerfile by hand: FROM an image with that glibc, then envforge install",
        code="no-base-image",
    )


_TEXT = """
FROM python:3.12-slim-{base} AS build
RUN pip install --no-cache-dir envforge=={version}
COPY {lock} /tmp/lock/{lock}
# No GPU is at hand while an image is built, so what the lock needs of the machine is not asked here.
RUN envforge install /tmp/lock/{lock} --prefix {prefix} --cache /tmp/cache --ignore-machine && rm -rf /tmp/cache

FROM debian:{base}-slim
COPY --from=build {prefix} {prefix}
ENV PATH={prefix}/bin:$PATH \\
    CONDA_PREFIX={prefix} \\
    NVIDIA_VISIBLE_DEVICES=all \\
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /project
CMD ["python"]
"""
