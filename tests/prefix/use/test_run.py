"""``envforge run`` activates the environment as conda does, and replaces itself with the command."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from tests.prefix.install.support import Place
from tests.prefix.use.support import ENVFORGE, User

assert sys.platform != "win32"

SHOW = "import json, os; print(json.dumps(dict(os.environ)))"


def shown(user: User, *words: str, env: dict[str, str] | None = None) -> dict[str, str]:
    """The variables that a command sees."""
    run = user.envforge("run", *words, sys.executable, "-c", SHOW, env=env)
    assert run.returncode == 0, run.stderr
    found: dict[str, str] = json.loads(run.stdout)
    return found


def test_programs_of_the_environment_come_first_and_its_variables_are_set(user: User, plain: Path) -> None:
    run = user.envforge("run", "hello", here=plain.parent)
    assert (run.returncode, run.stdout, run.stderr) == (0, f"hello from {plain}\n", "")


def test_environment_of_the_project_is_found_from_below(user: User, plain: Path) -> None:
    below = plain.parent / "src" / "deep"
    below.mkdir(parents=True)
    assert user.envforge("run", "hello", here=below).stdout == f"hello from {plain}\n"


def test_conda_s_variables_are_set(user: User, plain: Path) -> None:
    found = shown(user, "--prefix", str(plain))
    assert found["CONDA_PREFIX"] == str(plain)
    assert found["CONDA_DEFAULT_ENV"] == str(plain)
    assert found["CONDA_SHLVL"] == "1"
    assert found["CONDA_PROMPT_MODIFIER"] == "(digits) "
    assert found["PATH"] == f"{plain}/bin:{os.environ['PATH']}"


def test_the_users_own_variables_count_before_those_of_packages(user: User, plain: Path) -> None:
    state = {"version": 1, "env_vars": {"GREETING": "good 'day' $HOME", "GONE": "***unset***"}}
    (plain / "conda-meta" / "state").write_text(json.dumps(state))
    found = shown(user, "--prefix", str(plain), env=user.environment(GONE="here", GREETING="before"))
    assert found["GREETING"] == "good 'day' $HOME"
    assert "GONE" not in found
    assert found["__CONDA_SHLVL_0_GREETING"] == "before"


def test_variables_of_the_lockfile_are_set(user: User, plain: Path, tmp_path: Path) -> None:
    lockfile = tmp_path / "made-plain" / "conda-lock.yml"
    text = lockfile.read_text()
    for value in ("two words", "three"):  # the second install changes no package
        recorded = f"custom_metadata:\n    envforge_variables: '{json.dumps({'GREETING': value, 'OWN': '1'})}'"
        lockfile.write_text(text.replace("custom_metadata: {}", recorded))
        Place(tmp_path / "made-plain").install(lockfile, prefix=plain)
        found = shown(user, "--prefix", str(plain))
        assert (found["GREETING"], found["OWN"]) == (value, "1")
    (plain / "conda-meta" / "state").write_text(json.dumps({"version": 1, "env_vars": {"OWN": "of the user"}}))
    assert shown(user, "--prefix", str(plain))["OWN"] == "of the user"


def test_name_of_a_variable_is_not_run_by_a_shell(plain: Path, tmp_path: Path) -> None:
    lockfile = tmp_path / "made-plain" / "conda-lock.yml"
    recorded = """custom_metadata: {envforge_variables: '{"A;touch x": "1"}'}"""
    lockfile.write_text(lockfile.read_text().replace("custom_metadata: {}", recorded))
    with pytest.raises(EnvforgeError, match="expected the name of a variable"):
        Place(tmp_path / "made-plain").install(lockfile, prefix=plain)


def test_another_active_environment_is_left_first(user: User, plain: Path, with_scripts: Path) -> None:
    path = f"{with_scripts}/bin:/usr/bin:/bin"
    env = user.environment(
        CONDA_PREFIX=str(with_scripts), CONDA_SHLVL="1", PATH=path, GREETING="salve", ENTERED="salve"
    )
    found = shown(user, "--prefix", str(plain), env=env)
    assert found["PATH"] == f"{plain}/bin:/usr/bin:/bin"
    assert (found["CONDA_SHLVL"], found["CONDA_PREFIX_1"]) == ("2", str(with_scripts))
    assert (found["GREETING"], found["LEFT"]) == ("hello", str(with_scripts))
    assert "ENTERED" not in found


def test_variables_of_an_environment_that_is_left_are_what_they_were_before(
    user: User, with_scripts: Path, tmp_path: Path
) -> None:
    (tmp_path / "bare" / "conda-meta").mkdir(parents=True)
    for before in ({}, {"GREETING": "before"}):
        inside = shown(user, "--prefix", str(with_scripts), env=user.environment(**before))
        assert inside["GREETING"] == "salve"
        after = shown(user, "--prefix", str(tmp_path / "bare"), env=inside)
        assert {name: after[name] for name in after if "GREETING" in name} == before


def test_the_same_environment_is_not_stacked_on_itself(user: User, with_scripts: Path) -> None:
    once = shown(user, "--prefix", str(with_scripts))
    twice = shown(user, "--prefix", str(with_scripts), env=once)
    assert {name: twice[name] for name in once if name not in {"_", "LEFT"}} == {
        name: value for name, value in once.items() if name != "_"
    }


def test_scripts_run_and_what_they_print_stays_out_of_stdout(user: User, with_scripts: Path) -> None:
    run = user.envforge("run", "--prefix", str(with_scripts), "sh", "-c", 'echo "$ENTERED $WORDS"')
    assert (run.returncode, run.stdout, run.stderr) == (0, "salve 0\n", "entering\n")


@pytest.mark.parametrize("kind", ["plain", "with_scripts"])
def test_words_arrive_as_they_are(user: User, kind: str, request: pytest.FixtureRequest) -> None:
    prefix: Path = request.getfixturevalue(kind)
    words = ["", "a b", "it's", "$HOME", "--prefix", "*", "--json", "-h", "ü\n"]
    program = "import json, sys; print(json.dumps(sys.argv[1:]))"
    run = user.envforge("run", "--prefix", str(prefix), sys.executable, "-c", program, *words)
    assert json.loads(run.stdout) == words


@pytest.mark.parametrize("kind", ["plain", "with_scripts"])
@pytest.mark.parametrize("code", [0, 1, 2, 3, 70, 255])
def test_exit_code_is_the_commands(user: User, kind: str, code: int, request: pytest.FixtureRequest) -> None:
    prefix: Path = request.getfixturevalue(kind)
    assert user.envforge("run", "--prefix", str(prefix), "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("kind", ["plain", "with_scripts"])
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_signals_reach_the_command_itself(user: User, kind: str, name: str, request: pytest.FixtureRequest) -> None:
    prefix: Path = request.getfixturevalue(kind)
    number = getattr(signal, name)
    program = (
        f"import signal, sys\nsignal.signal({int(number)}, lambda *_: sys.exit(42))\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    process = subprocess.Popen(
        [*ENVFORGE, "run", "--prefix", str(prefix), sys.executable, "-c", program],
        env=user.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.wait(30) == 42


@pytest.mark.parametrize("kind", ["plain", "with_scripts"])
def test_death_by_a_signal_is_seen_as_such(user: User, kind: str, request: pytest.FixtureRequest) -> None:
    prefix: Path = request.getfixturevalue(kind)
    assert user.envforge("run", "--prefix", str(prefix), "sh", "-c", "kill -9 $$").returncode == -signal.SIGKILL


def test_a_closed_pipe_ends_the_command_quietly(user: User, plain: Path) -> None:
    run = user.envforge("run", "--prefix", str(plain), "sh", "-c", "kill -PIPE $$; echo alive")
    assert (run.returncode, run.stdout) == (-signal.SIGPIPE, "")


@pytest.mark.parametrize("kind", ["plain", "with_scripts"])
def test_unknown_command_is_127_with_its_name(user: User, kind: str, request: pytest.FixtureRequest) -> None:
    prefix: Path = request.getfixturevalue(kind)
    run = user.envforge("run", "--prefix", str(prefix), "no-such-program")
    assert run.returncode == 127
    assert "error: command `no-such-program` not found in the environment or on PATH" in run.stderr


@pytest.mark.parametrize("kind", ["plain", "with_scripts"])
def test_pip_and_python_of_another_environment_are_named(
    user: User, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    prefix: Path = request.getfixturevalue(kind)
    for name in ("python", "python3", "pip", "pip3.12"):
        (tmp_path / "outer").mkdir(exist_ok=True)
        (tmp_path / "outer" / name).write_text("#!/bin/sh\necho ran outer\n")
        (tmp_path / "outer" / name).chmod(0o755)
    env = {"PATH": f"{tmp_path / 'outer'}:{os.environ['PATH']}"}
    for name in ("pip", "pip3.12"):
        done = user.envforge("run", "--prefix", str(prefix), name, "install", "x", env=env)
        assert (done.returncode, done.stdout) == (127, "")
        assert f"the environment `{prefix}` contains no `{name}`, and `{tmp_path}/outer/{name}` would" in done.stderr
        assert "run `envforge add pip && envforge install --prefix " in done.stderr
    done = user.envforge("run", "--prefix", str(prefix), "python3", "-c", "1", env=env)
    assert done.stdout == "ran outer\n"
    assert f"the environment `{prefix}` contains no `python3`; running `{tmp_path}/outer/python3`" in done.stderr


def test_file_that_is_no_program_is_126(user: User, plain: Path) -> None:
    text = plain / "bin" / "text"
    text.write_text("hello\n")
    text.chmod(0o755)
    run = user.envforge("run", "--prefix", str(plain), "text")
    assert (run.returncode, run.stderr) == (126, f"error: cannot start `{text}`: the file has no `#!` line\n")


def test_no_shell_is_needed_without_scripts(user: User, plain: Path, tmp_path: Path) -> None:
    (plain / "bin" / "python").symlink_to(sys.executable)
    env = user.environment(PATH=str(tmp_path))
    run = user.envforge("run", "--prefix", str(plain), "python", "-c", "print('at work')", env=env)
    assert (run.returncode, run.stdout) == (0, "at work\n")


def test_scripts_work_in_sh_where_there_is_no_bash(user: User, with_scripts: Path, tmp_path: Path) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "sh").symlink_to("/bin/dash" if Path("/bin/dash").exists() else "/bin/sh")
    env = user.environment(PATH=str(tmp_path / "tools"))
    run = user.envforge("run", "--prefix", str(with_scripts), "sh", "-c", 'echo "$ENTERED"; exit 5', env=env)
    assert (run.returncode, run.stdout) == (5, "salve\n")


def test_damaged_variables_are_named_with_file_and_place(user: User, plain: Path) -> None:
    state = plain / "conda-meta" / "state"
    state.write_text('{"env_vars": {"GOOD": "yes", "BAD NAME": "x"}}')
    run = user.envforge("run", "--prefix", str(plain), "hello")
    assert run.returncode == 1
    assert f"`{state}` at `env_vars.BAD NAME`: expected the name of a variable" in run.stderr
