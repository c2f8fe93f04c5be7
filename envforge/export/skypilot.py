"""Export for SkyPilot: a task for any of its clouds. The nodes write their reports to a bucket that SkyPilot mounts."""

from __future__ import annotations

import shlex

from envforge.export.fleet import PROGRAM, indented, needs_of, node_script, program, remarks
from envforge.export.source import Exported, Source


def skypilot(source: Source) -> Exported:
    """Return the YAML of the task, and the all-reduce program."""
    needs = needs_of(source)
    gpus = "--gpus A10G:1 " if needs.has_gpu else ""
    head = remarks(
        source,
        needs,
        f"    sky launch {gpus}--num-nodes 4 --env RESULTS_BUCKET=NAME verify.sky.yaml",
        "NAME is a bucket for the reports.",
    )
    count = "${SKYPILOT_NUM_GPUS_PER_NODE:-1}" if needs.has_gpu else "1"
    text = _TEXT.format(
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

_TEXT = """\
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
