from __future__ import annotations

from tests.prefix.install.conftest import channel, lock, place, server

__all__ = ["channel", "lock", "place", "server"]
