"""Check an all-reduce over several processes with torchrun."""

from __future__ import annotations

from collections.abc import Iterator

from envforge.verify.environment.say import passed, skipped
from envforge.verify.training.facts import TrainingFacts
from envforge.verify.training.say import failed, on_training
from envforge.verify.values import Check, Judgement, Verdict


def _sum(facts: TrainingFacts) -> Iterator[Judgement]:
    collective = facts.collective.value
    if facts.collective_process is None:
        yield skipped("only one device; --deep tests two processes on the CPU")
    elif collective is None:
        yield failed(
            facts.collective.unreadable or "",
            "the same sum in every process",
            facts.collective.source,
            why="The usual reasons for a hang are P2P with ACS or IOMMU, or a firewall between the processes.",
            command="NCCL_DEBUG=INFO envforge verify train",
        )
    else:
        wanted = collective.ranks * (collective.ranks + 1) / 2
        speed = f"{collective.bus_bytes_per_s / 1e9:.2f} GB/s bus bandwidth over {collective.backend}"
        if any(found != wanted for found in collective.sums):
            sums = ", ".join(map(str, collective.sums))
            yield failed(f"the sums are {sums}", f"{wanted:g} in each", facts.collective.source)
        else:
            yield passed(f"{wanted:g} in {collective.ranks} processes; {speed}", source=facts.collective.source)


CHECKS = (
    Check(
        id="all-reduce-wrong",
        question="training",
        group="several-gpus",
        title="All-reduce over several processes",
        why="Multi-GPU training adds gradients. A link that hangs or computes wrong sums stops or corrupts it.",
        severity=Verdict.FAIL,
        judge=on_training(_sum),
        cost="default",
        row=45,
    ),
)
