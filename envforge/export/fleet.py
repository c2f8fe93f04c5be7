"""Write jobs that verify a fleet: Slurm, SkyPilot, and Kubernetes.

The all-reduce is the program that ``verify train`` runs on one machine. It needs only torch and is written next to the
job. The nodes find each other by torchrun's rendezvous.
"""

from __future__ import annotations

import shlex
from importlib.resources import files

from msgspec import Struct

from envforge.base.distribution import python_image
from envforge.export.source import Exported, LockSource, header
from envforge.lock.needs import requirements_of
from envforge.pytorch.matrix import load_matrix

PROGRAM = "envforge-all-reduce.py"
# the default of torch.distributed
PORT = 29500


class NodeNeeds(Struct, frozen=True, kw_only=True):
    """Requirements of the lockfile for the nodes: whether they need a GPU, and a description."""

    has_gpu: bool
    words: str

    @property
    def backend(self) -> str:
        """Backend of torch.distributed."""
        return "nccl" if self.has_gpu else "gloo"


def needs_of(source: LockSource) -> NodeNeeds:
    """Return the requirements of the lockfile's first Linux platform, because clusters run Linux."""
    platforms = [plan.platform for plan in source.plans]
    platform = next((name for name in platforms if name.startswith("linux-")), platforms[0])
    found = requirements_of(source.lockfile, platform, load_matrix())
    return NodeNeeds(has_gpu=bool(found.driver_direct or found.driver_minor_compatible), words=found.words)


def program() -> str:
    """Return the source of the all-reduce."""
    return (files("envforge") / "programs" / "envforge_measures" / "collective.py").read_text("utf-8")


def head_comments(source: LockSource, needs: NodeNeeds, *lines: str) -> str:
    """Return the comment at the top of a job."""
    return header(
        source,
        "Each node verifies itself, all nodes run an all-reduce over the network, and the reports are compared.",
        *lines,
        f"Keep {PROGRAM} next to this file. Each node requires: {needs.words}.",
    )


def all_reduce(needs: NodeNeeds, prefix: str) -> str:
    """Return the command for each node; it uses the shell variables nodes, gpus, run, rank, head, and address.

    ``address`` is where other nodes reach this one. Without it, torchrun uses a host name that they may not resolve.
    """
    return (
        f"envforge run{prefix} python -m torch.distributed.run \\\n"
        '  --nnodes "$nodes" --nproc-per-node "$gpus" --rdzv-id "$run" --rdzv-backend c10d \\\n'
        f'  --rdzv-endpoint "$head:{PORT}" --rdzv-conf "is_host=$((rank == 0))" \\\n'
        f'  --local-addr "$address" {PROGRAM} {needs.backend}'
    )


def node_script(needs: NodeNeeds, prefix: str = "") -> str:
    """Return the script for each node, which also uses the shell variables node and results.

    Its exit code is 0 only if all steps succeeded.
    """
    return f"""\
mkdir -p "$results"
envforge verify{prefix} --json > "$results/$node.json"
verified=$?
# the rendezvous waits for all nodes, so all reports exist after it
{all_reduce(needs, prefix)}
added=$?
compared=0
if [ "$rank" = 0 ] && [ "$nodes" -gt 1 ]; then
  envforge compare "$results"/*.json --html "$results/compare.html"
  compared=$?
fi
exit $((verified || added || compared))
"""


def indented(text: str, spaces: int) -> str:
    """Return the text as a YAML block."""
    return "".join(f"{' ' * spaces}{line}\n" if line else "\n" for line in text.splitlines())


def kubernetes(source: LockSource) -> Exported:
    """Return the YAML of the job and the service, and the all-reduce program."""
    needs = needs_of(source)
    head = head_comments(
        source,
        needs,
        "    kubectl apply -f verify.k8s.yaml",
        "The claim `envforge-project` (ReadWriteMany) contains the project with this lockfile and the program.",
        "To use another number of nodes, change completions, parallelism, and the variable nodes.",
    )
    limits = '          resources:\n            limits:\n              nvidia.com/gpu: "1"\n' if needs.has_gpu else ""
    script = _SCRIPT.format(
        requirement=_quoted(source.requirement), lock=_quoted(source.name), node=node_script(needs, " --prefix /env")
    )
    text = _TEXT.format(port=PORT, image=python_image(source.requirement), limits=limits, script=indented(script, 14))
    return Exported(text=head + text, beside=((PROGRAM, program()),))


def _quoted(value: str) -> str:
    """Quote for the shell, and double each ``$``, because Kubernetes expands ``$(NAME)`` in a command."""
    return shlex.quote(value).replace("$", "$$")


_SCRIPT = """\
set -eu
pip install --quiet {requirement}
# verify reports whether this machine meets the requirements, so the install ignores them
envforge install {lock} --prefix /env --ignore-machine
set +e
rank=$JOB_COMPLETION_INDEX gpus=1
head=envforge-verify-0.envforge-verify address=envforge-verify-$rank.envforge-verify
node="$NODE_NAME-$rank" results="envforge-verify-$run"
{node}"""

_TEXT = """\
apiVersion: v1
kind: Service
metadata:
  name: envforge-verify
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    app: envforge-verify
  ports:
    - name: rendezvous
      port: {port}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: envforge-verify
spec:
  completionMode: Indexed
  completions: 2
  parallelism: 2
  backoffLimit: 0
  template:
    metadata:
      labels:
        app: envforge-verify
    spec:
      subdomain: envforge-verify
      restartPolicy: Never
      affinity:
        podAntiAffinity:
          requiredDuringSchedulingIgnoredDuringExecution:
            - labelSelector:
                matchLabels:
                  app: envforge-verify
              topologyKey: kubernetes.io/hostname
      containers:
        - name: verify
          image: {image}
          workingDir: /project
          env:
            - name: nodes
              value: "2"
            - name: run
              valueFrom:
                fieldRef:
                  fieldPath: metadata.labels['batch.kubernetes.io/controller-uid']
            - name: NODE_NAME
              valueFrom:
                fieldRef:
                  fieldPath: spec.nodeName
{limits}          volumeMounts:
            - name: project
              mountPath: /project
            - name: shared-memory
              mountPath: /dev/shm
          command:
            - bash
            - -c
            - |
{script}      volumes:
        - name: project
          persistentVolumeClaim:
            claimName: envforge-project
        - name: shared-memory
          emptyDir:
            medium: Memory
"""


def skypilot(source: LockSource) -> Exported:
    """Return the YAML of the task, and the all-reduce program."""
    needs = needs_of(source)
    gpus = "--gpus A10G:1 " if needs.has_gpu else ""
    head = head_comments(
        source,
        needs,
        f"    sky launch {gpus}--num-nodes 4 --env RESULTS_BUCKET=NAME verify.sky.yaml",
        "NAME is a bucket for the reports.",
    )
    count = "${SKYPILOT_NUM_GPUS_PER_NODE:-1}" if needs.has_gpu else "1"
    text = _SKYPILOT_TEXT.format(
        setup=indented(_SETUP.format(requirement=shlex.quote(source.requirement), lock=shlex.quote(source.name)), 2),
        count=f"gpus={count}",
        node=indented(node_script(needs), 2),
    )
    return Exported(text=head + text, beside=((PROGRAM, program()),))


_SETUP = """\
set -e
pip install {requirement}
# verify reports whether this machine meets the requirements, so the install ignores them
envforge install {lock} --ignore-machine
"""

_SKYPILOT_TEXT = """\
name: envforge-verify
num_nodes: 2
workdir: .

envs:
  RESULTS_BUCKET: null

file_mounts:
  /results:
    name: ${{RESULTS_BUCKET}}
    mode: MOUNT

setup: |
{setup}
run: |
  set -u
  rank=$SKYPILOT_NODE_RANK nodes=$SKYPILOT_NUM_NODES
  {count}
  run=${{SKYPILOT_TASK_ID##*/}}
  head=$(printf '%s\\n' "$SKYPILOT_NODE_IPS" | head -n 1)
  address=$(printf '%s\\n' "$SKYPILOT_NODE_IPS" | sed -n "$((rank + 1))p")
  node="node-$rank" results="/results/$run"
{node}"""


def slurm(source: LockSource) -> Exported:
    """Return the script for ``sbatch``, and the all-reduce program."""
    needs = needs_of(source)
    head = head_comments(
        source,
        needs,
        "    envforge install                     once, on a file system that all nodes share",
        "    sbatch --nodes 4 verify.sbatch       in the project directory",
    )
    gpus = "#SBATCH --gpus-per-node=1\n" if needs.has_gpu else ""
    count = "${SLURM_GPUS_ON_NODE:-1}" if needs.has_gpu else "1"
    text = _SLURM_TEXT.format(gpus=gpus, count=count, all_reduce=all_reduce(needs, ""))
    return Exported(text=f"#!/bin/bash\n{head}{text}", beside=((PROGRAM, program()),))


_SLURM_TEXT = """\
#SBATCH --job-name=envforge-verify
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
{gpus}#SBATCH --exclusive
#SBATCH --time=00:30:00
#SBATCH --output=envforge-verify-%j.log

set -u
export results="envforge-verify-$SLURM_JOB_ID" run="$SLURM_JOB_ID" nodes="$SLURM_JOB_NUM_NODES"
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export head
mkdir -p "$results"

# shellcheck disable=SC2016 # the nodes expand these
srun --ntasks="$nodes" --ntasks-per-node=1 --kill-on-bad-exit=0 bash -c \\
  'envforge verify --json > "$results/$SLURMD_NODENAME.json"'
verified=$?

# shellcheck disable=SC2016
srun --ntasks="$nodes" --ntasks-per-node=1 bash -c '
rank=$SLURM_NODEID gpus={count} address=$SLURMD_NODENAME
{all_reduce}
'
added=$?

compared=0
if [ "$nodes" -gt 1 ]; then
  envforge compare "$results"/*.json --html "$results/compare.html"
  compared=$?
fi
exit $((verified || added || compared))
"""
