"""What the jobs for fleets have in common: verify on each node, an all-reduce over all of them, compare. Pure.

The all-reduce is the program that ``verify train`` uses on one machine; it needs nothing but torch, and lies beside
the job. The nodes find each other by torchrun's rendezvous.
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
    """What the lock asks of the nodes: GPUs or none, and that in words."""

    has_gpu: bool
    words: str

    @property
    def backend(self) -> str:
        """How torch's processes speak with each other."""
        return "nccl" if self.has_gpu else "gloo"


def needs_of(source: Source) -> Needs:
    """What the first platform for Linux of the lock needs; clusters run Linux."""
    platforms = [plan.platform for plan in source.plans]
    platform = next((name for name in platforms if name.startswith("linux-")), platforms[0])
    found = requirements_of(source.lockfile, platform, load_matrix())
    return Needs(has_gpu=bool(found.driver_direct or found.driver_minor_compatible), words=found.words)


def program() -> str:
    """The text of the all-reduce."""
    return (files("envforge") / "verify" / "training" / "envforge_measures" / "collective.py").read_text("utf-8")


def remarks(source: Source, needs: Needs, *lines: str) -> str:
    """The remark at the top of a job."""
    return header(
        source,
        "Each node verifies itself, all nodes run an all-reduce over the network, and the reports are compared.",
        *lines,
        f"Keep {PROGRAM} next to this file. Each node requires: {needs.words}.",
    )


def all_reduce(needs: Needs, prefix: str) -> str:
    """The command that a node runs, with the shell variables nodes, gpus, run, rank, head and address.

    ``address`` is where the others reach this node; without it torchrun tells them a host name that they may not know.
    """
    return (
        f"envforge run{prefix} python -m torch.distributed.run \\\n"
        '  --nnodes "$nodes" --nproc-per-node "$gpus" --rdzv-id "$run" --rdzv-backend c10d \\\n'
        f'  --rdzv-endpoint "$head:{PORT}" --rdzv-conf "is_host=$((rank == 0))" \\\n'
        f'  --local-addr "$address" {PROGRAM} {needs.backend}'
    )


def node_script(needs: Needs, prefix: str = "") -> str:
    """What each node runs, with those variables and node and results; its exit code says whether all is well."""
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
    """The text as a block of YAML."""
    return "".join(f"{' ' * spaces}{line}\n" if line else "\n" for line in text.splitlines())
