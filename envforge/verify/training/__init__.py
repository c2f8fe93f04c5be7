"""Answer the third question, whether the project trains on this machine.

The project's interpreter measures each GPU in a process with a time limit.
"""

from __future__ import annotations

from collections.abc import Sequence

from envforge.verify.environment.redact import redact_texts
from envforge.verify.training.facts import TrainingFacts


def redacted(facts: TrainingFacts, names: Sequence[str] = ()) -> TrainingFacts:
    """Return the facts without home directories, UUIDs, and ``names`` (of the host and user)."""
    return redact_texts(facts, names)
