"""Workflows, hooks, and metadata of this repository are valid, agree with each other, and contain one URL."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from envforge.base import toml
from envforge.cli import main
from tests.community.workflows import ACTION, ROOT, WORKFLOWS, read, steps
from tests.support.commands import check_command

PROJECT = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
GROUPS = toml.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["dependency-groups"]
HOOKS = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
FORMS = tuple(sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml")))
PROGRAMS = Path(sys.executable).parent

each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def run(words: Sequence[str | Path], folder: Path = ROOT, text: str | None = None) -> None:
    """Run a program of this environment; fail with its output unless it exits with 0."""
    program = shutil.which(str(words[0]), path=PROGRAMS) or str(words[0])
    done = subprocess.run(
        [program, *words[1:]], cwd=folder, input=text, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the repository that match, or skip outside a checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_repo_review_has_no_findings() -> None:
    run(["repo-review", "."])


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("github-workflows", WORKFLOWS),
        ("github-actions", (ACTION,)),
        ("github-issue-forms", FORMS),
        ("github-issue-config", (ROOT / ".github" / "ISSUE_TEMPLATE" / "config.yml",)),
        ("dependabot", (ROOT / ".github" / "dependabot.yml",)),
    ],
)
def test_github_files_match_their_schema(schema: str, files: tuple[Path, ...]) -> None:
    assert files
    run(["check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files])


def test_zizmor_finds_nothing_in_workflows_and_action() -> None:
    run(["zizmor", "--offline", "--no-progress", "--quiet", ACTION, ROOT / ".github"])


def test_actionlint_finds_nothing_in_workflows() -> None:
    if shutil.which("actionlint") is None:
        pytest.skip("actionlint is not installed; pre-commit runs it in CI")
    run(["actionlint", *WORKFLOWS])


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.stem)
def test_shellcheck_finds_nothing_in_the_steps(path: Path) -> None:
    for each in steps(path):
        if "run" in each:
            # GitHub sets the options of `bash -eo pipefail`, and the variables of `env`
            names = [*each.get("env", {}), "GITHUB_OUTPUT", "GITHUB_PATH", "GITHUB_STEP_SUMMARY"]
            lines = ["set -eo pipefail", f"export {' '.join(names)}", each["run"]]
            run(["shellcheck", "--shell", "bash", "--exclude", "SC2269", "-"], text="\n".join(lines))


def test_workflow_of_a_rendered_project_matches_its_schema(tmp_path: Path) -> None:
    options = ["--cuda", "cpu", "--platform", "linux-64", "--no-lock", "--with", "github"]
    assert main(["new", "tabular", str(tmp_path / "digits"), *options]) == 0
    files = sorted((tmp_path / "digits" / ".github" / "workflows").glob("*.yml"))
    assert files
    run(["check-jsonschema", "--builtin-schema", "vendor.github-workflows", *files])


@each_workflow
def test_workflow_grants_permissions_job_by_job(path: Path) -> None:
    document = read(path)
    assert document["permissions"] == {}
    assert "group" in document["concurrency"]
    for job in document["jobs"].values():
        assert job["permissions"], "a job without permissions reads nothing, not even the repository"
        assert job["timeout-minutes"] <= 240


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.stem)
def test_step_never_puts_an_expression_into_a_script(path: Path) -> None:
    assert [each["run"] for each in steps(path) if "${{" in each.get("run", "")] == []


def test_actions_are_pinned_to_one_commit_each() -> None:
    pinned: dict[str, set[str]] = {}
    for path in WORKFLOWS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if (found := re.search(r"uses: (?!\./)(\S+)", line)) is not None:
                assert re.search(r"@[0-9a-f]{40} # v\d+(\.\d+)*$", line), line
                pinned.setdefault(found[1].split("@")[0], set()).add(found[1])
    assert len(pinned) > 5
    assert [name for name, revisions in pinned.items() if len(revisions) > 1] == []


def test_checkout_keeps_no_credentials() -> None:
    checkouts = [each for path in WORKFLOWS for each in steps(path) if "actions/checkout" in each.get("uses", "")]
    assert checkouts
    assert all(each["with"]["persist-credentials"] is False for each in checkouts)


def test_gpu_runner_never_runs_pull_requests() -> None:
    (gpu,) = (read(path) for path in WORKFLOWS if path.stem == "gpu")
    assert set(gpu[True]) == {"push", "schedule", "workflow_dispatch"}


def test_release_uses_trusted_publishing() -> None:
    (path,) = (path for path in WORKFLOWS if path.stem == "release")
    publish = read(path)["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == {"name": "pypi"}
    assert "secrets." not in path.read_text(encoding="utf-8")


def test_python_versions_agree() -> None:
    classified = [found[1] for c in PROJECT["classifiers"] if (found := re.search(r":: Python :: (3\.\d+)$", c))]
    (tests,) = (read(path) for path in WORKFLOWS if path.stem == "tests")
    assert tests["jobs"]["linux"]["strategy"]["matrix"]["python"] == classified
    assert f">={classified[0]}" == PROJECT["requires-python"]


def test_versions_of_linters_agree_with_pre_commit() -> None:
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert all(re.fullmatch(r"v?\d[\w.]*", repository["rev"]) for repository in config["repos"])


def test_dependency_groups_repeat_no_list() -> None:
    extras = PROJECT["optional-dependencies"]
    for name, group in GROUPS.items():
        assert group == [f"{PROJECT['name']}[{name}]"]
        assert name in extras


@pytest.mark.parametrize("hook", HOOKS, ids=lambda hook: str(hook["id"]))
def test_hook_runs_a_command_that_parses(hook: dict[str, Any]) -> None:
    check_command(" ".join([hook["entry"], *hook.get("args", [])]))
    assert hook["language"] == "python"
    assert hook["pass_filenames"] is False


def test_hooks_are_those_of_the_docs() -> None:
    assert [hook["id"] for hook in HOOKS] == ["envforge-lock-check", "envforge-audit"]
    pattern = HOOKS[0]["files"]
    assert all(re.search(pattern, name) for name in ("environment.yml", "virtual-packages.yml", "conda-lock.yml"))
    assert re.search(pattern, "docs/environment.yml") is None


def test_lock_check_hook_fails_after_a_change(tmp_path: Path) -> None:
    project = tmp_path / "digits"
    assert main(["new", "tabular", str(project), "--cuda", "cpu", "--platform", "linux-64"]) == 0
    words = HOOKS[0]["entry"].split()
    run(words, project)
    environment = project / "environment.yml"
    text = environment.read_text(encoding="utf-8")
    environment.write_text(text.replace('  - "jinja2"\n', '  - "jinja2"\n  - zstd\n'), encoding="utf-8")
    with pytest.raises(AssertionError, match=r"environment\.yml"):
        run(words, project)


def test_addresses_name_this_project() -> None:
    home = PROJECT["urls"]["Homepage"]
    owner, name = home.removeprefix("https://github.com/").split("/")
    ours = {f"{owner}/{name}@", f"github.com/{owner}/{name}"}
    pattern = re.compile(r"(?<![\w./-])[\w-]+/envforge(?:-torch)?@|github\.com/[\w-]+/envforge[\w-]*")
    assert all(url.startswith((home, f"https://{owner}.github.io/{name}/")) for url in PROJECT["urls"].values())
    strangers = {
        (path.relative_to(ROOT).as_posix(), found)
        for path in tracked("*.md", "*.yml", "*.yaml", "*.jinja", "*.toml", "*.py")
        for found in pattern.findall(text_of(path))
        if not path.is_relative_to(ROOT / "tests") and found not in ours
    }
    assert strangers == set()


def text_of(path: Path) -> str:
    """Return the text of a file."""
    return path.read_text(encoding="utf-8", errors="replace")


def test_file_names_in_contributing_exist() -> None:
    text = text_of(ROOT / "CONTRIBUTING.md")
    names = set(re.findall(r"`((?:[\w.-]+/)+[\w.-]*)`", text))
    assert len(names) > 15
    assert [name for name in sorted(names) if not (ROOT / name).exists()] == []
