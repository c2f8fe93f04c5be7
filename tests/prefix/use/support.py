"""Run the command line in a child process, and create environments for it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

ROOT = Path(__file__).parents[3]
ENVFORGE = (
    sys.executable,
    "-c",
    f"import sys; sys.path[:] = [*filter(None, sys.path), {str(ROOT)!r}]; from envforge.__main__ import run; run()",
)


class User(Struct, frozen=True):
    """A person with a home of their own, in which nothing but ``files`` is configured."""

    home: Path

    def environment(self, **variables: str) -> dict[str, str]:
        home = str(self.home)
        outer = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "TERM": "dumb"}
        return {**outer, "HOME": home, "TMPDIR": f"{home}/tmp", **variables}

    def envforge(
        self, *words: str, here: Path | None = None, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*ENVFORGE, *words],
            cwd=here or self.home,
            env=self.environment() if env is None else dict(env),
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
