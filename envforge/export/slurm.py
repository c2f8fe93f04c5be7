"""Export for Slurm: a job script. The nodes share the project directory, as on most clusters."""

from __future__ import annotations

from envforge.export.fleet import PROGRAM, all_reduce, needs_of, program, remarks
from envforge.export.source import Exported, Source


def slurm(source: Source) -> Exported:
    """Return the script for ``sbatch``, and the all-reduce program."""
    needs = needs_of(source)
    head = remarks(
        source,
        needs,
        "    envforge install                     once, on a file system that all nodes share",
        "    sbatch --nodes 4 verify.sbatch       in the project directory",
    )
    gpus = "#SBATCH --gpus-per-node=1\n" if needs.has_gpu else ""
    count = "${SLURM_GPUS_ON_NODE:-1}" if needs.has_gpu else "1"
    text = _TEXT.format(gpus=gpus, count=count, all_reduce=all_reduce(needs, ""))
    return Exported(text=f"#!/bin/bash\n{head}{text}", beside=((PROGRAM, program()),))


_TEXT = """\
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
