"""``envforge shell`` starts the user's shell, and activates after the user's own files; run in a real terminal."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.prefix.use.support import ENVFORGE, User
from tests.prefix.use.terminal import Terminal

assert sys.platform != "win32"

SHELLS = [
    pytest.param(name, marks=pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed"))
    for name in ("bash", "dash", "zsh", "fish")
]
RC_FILES = {"bash": ".bashrc", "dash": ".shinit", "zsh": ".zshrc", "fish": ".config/fish/config.fish"}


def configure(user: User, shell: str, text: str) -> dict[str, str]:
    """Give the user a file that the shell reads at its start, and tell the variables of the session."""
    path = user.home / RC_FILES[shell]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    more = {"ENV": "$HOME/.shinit"} if shell == "dash" else {}
    return user.environment(SHELL=str(shutil.which(shell)), XDG_CONFIG_HOME=str(user.home / ".config"), **more)


def answer(terminal: Terminal, expression: str) -> str:
    """The value of a double-quoted text in the shell."""
    terminal.type(f'printf "%s%s%s\\n" "<" {expression} ">"')
    terminal.read_until("<")
    while True:
        text = terminal.read_until(">")
        if "printf" not in text and '"' not in text:
            return text[:-1]
        terminal.read_until("<")


@pytest.mark.parametrize("shell", SHELLS)
def test_environment_is_active_after_the_users_own_files(user: User, with_scripts: Path, shell: str) -> None:
    own = "set -gx OWN yes; set -gx PATH /own $PATH\n" if shell == "fish" else "export OWN=yes PATH=/own:$PATH\n"
    env = configure(user, shell, own)
    with Terminal((*ENVFORGE, "shell", "--prefix", str(with_scripts)), env, user.home) as terminal:
        assert answer(terminal, '"$OWN"') == "yes"
        assert answer(terminal, '"$ENTERED"') == "salve"
        assert answer(terminal, '"$CONDA_PREFIX"') == str(with_scripts)
        assert answer(terminal, '"$GREETING$ENVFORGE_ACTIVATE$ENVFORGE_KEPT"') == "salve"
        path = "(string join : $PATH)" if shell == "fish" else '"$PATH"'
        assert answer(terminal, path).startswith(f"{with_scripts}/bin:/own:")
        assert answer(terminal, '"$(hello)"' if shell != "fish" else "(hello)") == f"salve from {with_scripts}"
        terminal.type("exit 7")
        assert terminal.exit_code() == 7


@pytest.mark.parametrize("shell", SHELLS)
def test_prompt_names_the_environment_once(user: User, plain: Path, shell: str) -> None:
    own = "function fish_prompt; echo -n 'ask> '; end\n" if shell == "fish" else "PS1='(base) ask> '\n"
    if shell != "fish":
        own += "export CONDA_SHLVL=1 CONDA_PREFIX=/nowhere CONDA_PROMPT_MODIFIER='(base) '\n"
    env = configure(user, shell, own)
    with Terminal((*ENVFORGE, "shell", "--prefix", str(plain)), env, user.home) as terminal:
        assert "(base)" not in terminal.read_until("(digits) ask> ")
        terminal.type("exit")
        assert terminal.exit_code() == 0


@pytest.mark.parametrize("shell", SHELLS)
def test_text_activates_a_running_shell(user: User, with_scripts: Path, shell: str) -> None:
    text = user.envforge("shell", "--print", "--shell", shell, "--prefix", str(with_scripts)).stdout
    program = f'{text}\nhello; echo "$ENTERED"; exit 3\n'
    run = subprocess.run(
        [str(shutil.which(shell)), "-c", program],
        env=user.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stdout) == (3, f"salve from {with_scripts}\nsalve\n")


def test_shell_in_the_same_environment_is_refused_inside_it(user: User, plain: Path) -> None:
    env = configure(user, "bash", "PS1='ask> '\n")
    with Terminal((*ENVFORGE, "shell", "--prefix", str(plain)), env, user.home) as terminal:
        terminal.read_until("(digits) ask> ")
        words = shlex.join(ENVFORGE)
        terminal.type(f"{words} shell --prefix {plain}; echo code $?.")
        shown = terminal.read_until("code 1.")
        assert "this shell is already in the environment" in shown
        terminal.type("exit")
        assert terminal.exit_code() == 0


def test_shell_without_a_terminal_is_refused_with_what_to_do_instead(user: User, plain: Path) -> None:
    run = user.envforge("shell", "--shell", "bash", "--prefix", str(plain))
    assert (run.returncode, run.stdout) == (2, "")
    assert "hint: to run a single command, run `envforge run CMD`" in run.stderr


def test_unknown_shell_is_named(user: User, plain: Path) -> None:
    run = user.envforge("shell", "--prefix", str(plain), env=user.environment(SHELL="/bin/tcsh"))
    assert run.returncode == 2
    assert "unsupported shell `/bin/tcsh` in `SHELL`; expected one of: bash, zsh, fish, dash, sh" in run.stderr
