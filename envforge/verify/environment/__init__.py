"""The second question: the prefix against its lock, and what really is mapped after ``import torch``."""

from __future__ import annotations

from collections.abc import Sequence

from envforge.verify.environment.facts import EnvironmentFacts
from envforge.verify.environment.redact import redact_texts


def redacted(facts: EnvironmentFacts, names: Sequence[str] = ()) -> EnvironmentFacts:
    """The facts without home folders and UUIDs, and without ``names``: the host's, the user's."""
    return redact_texts(facts, names)
