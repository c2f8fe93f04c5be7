"""Measure training in the project's own interpreter, with no imports except torch and the project.

Each result is one marked line of JSON on stdout, flushed at once, so a crash loses only the lines after it. A
measurement that raises is reported, and the next one runs; one that kills the process leaves its ``start`` line. The
code must run on Python 3.8 and torch 2.0 and later.
"""

# ruff: noqa: BLE001, PLC0415, PTH119 - runs without envforge, also on older Pythons
from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Say = Callable[[dict[str, Any]], None]
    Measure = Callable[[Any], dict[str, Any]]

MARK = "@envforge "


def open_lines() -> Say:
    """Return a function that prints marked lines; from now on, the output of libraries goes to stderr."""
    talk = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print to stdout, even from C

    def say(line: dict[str, Any]) -> None:
        talk.write(MARK + json.dumps(line) + "\n")
        talk.flush()

    return say


def main(text: str, measures: Sequence[Measure] = ()) -> None:
    """Parse the specification, and run every measurement in it; ``measures`` replace those of ``verify``."""
    run(json.loads(text), open_lines(), measures)
    sys.stderr.flush()
    os._exit(0)  # a library that hangs or crashes at exit must not invalidate the results


def run(specification: dict[str, Any], say: Say, measures: Sequence[Measure] = ()) -> None:
    """Run every measurement in ``specification["measures"]``, in that order."""
    with tempfile.TemporaryDirectory(prefix="envforge-verify-") as scratch:
        context = None
        for name in specification["measures"]:
            say({"event": "start", "measure": name})
            started = time.monotonic()
            try:
                if context is None:  # importing torch can fail, which each measurement reports
                    from .context import Context

                    context = Context(specification, scratch, say)
                value = {each.__name__: each for each in measures or _measures()}[name](context)
            except Exception as error:
                say({"event": "raised", "measure": name, "error": _words(error)})
            else:
                seconds = round(time.monotonic() - started, 3)
                say({"event": "value", "measure": name, "value": value, "seconds": seconds})
    say({"event": "end"})


def _measures() -> Sequence[Measure]:
    from . import device as of
    from . import learning, models, speed

    return (
        *(of.device, of.matmul, of.convolution, of.attention, of.same_bits, models.models),
        *(learning.project, learning.learning, learning.guard, learning.control, learning.scaler, learning.repeat),
        *(speed.compare, speed.compiled, speed.throughput, speed.transfer),
    )


def _words(error: BaseException) -> str:
    """Return the error message and the place that raised it."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{os.path.basename(place.filename)}:{place.lineno}"
    return f"{type(error).__name__}: {str(error)[:1500]} ({where})"
