"""Write an activation for a shell, and start shells so that they activate after reading their own files."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envforge.daily.activation import Activation
from envforge.errors import RequestError
from envforge.resources import data_folder

SHELLS = ("bash", "zsh", "fish", "dash", "sh")
ACTIVATE_VARIABLE = "ENVFORGE_ACTIVATE"
SHELL_VARIABLE = "ENVFORGE_SHELL"
_KEPT_VARIABLE = "ENVFORGE_KEPT"


@dataclass(frozen=True, kw_only=True, slots=True)
class Start:
    """A program to start: its arguments, and all of its variables."""

    words: tuple[str, ...]
    environment: Mapping[str, str]


def script_suffix(shell: str) -> str:
    """Return the file name suffix of the activation scripts of a shell."""
    return "fish" if shell == "fish" else "sh"


def shell_of(environment: Mapping[str, str]) -> str:
    """Return the shell in the variable ``SHELL``; raise ``RequestError`` if envforge doesn't support it."""
    path = environment.get("SHELL", "")
    name = Path(path).name
    if name in SHELLS:
        return name
    raise RequestError(
        (f"unsupported shell `{path}` in `SHELL`" if path else "`SHELL` is not set")
        + f"; expected one of: {', '.join(SHELLS)}",
        hint="to choose a shell",
        command="envforge shell --shell bash",
        code="unknown-shell",
    )


def activation_text(active: Activation, shell: str) -> str:
    """Return the text that activates an environment in a running ``shell`` and adds its label to the prompt."""
    return _fish(active) if shell == "fish" else posix_text(active) + _posix_prompt(active)


def posix_text(active: Activation) -> str:
    """Return the activation for POSIX shells; the output of scripts goes to stderr, because stdout is the command's."""
    lines = [f". {shlex.quote(str(path))} >&2" for path in active.leaving]
    for name, value in active.changes:
        lines.append(f"unset {name}" if value is None else f"export {name}={shlex.quote(value)}")
    lines += [f". {shlex.quote(str(path))} >&2" for path in active.entering]
    return "".join(f"{line}\n" for line in lines)


def _posix_prompt(active: Activation) -> str:
    label, left = shlex.quote(f"({active.label}) "), shlex.quote(active.left_prompt)
    return f'if [ -n "${{PS1-}}" ]; then PS1={label}"${{PS1#{left}}}"; fi\n'


def _fish(active: Activation) -> str:
    lines = [f"source {_fish_quoted(str(path))} >&2" for path in active.leaving]
    for name, value in active.changes:
        if value is None:
            lines.append(f"set -e {name}")
        else:
            values = value.split(":") if name == "PATH" else [value]
            lines.append(f"set -gx {name} {' '.join(map(_fish_quoted, values))}")
    lines += [f"source {_fish_quoted(str(path))} >&2" for path in active.entering]
    label = _fish_quoted(f"({active.label}) ")
    lines += [
        "if functions -q fish_prompt; and not functions -q __envforge_prompt",
        "functions -c fish_prompt __envforge_prompt",
        f"function fish_prompt; echo -n {label}; __envforge_prompt; end",
        "end",
    ]
    return "".join(f"{line}\n" for line in lines)


def _fish_quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


# `conda init` activates `base` in .bashrc, so the shell must read its own files before it activates the environment
def shell_start(shell: str, program: str, prefix: Path, environment: Mapping[str, str]) -> Start:
    """Return how to start ``program`` as an interactive shell that activates ``prefix`` after reading its own files.

    The shell's own files may activate another environment (``conda init`` does), so the activation is computed after
    them, by the command in ``ENVFORGE_ACTIVATE``.
    """
    words = (*own_command(), "shell", "--print", "--shell", shell, "--prefix", str(prefix))
    variables = dict(environment) | {ACTIVATE_VARIABLE: shlex.join(words), SHELL_VARIABLE: str(prefix)}
    files = data_folder() / "shell"
    if shell == "bash":
        return Start(words=(program, "--rcfile", str(files / "bashrc"), "-i"), environment=variables)
    if shell == "fish":
        text = f"eval ${ACTIVATE_VARIABLE} | source; set -e {ACTIVATE_VARIABLE}"
        return Start(words=(program, "-i", "-C", text), environment=variables)
    name, value = ("ZDOTDIR", str(files / "zsh")) if shell == "zsh" else ("ENV", str(files / "shrc"))
    if name in environment:
        variables[_KEPT_VARIABLE] = environment[name]
    return Start(words=(program, "-i"), environment=variables | {name: value})


def own_command() -> tuple[str, ...]:
    """Return the arguments that run this envforge from any directory, installed or not."""
    home = str(Path(__file__).resolve().parents[2])
    program = f"import sys; sys.path[:] = [*filter(None, sys.path), {home!r}]; from envforge.__main__ import run; run()"
    return (sys.executable, "-c", program)
