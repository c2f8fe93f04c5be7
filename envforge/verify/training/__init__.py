"""The third question: does it train? Measured in the project's interpreter, one process a GPU, with a time limit."""

from __future__ import annotations

from collections.abc import Sequence

from envforge.verify.environment.redact import redact_texts
from envforge.verify.training.facts import TrainingFacts


def redacted(facts: TrainingFacts, names: Sequence[str] = ()) -> TrainingFacts:
    """The facts without home folders and UUIDs, and without ``names``: the host's, the user's."""
    return redact_texts(facts, names)
