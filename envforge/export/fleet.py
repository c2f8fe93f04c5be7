"""Share the parts of cluster jobs: verify each node, run an all-reduce over all nodes, and compare the reports.

The all-reduce is the program that ``verify train`` runs on one machine. It needs only torch and is written next to the
job. The nodes find each other by torchrun's rendezvous.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files

from envforge.export.source import Source, header
from envforge.matrix import load_matrix
from envforge.requirements import requirements_of

PROGRAM = "envforge-all-reduce.py"
PORT = 29500


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """Requirements of the lockfile for the nodes: whether they need a GPU, and a description."""

    has_gpu: bool
    words: str

    @property
    def backend(self) -> str:
        """Backend of torch.distributed."""
        return "nccl" if self.has_gpu else "gloo"


def needs_of(source: Source) -> Needs:
    """Return the requirements of the lockfile's first Linux platform, because clusters run Linux."""
    platforms = [plan.platform for plan in source.plans]
    platform = next((name for name in platforms if name.startswith("linux-")), platforms[0])
    found = requirements_of(source.lockfile, platform, load_matrix())
    return Needs(has_gpu=bool(found.driver_direct or found.driver_minor_compatible), words=found.words)


def program() -> str:
    """Return the source of the all-reduce."""
    return (files("envforge") / "verify" / "training" / "envforge_measures" / "collective.py").read_text("utf-8")


def remarks(source: Source, needs: Needs, *lines: str) -> str:
    """Return the comment at the top of a job."""
    return header(
        source,
        "Each node verifies itself, all nodes run an all-reduce over the network, and the reports are compared.",
        *lines,
        f"Keep {PROGRAM} next to this file. Each node requires: {needs.words}.",
    )


def all_reduce(needs: Needs, prefix: str) -> str:
    """Return the command for each node; it uses the shell variables nodes, gpus, run, rank, head, and address.

    ``address`` is where other nodes reach this one. Without it, torchrun uses a host name that they may not resolve.
    """
    return (
        f"envforge run{prefix} python -m torch.distributed.run \\\n"
        '  --nnodes "$nodes" --nproc-per-node "$gpus" --rdzv-id "$run" --rdzv-backend c10d \\\n'
        f'  --rdzv-endpoint "$head:{PORT}" --rdzv-conf "is_host=$((rank == 0))" \\\n'
        f'  --local-addr "$address" {PROGRAM} {needs.backend}'
    )


def node_script(needs: Needs, prefix: str = "") -> str:
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
