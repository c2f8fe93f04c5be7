"""Answer the second question: the environment compared with its lockfile, and what ``import torch`` loads."""

from __future__ import annotations

from collections.abc import Sequence

from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.environment.redact import redact_texts


def redacted(facts: EnvironmentFacts, names: Sequence[str] = ()) -> EnvironmentFacts:
    """Return the facts without home directories, UUIDs, and ``names`` (of the host and user)."""
    return redact_texts(facts, names)
