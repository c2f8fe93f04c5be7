"""The stub of the driver's libraries, built once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.nvml_stub import build_stub, has_compiler


@pytest.fixture(scope="session")
def stub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not has_compiler():
        pytest.skip("gcc is missing, which builds the stub of the driver's libraries")
    return build_stub(tmp_path_factory.mktemp("stub"))
