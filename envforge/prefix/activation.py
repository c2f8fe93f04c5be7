"""Activate an environment: compute the variables, write them for a shell, and start a command.

If another environment is active, it is deactivated first and its scripts run, as in ``conda activate``. Source of the
rules: conda documentation, "Managing environments" (``etc/conda/activate.d``, ``env_vars.d``, ``conda-meta/state``) and
"conda init and activation".

Exit code and signals are those of the command. A shell is started first only if packages have activation scripts, and
is then replaced by the command.
"""

from __future__ import annotations

import errno
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

from msgspec import Struct, field

from envforge.base.data_files import data_folder
from envforge.base.documents import Document
from envforge.errors import EnvforgeError, RequestError
from envforge.lock.lockfile import VariableName, VariableValue
from envforge.prefix.journal import read_journal
from envforge.prefix.venv import is_venv, venv_program

_UNSET = "***unset***"
_WINDOWS_FOLDERS = ("", "Library/mingw-w64/bin", "Library/usr/bin", "Library/bin", "Scripts", "bin")


class _State(Struct, frozen=True, kw_only=True):
    """The file ``conda-meta/state`` of conda."""

    env_vars: dict[VariableName, VariableValue] = field(default_factory=dict)


class Activation(Struct, frozen=True, kw_only=True):
    """Deactivation scripts, variables to set (None unsets), and activation scripts, in this order.

    ``label`` is shown in the prompt. ``left_prompt`` is what the deactivated environment has added to the prompt.
    """

    prefix: Path
    label: str
    changes: tuple[tuple[str, str | None], ...]
    leaving: tuple[Path, ...] = ()
    entering: tuple[Path, ...] = ()
    left_prompt: str = ""

    @property
    def scripts(self) -> tuple[Path, ...]:
        """All scripts; if there are none, no shell is needed."""
        return (*self.leaving, *self.entering)

    def applied(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Return ``environment`` with the variables changed; scripts are not run."""
        changed = dict(environment)
        for name, value in self.changes:
            if value is None:
                changed.pop(name, None)
            else:
                changed[name] = value
        return changed


def activation(prefix: Path, label: str, environment: Mapping[str, str], *, suffix: str = "sh") -> Activation:
    """Return what activating ``prefix`` changes in ``environment``; ``suffix`` is the type of script of the shell.

    Raises ``EnvforgeError`` if a file of variables in the prefix is invalid.
    """
    level = _level(environment)
    left = Path(environment["CONDA_PREFIX"]) if level and environment.get("CONDA_PREFIX") else None
    if is_venv(prefix):
        return _of_venv(prefix, label, environment, left)
    # `conda activate` of the active environment restores and sets everything again, at the same level
    again = left is not None and _same(left, prefix)
    changes: dict[str, str | None] = {}
    if left is not None:
        changes |= _restored(left, environment, level)
    if not again:
        changes |= {"CONDA_SHLVL": str(level + 1), **({f"CONDA_PREFIX_{level}": str(left)} if left else {})}
    modifier = f"({label}) "
    changes |= {
        "PATH": _path(prefix, left, environment.get("PATH", "")),
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": str(prefix),
        "CONDA_PROMPT_MODIFIER": modifier,
    }
    base_level = level - 1 if again else level
    for name, value in variables(prefix).items():
        present = changes.get(name, environment.get(name))
        # where conda looks for the earlier value when the environment is left
        if present is not None and present != value:
            changes[f"__CONDA_SHLVL_{base_level}_{name}"] = present
        changes[name] = value
    return Activation(
        prefix=prefix,
        label=label,
        changes=tuple(sorted(changes.items())),
        leaving=_scripts(left, "deactivate.d", suffix)[::-1] if left is not None else (),
        entering=_scripts(prefix, "activate.d", suffix),
        left_prompt=environment.get("CONDA_PROMPT_MODIFIER", "") if left is not None else "",
    )


def _of_venv(prefix: Path, label: str, environment: Mapping[str, str], left: Path | None) -> Activation:
    """Return the activation of a virtual environment, which has no scripts; ``left`` is an active conda environment."""
    changes: dict[str, str | None] = {}
    if left is not None:
        changes |= _restored(left, environment, _level(environment))
        changes |= dict.fromkeys(("CONDA_PREFIX", "CONDA_DEFAULT_ENV", "CONDA_PROMPT_MODIFIER"))
        changes["CONDA_SHLVL"] = "0"
    changes |= {
        "PATH": _path(prefix, left, environment.get("PATH", "")),
        "VIRTUAL_ENV": str(prefix),
        "VIRTUAL_ENV_PROMPT": label,
        # as in the scripts of venv: it would select another standard library
        "PYTHONHOME": None,
        **variables(prefix),
    }
    return Activation(
        prefix=prefix,
        label=label,
        changes=tuple(sorted(changes.items())),
        leaving=_scripts(left, "deactivate.d", "sh")[::-1] if left is not None else (),
        left_prompt=environment.get("CONDA_PROMPT_MODIFIER", "") if left is not None else "",
    )


def variables(prefix: Path) -> dict[str, str | None]:
    """Return the variables of an environment: of its packages, then of its lockfile, then of ``conda-meta/state``.

    The user sets those in ``conda-meta/state`` with ``conda env config vars set``.
    """
    found: dict[str, str] = {}
    for path in sorted((prefix / "etc" / "conda" / "env_vars.d").glob("*.json")):
        document = _document(path)
        found |= document.read_json(document.read_bytes(path), dict[VariableName, VariableValue])
    journal = read_journal(prefix)
    found |= dict(journal.variables) if journal is not None else {}
    state = prefix / "conda-meta" / "state"
    if state.exists():
        document = _document(state)
        found |= document.read_json(document.read_bytes(state), _State).env_vars
    return {name: None if value == _UNSET else value for name, value in found.items()}


def bin_folders(prefix: Path) -> tuple[Path, ...]:
    """Return the directories of an environment for ``PATH``, in order."""
    if is_venv(prefix):
        return (venv_program(prefix).parent,)
    if os.name == "nt":
        return tuple(prefix / folder for folder in _WINDOWS_FOLDERS)
    return (prefix / "bin",)


def _document(path: Path) -> Document:
    return Document(
        damaged=f"cannot read the environment variables in `{path}`",
        error=EnvforgeError,
        code="variables-damaged",
        hint="fix the file; to remove it",
        command=f"rm {shlex.quote(str(path))}",
    )


def _level(environment: Mapping[str, str]) -> int:
    # as conda counts: the number of environments that are active on top of each other
    text = environment.get("CONDA_SHLVL", "")
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else 0


def _same(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _restored(left: Path, environment: Mapping[str, str], level: int) -> dict[str, str | None]:
    """Return the values that the variables of an active environment had before, as recorded by conda."""
    restored: dict[str, str | None] = {}
    for name in variables(left):
        kept = f"__CONDA_SHLVL_{level - 1}_{name}"
        restored[name] = environment.get(kept)
        if kept in environment:
            restored[kept] = None
    return restored


def _path(prefix: Path, left: Path | None, path: str) -> str:
    ours = [str(folder) for folder in bin_folders(prefix)]
    gone = {*ours, *(str(folder) for folder in bin_folders(left))} if left is not None else set(ours)
    return os.pathsep.join([*ours, *(folder for folder in path.split(os.pathsep) if folder not in gone)])


def _scripts(prefix: Path, folder: str, suffix: str) -> tuple[Path, ...]:
    return tuple(sorted((prefix / "etc" / "conda" / folder).glob(f"*.{suffix}")))


SHELLS = ("bash", "zsh", "fish", "dash", "sh")
ACTIVATE_VARIABLE = "ENVFORGE_ACTIVATE"
SHELL_VARIABLE = "ENVFORGE_SHELL"
_KEPT_VARIABLE = "ENVFORGE_KEPT"


class Start(Struct, frozen=True, kw_only=True):
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
            # `PATH` is a list in fish
            values = value.split(":") if name == "PATH" else [value]
            lines.append(f"set -gx {name} {' '.join(map(_fish_quoted, values))}")
    lines += [f"source {_fish_quoted(str(path))} >&2" for path in active.entering]
    label = _fish_quoted(f"({active.label}) ")
    lines += [
        # fish has no variable for its prompt, so the function is wrapped, once
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


_LOST_SIGNALS = ("SIGPIPE", "SIGXFSZ")


class CommandNotFoundError(EnvforgeError):
    """The command doesn't exist; the exit code 127 is that of shells and ``env``."""

    exit_code = 127


class CommandNotRunError(EnvforgeError):
    """The command exists but can't be started; the exit code 126 is that of shells and ``env``."""

    exit_code = 126


_OF_PYTHON = re.compile(r"(pip|python)[\d.]*w?(?:\.exe)?", re.IGNORECASE)


def foreign_program(
    command: str, active: Activation, environment: Mapping[str, str], add_pip: Callable[[], str]
) -> str:
    """Return a warning if ``python`` is that of another environment, because this one has none; empty otherwise.

    Raises ``EnvforgeError`` for ``pip``, which would change another environment; ``add_pip`` returns the command that
    adds it to this one.
    """
    match = _OF_PYTHON.fullmatch(command)
    path = active.applied(environment).get("PATH", os.defpath)
    found = shutil.which(command, path=path) if match else None
    if match is None or found is None or Path(os.path.abspath(found)).is_relative_to(active.prefix):  # noqa: PTH100 - keep links
        return ""
    text = f"the environment `{active.prefix}` contains no `{command}`"
    if match[1].lower() == "python":
        return f"{text}; running `{found}`"
    uv = shlex.join(["uv", "pip", "install", "--python", str(venv_program(active.prefix)), "PACKAGE"])
    raise CommandNotFoundError(
        f"{text}, and `{found}` would change another environment",
        hint="to install a package with uv" if is_venv(active.prefix) else "to add pip to the environment",
        command=uv if is_venv(active.prefix) else add_pip(),
        code="command-not-found",
    )


def become(command: tuple[str, ...], active: Activation, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process with ``command`` in the activated environment."""
    # the scripts are for shells of POSIX
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
