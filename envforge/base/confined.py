"""Render the templates and match the patterns of third parties in a child process with limited time and memory.

A loop of a template or a regular expression can run for years, and Python can't interrupt it in this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import Any

from envforge.base.jinja import TemplateError, render_template
from envforge.errors import printable

LIMIT_S = 2  # of CPU time, for all requests to one child; twice as long under load
MEMORY_BYTES = 500_000_000
LIMITS = f"at most {LIMIT_S} s and {MEMORY_BYTES // 1_000_000} MB"
_MOST_CHARACTERS = 10_000_000
_WALL_S = 30  # only for systems without a limit of CPU time, and for a machine under load
_START = "import sys; sys.path[:] = sys.argv[1:]; from envforge.base.confined import main; main()"
# a template that leaves the sandbox finds no secret in the environment; these are what an interpreter needs
_KEPT = ("PATH", "SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")


class Confined:
    """A child process, which starts with the first request; its limits apply to all its requests together."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def render(self, text: str, variables: Mapping[str, object], where: str) -> str:
        """Render a template as ``render_template`` does; raise ``TemplateError`` if it exceeds a limit."""
        return str(self._ask(f"the template `{where}`", "render", text, dict(variables), where))

    def matches(self, pattern: str, text: str) -> bool:
        """Return whether ``text`` fully matches; raise ``TemplateError`` if that exceeds a limit."""
        return bool(self._ask(f"the pattern `{printable(pattern)}` of a question", "matches", pattern, text))

    def close(self) -> None:
        """End the child."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, what: str, *request: object) -> Any:
        if self._process is None:
            self._process = _start()
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise TypeError("the child was started without pipes")
        timer = threading.Timer(_WALL_S, self._process.kill)
        timer.start()
        try:
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
            answer = stdout.readline()
        except OSError:
            answer = b""
        finally:
            timer.cancel()
        # a child that was killed may have written a part of its answer
        if not answer.endswith(b"\n"):
            self.close()
            raise TemplateError(f"{what} exceeds the limits: expected {LIMITS}", code="template-damaged")
        reply = json.loads(answer)
        if "error" in reply:
            raise TemplateError(reply["error"], code="template-damaged")
        return reply["value"]


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _START, *sys.path],
        env={name: os.environ[name] for name in _KEPT if name in os.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # a full pipe that nobody reads would block the child
        stderr=subprocess.DEVNULL,
    )


def main() -> None:
    """Answer requests, one JSON line each, until stdin is closed."""
    _set_limits()
    # the answers are limited together: many templates could each produce the most
    left = _MOST_CHARACTERS
    for line in sys.stdin.buffer:
        answer = _answer(*json.loads(line))
        left -= len(str(answer.get("value")))
        if left < 0:
            return
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


def _answer(kind: str, *values: Any) -> dict[str, Any]:
    try:
        return {"value": render_template(*values) if kind == "render" else bool(re.fullmatch(*values))}
    except TemplateError as error:
        return {"error": error.message}
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        return {"error": str(error)}


def _set_limits() -> None:
    if sys.platform != "win32":
        import resource  # noqa: PLC0415 - Windows has no such module

        limits = ((resource.RLIMIT_CPU, LIMIT_S), (resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_CORE, 0))
        for name, most in limits:
            hard = resource.getrlimit(name)[1]
            with contextlib.suppress(ValueError, OSError):  # macOS doesn't limit the address space
                resource.setrlimit(name, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))
