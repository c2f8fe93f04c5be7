"""Every command reports what a killed command left incomplete, and stops if its own result would outlive it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from envforge.cli import COMMANDS
from envforge.lock.project import is_unfinished
from envforge.prefix.journal import read_journal, write_journal
from tests.prefix.use.conftest import hello, install
from tests.prefix.use.support import ROOT, User

CHANGED = "and its lockfile is incomplete; to complete it, run `envforge lock`"
ENVIRONMENT = "channels: [conda-forge]\ndependencies: [hello]\n"
LEAVES_SOMETHING = {
    "install": ("install",),
    "bundle": ("bundle",),
    "export": ("export", "explicit"),
    "update": ("update", "--check"),
    "lockfiles": ("lockfiles", "publish", "--catalogue", "locks"),
    "lockfiles pull": ("lockfiles", "pull", "some/lock", "--catalogue", "locks"),
}
USES = {
    "run": ("run", "hello"),
    "shell": ("shell", "--print", "--shell", "bash"),
    "kernel": ("kernel",),
    "audit": ("audit",),
    "diff": ("diff", "conda-lock.yml"),
}
SHOWS = {"info": ("info",)}
FINDS = {"verify": ("verify", "env")}
COMPLETES = {"lock": ("lock", "--check"), "add": ("add", "hello"), "remove": ("remove", "nothing")}
NEITHER = {
    "detect",
    "explain",
    "new",
    "templates",
    "compare",
    "clean",
    "facts",
}  # no environment is meant; clean removes it

OF_THE_PREFIX = {name: words for name, words in LEAVES_SOMETHING.items() if name not in {"install", "lockfiles pull"}}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with an environment that was installed from its lock."""
    folder = tmp_path / "digits"
    install(folder, folder / ".conda", hello())
    (folder / "environment.yml").write_text(ENVIRONMENT, encoding="utf-8")
    return folder


def kill_a_change(folder: Path, moment: int) -> bool:
    """Change both files in a process that kills itself at one touch of the disk; whether the change has begun."""
    subprocess.run([sys.executable, "-m", "tests.lock.change.killed", folder, str(moment)], cwd=ROOT, check=False)
    return is_unfinished(folder / "environment.yml")


@pytest.fixture(scope="module")
def moment(tmp_path_factory: pytest.TempPathFactory) -> int:
    """The first touch of the disk after which a change has begun and no file of it is in place yet."""
    return next(n for n in range(1, 20) if kill_a_change(tmp_path_factory.mktemp("moment"), n))


@pytest.fixture
def half_changed(project: Path, moment: int) -> Path:
    """A project in which a change of environment.yml and its lock was killed once it had begun."""
    assert kill_a_change(project, moment)
    assert (project / "environment.yml").read_text(encoding="utf-8") == ENVIRONMENT
    return project


@pytest.fixture
def half_installed(project: Path) -> Path:
    """A project with an environment that lacks its wheels."""
    journal = read_journal(project / ".conda")
    assert journal is not None
    write_journal(project / ".conda", journal.at("conda done"))
    return project


def test_of_each_command_it_is_known_what_it_does() -> None:
    assert {*LEAVES_SOMETHING, *USES, *SHOWS, *FINDS, *COMPLETES, *NEITHER} - {"lockfiles pull"} == set(COMMANDS)


@pytest.mark.parametrize("words", LEAVES_SOMETHING.values(), ids=" ".join)
def test_what_outlives_the_command_is_not_made_of_a_half_done_change(
    user: User, half_changed: Path, words: tuple[str, ...]
) -> None:
    before = sorted(half_changed.iterdir())
    run = user.envforge(*words, here=half_changed)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == (
        "error: a change of `environment.yml` and its lockfile is incomplete: an earlier command was interrupted\n\n"
        "hint: to complete it, run `envforge lock`\n"
    )
    assert sorted(half_changed.iterdir()) == before


@pytest.mark.parametrize("words", USES.values(), ids=" ".join)
def test_the_use_of_the_environment_goes_on_with_a_warning_of_a_half_done_change(
    user: User, half_changed: Path, words: tuple[str, ...]
) -> None:
    run = user.envforge(*words, here=half_changed)
    assert run.stderr.startswith("warning: a change of `")
    assert run.stderr.splitlines()[0].endswith(CHANGED)
    assert run.returncode == (1 if words == ("kernel",) else 0)


def test_info_shows_a_half_done_change(user: User, half_changed: Path) -> None:
    run = user.envforge("info", here=half_changed)
    assert CHANGED in run.stdout


def test_verify_warns_of_a_half_done_change_and_finds_an_unfinished_install(user: User, half_changed: Path) -> None:
    run = user.envforge(*FINDS["verify"], here=half_changed)
    assert CHANGED in run.stderr
    journal = read_journal(half_changed / ".conda")
    assert journal is not None
    write_journal(half_changed / ".conda", journal.at("conda done"))
    run = user.envforge(*FINDS["verify"], here=half_changed)
    assert run.returncode == 1
    assert "(last step: `conda done`)" in " ".join(run.stdout.split())


@pytest.mark.parametrize("words", COMPLETES.values(), ids=" ".join)
def test_the_commands_of_the_lock_complete_a_half_done_change(
    user: User, half_changed: Path, words: tuple[str, ...]
) -> None:
    user.envforge(*words, here=half_changed)
    assert not is_unfinished(half_changed / "environment.yml")
    assert (half_changed / "environment.yml").read_text(encoding="utf-8") == "new environment\n"


@pytest.mark.parametrize(
    "words", [*OF_THE_PREFIX.values(), *COMPLETES.values(), USES["diff"], USES["audit"], SHOWS["info"]], ids=" ".join
)
def test_each_command_says_that_the_install_is_unfinished_and_since_when(
    user: User, half_installed: Path, words: tuple[str, ...]
) -> None:
    run = user.envforge(*words, here=half_installed)
    said = run.stdout if words == ("info",) else run.stderr
    assert "(last step: `conda done`)" in said
    assert "envforge install" in said


def test_a_half_done_change_of_a_variant_names_its_own_command(user: User, half_changed: Path) -> None:
    folder = half_changed / "lockfiles" / "cpu"
    folder.mkdir(parents=True)
    for path in (*half_changed.glob(".*envforge*"), half_changed / "environment.yml", half_changed / "conda-lock.yml"):
        path.rename(folder / path.name)
    run = user.envforge("bundle", "--variant", "cpu", here=half_changed)
    assert "hint: to complete it, run `envforge lock --variant cpu`\n" in run.stderr
