"""Record a trace of CPU and device for Perfetto or chrome://tracing (``--profile N``)."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, schedule

WARM = 3  # updates before the recording, while caches fill and kernels are selected


class Trace:
    """While entered, record ``updates`` updates after the first few; call ``step`` after each update."""

    def __init__(self, updates: int, path: Path) -> None:
        self.path = path
        self.written = False
        self._profiler: Any = None
        if updates:
            activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])
            self._profiler = profile(
                activities=activities,
                schedule=schedule(wait=WARM - 1, warmup=1, active=updates, repeat=1),
                on_trace_ready=self._write,
            )

    def __enter__(self) -> Trace:
        if self._profiler is not None:
            self._profiler.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._profiler is not None:
            self._profiler.__exit__(kind, error, traceback)

    def step(self) -> None:
        if self._profiler is not None:
            self._profiler.step()

    def _write(self, profiler: Any) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        profiler.export_chrome_trace(str(self.path))
        self.written = True
