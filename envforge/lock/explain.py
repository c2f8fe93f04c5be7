"""Turn the log of a failed conda-lock run into an error without a traceback."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from envforge.errors import EnvforgeError, Hint, OutsideError

_CONDA = re.compile(r"^ {4}STDOUT:\n(?P<answer>\{.*?^\})", re.MULTILINE | re.DOTALL)
_PYTHON = re.compile(r"^\S*(?:SolverProblemError|ResolutionError): (?P<why>.+)", re.MULTILINE | re.DOTALL)
_RAISED = re.compile(r"^[\w.]+(?:Error|Exception)(?:: |$).*", re.MULTILINE)
_SYSTEM = re.compile(r"^(?:OSError|PermissionError|FileNotFoundError|BlockingIOError|MemoryError)\b")
_ABSENT = re.compile(r"nothing provides requested|does not exist")  # libmamba
_ROOT = re.compile(r"[-_]dummy[-_]package[-_](?: \(0\.0\.0\))?")
_UNREACHED = "channel-unreachable"
_UNREAD = frozenset({"repodata-unreadable", "CondaHTTPError", "CondaSSLError", "UnavailableInvalidChannel"})
_UNSATISFIABLE = frozenset({"unsatisfiable", "UnsatisfiableError", "LibMambaUnsatisfiableError"})
_NOT_FOUND = frozenset({"packages-not-found", "PackagesNotFoundError", "PackagesNotFoundInChannelsError"})
_LOOSEN = Hint("loosen one of the conflicting constraints in `environment.yml`")


class NoSuchPackageError(EnvforgeError):
    """A requested conda package doesn't exist in any channel: ``names`` lists all such packages."""

    def __init__(self, message: str, *, hint: str | Iterable[Hint] = "", code: str, names: Iterable[str] = ()) -> None:
        super().__init__(message, hint=hint, code=code)
        self.names = tuple(names)


def explain(log: str, platform: str) -> EnvforgeError:
    """Return the reason from the solver, or else the last error in the log."""
    match = _CONDA.search(log)
    if match is not None:
        return _conda(json.loads(match["answer"]), platform)
    match = _PYTHON.search(log)
    if match is not None:
        return _no_solution(platform, _ROOT.sub("environment.yml", match["why"]), (_LOOSEN,))
    raised = _RAISED.findall(log)
    if raised and _SYSTEM.match(raised[-1]):
        return OutsideError(f"conda-lock failed for {platform}: {raised[-1]}", code="conda-lock-failed")
    lines = raised[-1:] or [line for line in log.splitlines() if line.strip()][-5:]
    reason = "\n".join(lines) or "it printed no message"
    return EnvforgeError(f"conda-lock failed for {platform}: {reason}", code="conda-lock-failed")


def _conda(answer: Mapping[str, Any], platform: str) -> EnvforgeError:
    """Read the answer of the embedded solver, of conda, or of mamba (``solver_problems``)."""
    problems = answer.get("solver_problems")
    listed = "\n".join(map(str, problems)) if isinstance(problems, list) else ""
    message = str(answer.get("reason") or answer.get("message") or answer.get("error") or listed)
    hints = tuple(Hint(**hint) for hint in answer.get("hints", ()))
    signs = {answer.get("code"), answer.get("exception_name")}
    if _UNREACHED in signs:
        return OutsideError(message.strip(), hint=hints, code=_UNREACHED)
    if signs & _UNREAD:
        return OutsideError(message.strip(), hint=hints, code="channel-unreadable")
    if signs & _NOT_FOUND or _ABSENT.search(listed):
        return _not_found(answer, message.strip(), hints)
    if signs & _UNSATISFIABLE or listed:
        return _no_solution(platform, message, hints or (_LOOSEN,))
    code = str(answer.get("code") or "conda-lock-failed")
    return EnvforgeError(f"the solver failed for {platform}: {message.strip()}", hint=hints, code=code)


def _not_found(answer: Mapping[str, Any], message: str, hints: tuple[Hint, ...]) -> EnvforgeError:
    """Return the error for a package without a match: the embedded solver lists the names that are ``unknown``."""
    names = tuple(answer.get("unknown", ()))
    if "unknown" in answer and not names:
        return EnvforgeError(message, hint=hints, code="no-solution")
    return NoSuchPackageError(message, hint=hints, code="no-such-package", names=names)


def _no_solution(platform: str, reason: str, hints: tuple[Hint, ...]) -> EnvforgeError:
    return EnvforgeError(f"no solution for {platform}: {reason.strip()}", hint=hints, code="no-solution")
