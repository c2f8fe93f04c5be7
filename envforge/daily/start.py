"""Replace this process with a command that runs inside an environment.

Exit code and signals are those of the command. A shell is started first only if packages have activation scripts, and
is then replaced by the command.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import NoReturn

from envforge.daily.activation import Activation
from envforge.daily.shells import Start, posix_text
from envforge.errors import EnvforgeError

_LOST_SIGNALS = ("SIGPIPE", "SIGXFSZ")


class CommandNotFoundError(EnvforgeError):
    """The command doesn't exist; the exit code 127 is that of shells and ``env``."""

    exit_code = 127


class CommandNotRunError(EnvforgeError):
    """The command exists but can't be started; the exit code 126 is that of shells and ``env``."""

    exit_code = 126


def become(command: tuple[str, ...], active: Activation, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process with ``command`` in the activated environment."""
    if os.name == "nt" or not active.scripts:
        start(Start(words=command, environment=active.applied(environment)))
    start(with_scripts(command, active, environment))


def with_scripts(command: tuple[str, ...], active: Activation, environment: Mapping[str, str]) -> Start:
    """Return a shell that runs the activation scripts, without arguments, and is then replaced by the command."""
    text = posix_text(active)
    where = environment.get("PATH", os.defpath)
    bash = shutil.which("bash", path=where)
    if bash is not None:
        program = f'envforge_words=("$@"); set --\n{text}{_BASH_END}'
        return Start(
            words=(bash, "--noprofile", "--norc", "-c", program, "envforge", *command), environment=environment
        )
    sh = shutil.which("sh", path=where)
    if sh is None:
        raise EnvforgeError(
            f"the activation script `{active.scripts[0]}` requires `bash` or `sh`, but neither is on PATH (`{where}`)",
            hint="install bash, or add the directory that contains it to PATH",
            code="no-shell",
        )
    return Start(words=(sh, "-c", f'{text}exec "$@"', "envforge", *command), environment=environment)


_BASH_END = """\
if ! type -P -- "${envforge_words[0]}" >/dev/null; then
    printf 'error: command `%s` not found in the environment or on PATH\\n' "${envforge_words[0]}" >&2
    exit 127
fi
exec -- "${envforge_words[@]}"
"""


def start(wanted: Start) -> NoReturn:
    """Replace this process with a program; raise ``EnvforgeError`` if it doesn't exist or can't be started."""
    words, environment = wanted.words, dict(wanted.environment)
    program = shutil.which(words[0], path=environment.get("PATH", os.defpath))
    if program is None:
        raise CommandNotFoundError(
            f"command `{words[0]}` not found in the environment or on PATH", code="command-not-found"
        )
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        if os.name == "nt":  # on Windows, os.execve starts another process and ends this one at once
            sys.exit(subprocess.run([program, *words[1:]], env=environment, check=False).returncode)
        _give_back_signals()
        os.execve(program, words, environment)  # noqa: S606 - no shell is needed
    except OSError as error:
        why = "the file has no `#!` line" if error.errno == errno.ENOEXEC else error.strerror or str(error)
        raise CommandNotRunError(f"cannot start `{program}`: {why}", code="command-not-run") from error


def _give_back_signals() -> None:
    """Restore the default action of signals that Python ignores, so that they end the command as usual."""
    for name in _LOST_SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
