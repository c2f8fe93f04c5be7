"""The steps of ``action.yml``, run as GitHub runs them; only ``gh`` is a stub."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct

from envforge.base.data_files import lockfiles_root
from envforge.cli import main
from tests.community.workflows import ACTION, ROOT, read, step

assert sys.platform != "win32"

CHECK = "Check that the lockfile is up to date"
COMPARE = "Compare the lockfile with the base branch"
COMMENT = "Comment the changes of the lockfile"
BASE = "0123abc"
GH = """#!/bin/sh
# like gh: `api …/contents/…` prints the lockfile of the base branch, `--paginate` the comment that exists
printf '%s\\n' "$*" >> "$STUB/calls"
case "$*" in
  *contents/*) cat "$STUB/base.yml" 2> /dev/null || { echo 'gh: Not Found (HTTP 404)' >&2; exit 1; } ;;
  *--paginate*) cat "$STUB/comment" 2> /dev/null || true ;;
  *)
    if [ -f "$STUB/read-only" ]; then echo 'gh: Forbidden (HTTP 403)' >&2; exit 1; fi
    cp "$RUNNER_TEMP/comment.md" "$STUB/sent.md"
    ;;
esac
"""


class Runner(Struct, frozen=True, kw_only=True):
    """A runner of GitHub with one project, ``app/digits`` in a git repository."""

    folder: Path

    @property
    def project(self) -> Path:
        """The directory that the action checks."""
        return self.folder / "repository" / "app" / "digits"

    @property
    def stub(self) -> Path:
        """What ``gh`` reads and writes."""
        return self.folder / "stub"

    def run(self, name: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run one step."""
        found = step(ACTION, name)
        script = self.folder / "step.sh"
        script.write_text(found["run"], encoding="utf-8")
        inside = "working-directory" in found
        temporary = self.folder / "runner"
        search = [str(temporary / "envforge-bin"), str(self.stub), str(Path(sys.executable).parent), os.environ["PATH"]]
        files = ("GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY")
        variables = {
            "PATH": os.pathsep.join(search),
            "RUNNER_TEMP": str(temporary),
            "GITHUB_REPOSITORY": "team/app",
            "STUB": str(self.stub),
            **{name: str(self.folder / name) for name in files},
            **environment,
        }
        return subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
            cwd=self.project if inside else self.folder,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )

    def compare(self) -> subprocess.CompletedProcess[str]:
        """Run the comparison."""
        return self.run(COMPARE, BASE=BASE, GH_TOKEN="t")

    def comment(self, changed: str, directory: str = "app/digits") -> subprocess.CompletedProcess[str]:
        """Run the comment."""
        return self.run(COMMENT, NUMBER="7", CHANGED=changed, DIRECTORY=directory, GH_TOKEN="t")

    def calls(self) -> str:
        """Return all calls of ``gh``."""
        return (self.stub / "calls").read_text(encoding="utf-8")


@pytest.fixture
def runner(tmp_path: Path) -> Runner:
    made = Runner(folder=tmp_path / "a runner")
    made.project.parent.mkdir(parents=True)
    made.stub.mkdir()
    (made.folder / "runner" / "envforge" / "bin").mkdir(parents=True)
    (made.folder / "runner" / "envforge" / "bin" / "python").symlink_to(sys.executable)
    (made.stub / "gh").write_text(GH, encoding="utf-8")
    (made.stub / "gh").chmod(0o755)
    assert main(["new", "image-classification", str(made.project), "--cuda", "11.8", "--platform", "linux-64"]) == 0
    subprocess.run(["git", "init", "--quiet"], cwd=made.folder / "repository", check=True)
    return made


def test_unchanged_lockfile_is_not_commented(runner: Runner) -> None:
    shutil.copy(runner.project / "conda-lock.yml", runner.stub / "base.yml")
    done = runner.compare()
    assert done.returncode == 0, done.stderr
    assert (runner.folder / "GITHUB_OUTPUT").read_text() == "changed=false\n"
    assert f"repos/team/app/contents/app/digits/conda-lock.yml?ref={BASE}" in runner.calls()
    assert runner.comment("false").returncode == 0
    assert not (runner.stub / "sent.md").exists()


def test_changed_lockfile_is_commented_once(runner: Runner) -> None:
    shutil.copy(lockfiles_root() / "image-classification" / "cu126-linux-64.conda-lock.yml", runner.stub / "base.yml")
    done = runner.compare()
    assert done.returncode == 0, done.stderr
    assert (runner.folder / "GITHUB_OUTPUT").read_text() == "changed=true\n"
    assert runner.comment("true").returncode == 0
    sent = (runner.stub / "sent.md").read_text(encoding="utf-8")
    assert sent.startswith("<!-- envforge diff: ")
    assert "torch" in sent
    assert "2.7.1+cu118" in sent
    assert sent.split("\n\n", 1)[1] == (runner.folder / "GITHUB_STEP_SUMMARY").read_text(encoding="utf-8")
    assert "--method POST repos/team/app/issues/7/comments" in runner.calls()
    (runner.stub / "comment").write_text("42\n43\n")
    assert runner.comment("false").returncode == 0
    assert "--method PATCH repos/team/app/issues/comments/42 " in runner.calls()


def test_new_lockfile_is_reported(runner: Runner) -> None:
    assert runner.compare().returncode == 0
    assert "app/digits/conda-lock.yml" in (runner.folder / "GITHUB_STEP_SUMMARY").read_text(encoding="utf-8")


def test_unreadable_lockfile_fails_the_step(runner: Runner) -> None:
    (runner.stub / "base.yml").write_text("no lockfile\n")
    done = runner.compare()
    assert done.returncode == 1
    assert "error:" in done.stderr
    assert not (runner.folder / "GITHUB_OUTPUT").exists()


def test_long_comment_is_shortened(runner: Runner) -> None:
    (runner.folder / "runner" / "diff.md").write_text("é" * 50_000, encoding="utf-8")
    assert runner.comment("true").returncode == 0
    sent = (runner.stub / "sent.md").read_text(encoding="utf-8")
    assert len(sent.encode()) < 65_000
    assert sent.endswith("The summary of the job has all changes.\n")


def test_read_only_token_is_a_warning(runner: Runner) -> None:
    (runner.folder / "runner" / "diff.md").write_text("changes\n")
    (runner.stub / "read-only").touch()
    done = runner.comment("true")
    assert done.returncode == 0
    assert done.stdout.startswith("::warning::")


def test_input_is_never_run_as_code(runner: Runner) -> None:
    (runner.folder / "runner" / "diff.md").write_text("$(touch diff-ran) `touch diff-ran`\n")
    harm = '$(touch "$RUNNER_TEMP/ran"); \'; touch "$RUNNER_TEMP/ran"'
    assert runner.comment("true", harm).returncode == 0
    assert not list(runner.folder.rglob("*ran"))


def test_check_passes_until_the_environment_changes(runner: Runner) -> None:
    assert runner.run(CHECK).returncode == 0
    environment = runner.project / "environment.yml"
    environment.write_text(
        environment.read_text(encoding="utf-8").replace('  - "jinja2"\n', '  - "jinja2"\n  - zstd\n')
    )
    assert runner.run(CHECK).returncode == 1


def test_envforge_is_installed_without_its_python_on_path(runner: Runner, tmp_path: Path) -> None:
    wheels = tmp_path / "wheels"
    build = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, str(wheels)], cwd=ROOT, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    shutil.rmtree(runner.folder / "runner")
    # its dependencies are those beside this test
    beside = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    done = runner.run(
        "Install envforge",
        REQUIREMENT="",
        ACTION_PATH=str(wheel),
        PYTHONPATH=beside,
        PIP_NO_INDEX="1",
        PIP_NO_DEPS="1",
        PIP_IGNORE_INSTALLED="1",
    )
    assert done.returncode == 0, done.stderr
    (added,) = (runner.folder / "GITHUB_PATH").read_text().splitlines()
    assert [path.name for path in Path(added).iterdir()] == ["envforge"]
    assert runner.run(CHECK, PYTHONPATH=beside).returncode == 0


def test_inputs_of_the_action_are_used() -> None:
    text = ACTION.read_text(encoding="utf-8")
    assert [name for name in read(ACTION)["inputs"] if f"inputs.{name}" not in text] == []
