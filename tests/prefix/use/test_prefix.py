"""Commands find the environment, and report one that is missing or incomplete."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from envforge.errors import EnvforgeError
from envforge.prefix.journal import lock_prefix, read_journal, write_journal
from envforge.prefix.locate import ChosenEnvironment, chosen_environment
from envforge.prefix.values import InstallStep
from tests.prefix.use.support import User


def test_missing_environment_names_the_command_that_makes_it(user: User, tmp_path: Path) -> None:
    project = tmp_path / "project"
    (project / "src").mkdir(parents=True)
    (project / "conda-lock.yml").write_text("")
    run = user.envforge("run", "python", here=project)
    assert (run.returncode, run.stderr) == (
        1, f"error: no environment found in `{project / '.conda'}`\n\nhint: to create it, run `envforge install`\n"
    )  # fmt: skip
    assert user.envforge("run", "python", here=project / "src").stderr == run.stderr


def test_condas_own_folder_at_home_is_no_environment(user: User) -> None:
    (user.home / ".conda").mkdir()
    (user.home / ".conda" / "environments.txt").write_text("")
    run = user.envforge("run", "python")
    assert run.returncode == 1
    assert "no project or environment found in" in run.stderr


@pytest.mark.parametrize("step", ["planned", "conda done", "wheels done"])
@pytest.mark.parametrize("command", [("run", "hello"), ("shell", "--print", "--shell", "bash"), ("kernel",)])
def test_unfinished_environment_is_refused_with_its_step(
    user: User, plain: Path, step: InstallStep, command: tuple[str, ...]
) -> None:
    journal = read_journal(plain)
    assert journal is not None
    write_journal(plain, journal.at(step))
    run = user.envforge(*command, here=plain.parent)
    assert (run.returncode, run.stdout) == (1, "")
    assert (
        f"the environment in `{plain}` is incomplete: an earlier command was interrupted (last step: `{step}`)"
        in run.stderr
    )
    assert run.stderr.endswith("hint: to complete it, run `envforge install`\n")


def test_environment_that_an_install_is_changing_names_the_process(user: User, plain: Path) -> None:
    journal = read_journal(plain)
    assert journal is not None
    write_journal(plain, journal.at("planned"))
    with lock_prefix(plain):
        run = user.envforge("run", "hello", here=plain.parent)
    assert run.returncode == 3
    assert "another envforge process (PID " in run.stderr


def test_folder_that_is_no_environment_is_refused(user: User, tmp_path: Path) -> None:
    run = user.envforge("run", "--prefix", str(tmp_path), "true")
    assert (run.returncode, f"`{tmp_path}` is not an environment" in run.stderr) == (1, True)


def test_environment_of_another_conda_tool_can_be_used(user: User, tmp_path: Path) -> None:
    (tmp_path / "env" / "conda-meta").mkdir(parents=True)
    assert user.envforge("run", "--prefix", str(tmp_path / "env"), "true").returncode == 0


def test_prefix_and_name_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvforgeError, match="can't be used together") as raised:
        chosen_environment(tmp_path, "name", tmp_path)
    assert raised.value.exit_code == 2


def test_label_holds_nothing_that_a_prompt_would_evaluate(tmp_path: Path) -> None:
    meant = ChosenEnvironment(prefix=tmp_path / "$(touch x) %n\\w`id`" / ".conda", option="")
    assert meant.label == "__touch x_ _n_w_id_"


def test_run_does_not_import_what_it_does_not_need() -> None:
    program = "import sys, envforge.cli.shell, envforge.prefix.activation, envforge.prefix.locate; print(*sys.modules)"
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3]
    )
    assert {"rattler", "yaml", "rich", "filelock", "platformdirs"} & set(run.stdout.split()) == set()
