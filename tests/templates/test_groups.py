"""Test the shared file groups: they render in every template, and their readers accept the files."""

from __future__ import annotations

import ast
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from envforge.base.data_files import templates_root
from envforge.base.distribution import pinned_requirement
from envforge.export import FORMATS
from envforge.export.source import read_source
from envforge.lock.environment_spec import EnvironmentTexts
from envforge.project.plan import Project, plan_project
from envforge.project.questions import gather_answers
from envforge.project.templates import list_templates, load_template, read_common_groups
from envforge.pytorch.matrix import Selection
from tests.export.locks import PYTHON, lock
from tests.project import builds
from tests.support.scripts import shebang

assert sys.platform != "win32"

TEMPLATES = list_templates(templates_root())
GROUPS = tuple(group.name for group in read_common_groups(templates_root() / "common"))
PLATFORMS = (builds.CPU_LINUX, builds.CU118, builds.CPU_MAC, builds.CU118_WINDOWS, builds.NEW_ARM)
PACKAGES_ONLY = ["tensorboard", "wandb", "onnx"]  # groups without files
BASH = pytest.mark.skipif(os.name == "nt" or shutil.which("bash") is None, reason="there is no bash")


def rendered(
    template: str, groups: Iterable[str], selections: tuple[Selection, ...] = (builds.CPU_LINUX,), name: str = "digits"
) -> dict[str, str]:
    loaded = load_template(templates_root(), template)
    project = Project(
        template=loaded,
        name=name,
        package=name.lower().replace("-", "_"),
        answers=gather_answers(loaded.questions, (), None),
        selections=selections,
        texts=EnvironmentTexts(environment="", virtual_packages=""),
        groups=tuple(groups),
    )
    return {str(file.path): file.content.decode() for file in plan_project(project, None)}


def added(template: str, groups: Iterable[str], *selections: Selection, name: str = "digits") -> dict[str, str]:
    """The files that a project has on top with these groups."""
    selections = selections or (builds.CPU_LINUX,)
    without = rendered(template, (), selections, name)
    both = rendered(template, groups, selections, name)
    return {path: text for path, text in both.items() if path not in without}


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def read_all(files: dict[str, str]) -> dict[str, Any]:
    """Whatever is JSON or YAML, parsed."""
    parsed: dict[str, Any] = {}
    for name, text in files.items():
        if name.endswith((".json", ".ipynb")):
            parsed[name] = json.loads(text)
        elif name.endswith((".yml", ".yaml")):
            parsed[name] = yaml.safe_load(text)
    return parsed


@pytest.mark.parametrize("template", TEMPLATES)
def test_every_group_and_every_pair_gives_the_files_of_its_groups_and_they_parse(template: str) -> None:
    alone = {group: added(template, [group]) for group in GROUPS}
    assert [group for group, files in alone.items() if not files] == PACKAGES_ONLY
    for pair in itertools.combinations(GROUPS, 2):
        assert added(template, pair) == alone[pair[0]] | alone[pair[1]]
    for files in alone.values():
        read_all(files)


@pytest.mark.parametrize("template", TEMPLATES)
def test_groups_change_no_module(template: str) -> None:
    """So that what the linter and the type checker say of a project holds with any groups."""
    bare, full = ({k: v for k, v in rendered(template, groups).items() if k.endswith(".py")} for groups in ((), GROUPS))
    assert len(bare) > 20
    assert bare == {path: full[path] for path in bare}


@pytest.mark.parametrize("template", TEMPLATES)
def test_nobody_who_does_not_ask_gets_a_group_or_another_environment(template: str) -> None:
    loaded = load_template(templates_root(), template)
    assert set(loaded.default_groups({})).isdisjoint(GROUPS)
    adding = [group.name for group in loaded.groups if group.conda]
    assert adding == ["notebook", *PACKAGES_ONLY]
    assert "ipykernel" in loaded.needs_with(["notebook"]).conda


@pytest.mark.parametrize("selection", PLATFORMS, ids=lambda selection: selection.build.platform)
def test_names_and_paths_are_those_of_the_project(selection: Selection) -> None:
    ours = added(TEMPLATES[0], GROUPS, selection, name="Ada-Net_2")
    other = added(TEMPLATES[0], GROUPS, selection, name="brook")
    read_all(ours)
    renamed = {
        path: text.replace("Ada-Net_2", "brook").replace("ada_net_2", "brook").replace("ada-net-2", "brook")
        for path, text in ours.items()
    }
    moved = {path.replace("ada_net_2", "brook"): text for path, text in renamed.items()}
    assert {path: text.replace("ada-net_2", "brook") for path, text in moved.items()} == other
    assert [path for path, text in ours.items() if "{%" in text or "{{" in text.replace("${{", "")] == []
    python = ".conda/python.exe" if selection.build.platform == "win-64" else ".conda/bin/python"
    assert json.loads(ours[".vscode/settings.json"])["python.defaultInterpreterPath"].endswith(python)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_project_with_all_groups_is_formatted_and_passes_its_own_linter(template: str, tmp_path: Path) -> None:
    write(tmp_path, rendered(template, GROUPS))
    for arguments in (["format", "--check", "."], ["check", "."]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def cells(files: dict[str, str]) -> list[str]:
    """The code cells of the notebook, without lines that are for Jupyter alone."""
    notebook = json.loads(files["explore.ipynb"])
    code = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["\n".join(line for line in text.splitlines() if not line.startswith("%")) for text in code]


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_notebook_is_valid(template: str) -> None:
    files = added(template, ["notebook"])
    notebook = json.loads(files["explore.ipynb"])
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in notebook["cells"]}) == len(notebook["cells"]) > 5
    assert all(cell["outputs"] == [] for cell in notebook["cells"] if cell["cell_type"] == "code")
    for code in cells(files):
        ast.parse(code)
    if importlib.util.find_spec("nbformat"):
        import nbformat  # type: ignore[import-untyped, import-not-found, unused-ignore]

        nbformat.validate(notebook)


RUN_CELLS = """
import builtins, json, sys, types, warnings
import torch
warnings.filterwarnings("ignore", message=".*non-interactive.*")
torch.set_num_threads(1)
shown = []
builtins.display = shown.append                      # Jupyter's own, and its module, where there is no Jupyter
module = types.ModuleType("IPython.display")
module.Image = lambda filename: open(filename, "rb").read()
sys.modules["IPython.display"] = module
space = {"__name__": "__main__"}
for cell in json.load(sys.stdin):
    exec(compile(cell, "explore.ipynb", "exec"), space)
losses = space["losses"]
report = {"first": losses[0], "last": sum(losses[-5:]) / 5, "count": len(losses), "pictures": len(shown)}
print("REPORT" + json.dumps({**report, "shows": space["task"].show is not None}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_notebook_runs_and_its_few_updates_lower_the_loss(template: str, tmp_path: Path) -> None:
    for module in ("torch", "matplotlib", "sklearn", "skimage") if template == "segmentation" else ("torch", "sklearn"):
        pytest.importorskip(module)
    files = rendered(template, ["notebook"])
    write(tmp_path, files)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", RUN_CELLS],
        cwd=tmp_path,
        input=json.dumps(cells(files)),
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout.split("REPORT")[1])
    assert 10 <= report["count"] <= 30  # one epoch at most
    assert report["last"] < report["first"]
    assert report["pictures"] or template == "language-model"  # that one shows samples of text


def test_image_has_the_stage_of_export_dockerfile() -> None:
    """Only the build stage differs: a project doesn't need envforge."""
    lockfile = lock(PYTHON)
    exported = FORMATS["dockerfile"].render(read_source(lockfile, Path("conda-lock.yml"), lockfile.platforms)).text
    ours = added(TEMPLATES[0], ["docker"])["Dockerfile"].replace(" AS environment", "")
    stage = exported[exported.rindex("\nFROM ") :].splitlines()
    assert len(stage) > 6
    assert [line for line in stage if line not in ours.splitlines()] == ['CMD ["python"]']


@pytest.mark.parametrize("selection", PLATFORMS, ids=lambda selection: selection.build.platform)
def test_files_build_the_environment_without_envforge(selection: Selection) -> None:
    files = added(TEMPLATES[0], GROUPS, selection)
    for path in ("Dockerfile", ".github/workflows/test.yml", "skypilot.yaml"):
        active = re.sub("(?m)^ *#.*$", "", files[path])
        assert re.search(r"micromamba create --yes --prefix \S+ --file \S*(conda-lock.yml|\"\$lockfile\")", active)
        assert "envforge" not in active
        assert pinned_requirement() in files[path]  # a comment shows how to do the same with envforge


def test_a_project_without_a_lock_for_linux_says_so_in_its_dockerfile() -> None:
    words = "envforge lock -p linux-64"
    assert words in added(TEMPLATES[0], ["docker"], builds.CPU_MAC)["Dockerfile"]
    assert words not in added(TEMPLATES[0], ["docker"], builds.CPU_MAC, builds.CU118)["Dockerfile"]


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
@pytest.mark.parametrize("selection", PLATFORMS, ids=lambda selection: selection.build.platform)
def test_the_dockerfile_passes_hadolint(selection: Selection, tmp_path: Path) -> None:
    write(tmp_path, added(TEMPLATES[0], ["docker"], selection))
    done = subprocess.run(["hadolint", "Dockerfile"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_container_to_develop_in_has_the_environment_and_needs_no_gpu() -> None:
    files = added(TEMPLATES[0], ["devcontainer"])
    container = json.loads(files[".devcontainer/devcontainer.json"])
    assert container["hostRequirements"] == {"gpu": "optional"}
    assert f" AS {container['build']['target']}\n" in files["Dockerfile"]


def scripts(selection: Selection) -> dict[str, str]:
    """Every shell script of the groups, also those inside YAML."""
    files = added(TEMPLATES[0], GROUPS, selection)
    task = yaml.safe_load(files["skypilot.yaml"])
    steps = yaml.safe_load(files[".github/workflows/test.yml"])["jobs"]["test"]["steps"]
    return {
        "sbatch": files["train.sbatch"],
        "setup": "#!/bin/bash\n" + task["setup"],
        "run": "#!/bin/bash\n" + task["run"],
        "steps": "#!/bin/bash\n" + "\n".join(step["run"] for step in steps if "run" in step) + "\n",
    }


@BASH
@pytest.mark.parametrize("selection", PLATFORMS, ids=lambda selection: selection.build.platform)
def test_every_script_is_sound(selection: Selection, tmp_path: Path) -> None:
    checkers = [["bash", "-n"]]
    if shutil.which("shellcheck"):
        checkers.append(["shellcheck", "--exclude=SC2046"])  # words of $(…) in a workflow are meant to be split
    for name, text in scripts(selection).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        for checker in checkers:
            done = subprocess.run([*checker, name], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stdout + done.stderr


SLURM = {
    "bin/srun": """\
        #!/bin/bash
        while [[ $1 == --* ]]; do shift; done
        echo $$ > step.pid
        exec "$@"
        """,
    "bin/scancel": """\
        #!/bin/bash
        [[ $2 == 7.0 ]] && kill -s "${1#--signal=}" "$(cat step.pid)"
        """,
    "bin/scontrol": """\
        #!/bin/bash
        if [[ $1 == show ]]; then printf '%s\\n' n1 n2; exit; fi
        kill -0 "$(cat step.pid)" 2> step.gone && echo "while the training still runs:" >> scontrol.log
        echo "$*" >> scontrol.log
        """,
    ".conda/bin/python": """\
        #!PYTHON
        import os, pathlib, signal, sys
        def save(*_):
            pathlib.Path("saved").touch()
            sys.exit(1)                               # as torchrun ends when it was told to
        signal.signal(signal.SIGTERM, save)
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
        pathlib.Path("arguments").write_text("\\n".join(sys.argv[1:]))
        print("training", flush=True)
        if "END" in os.environ:
            sys.exit(int(os.environ["END"]))
        signal.pause()
        """,
}


def start_job(folder: Path, **environment: str) -> subprocess.Popen[str]:
    """The batch script as Slurm starts it, with stand-ins for Slurm's commands and for torchrun."""
    write(folder, added(TEMPLATES[0], ["slurm"]))
    write(
        folder,
        {name: textwrap.dedent(text).replace("#!PYTHON\n", shebang(sys.executable)) for name, text in SLURM.items()},
    )
    for name in SLURM:
        (folder / name).chmod(0o755)
    variables = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "4", "SLURM_JOB_NODELIST": "n"}
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return subprocess.Popen(
        ["bash", "train.sbatch", "--epochs", "3"],
        cwd=folder,
        env={**os.environ, **variables, "PATH": path, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@BASH
def test_a_job_whose_time_is_over_saves_and_is_queued_again(tmp_path: Path) -> None:
    with start_job(tmp_path) as job:
        assert job.stdout is not None
        assert job.stdout.readline() == "training\n"
        job.send_signal(signal.SIGUSR1)
        errors = job.communicate(timeout=60)[1]
    assert job.returncode == 0, errors
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "scontrol.log").read_text() == "requeue 7\n"


@BASH
@pytest.mark.parametrize("code", [0, 3])
def test_a_job_that_ends_by_itself_is_not_queued_again(tmp_path: Path, code: int) -> None:
    with start_job(tmp_path, END=str(code)) as job:
        job.communicate(timeout=60)
    assert job.returncode == code
    assert not (tmp_path / "scontrol.log").exists()


@BASH
def test_a_job_trains_on_all_nodes_and_resumes_in_a_folder_of_its_own(tmp_path: Path) -> None:
    with start_job(tmp_path, END="0") as job:
        job.communicate(timeout=60)
    arguments = (tmp_path / "arguments").read_text().splitlines()
    assert arguments[:4] == ["-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=4"]
    assert "--rdzv-endpoint=n1:20007" in arguments
    assert arguments[-7:] == ["--module", "digits.train", "--run-dir", "runs/7", "--resume", "--epochs", "3"]


@BASH
def test_a_job_without_an_environment_says_how_to_get_one(tmp_path: Path) -> None:
    with start_job(tmp_path, SLURM_SUBMIT_DIR=str(tmp_path / "bin")) as job:
        errors = job.communicate(timeout=60)[1]
    assert job.returncode == 1
    assert "hint: to install the environment, run `micromamba create --prefix .conda --file conda-lock.yml`" in errors
