"""Act as the Python of an environment whose torch uses the GPUs of the stub, and print plausible measurements.

This file is run instead of Python (``written_to``). Under load, it waits until the sampler has queried the stub's NVML,
and then for a few more samples. ``WORK`` sets the speed of each GPU; everything around this process is real.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

KNOWN = {"torch": "2.13.0+cu130", "cuda": "13.0", "capability": "8.0", "low": "bf16", "native_bf16": True}
GIVEN_UP_S, SAMPLED_S = 30.0, 0.7


def written_to(prefix: Path, gpus: list[dict[str, Any]]) -> Path:
    """A virtual environment with such a Python; each of ``gpus`` has name, uuid, low_tflops and copied GB/s."""
    python = prefix / "bin" / "python"
    python.parent.mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text("home = /nowhere\n", encoding="utf-8")
    words = [sys.executable, "-I", str(Path(__file__)), str(os.getpid()), json.dumps(gpus)]
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    python.write_text(f'#!/bin/sh\nexec {quoted} "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return prefix


def _sampled(family: int) -> None:
    """Wait until a process that the tests have started uses the stub's NVML, and for some samples."""
    late = time.monotonic() + GIVEN_UP_S
    while not any(_uses_nvml(folder, family) for folder in Path("/proc").glob("[0-9]*")):
        if time.monotonic() > late:
            raise TimeoutError("nobody samples")
        time.sleep(0.05)
    time.sleep(SAMPLED_S)


def _uses_nvml(folder: Path, family: int) -> bool:
    try:
        ours = f"\nPPid:\t{family}\n" in (folder / "status").read_text(encoding="utf-8")
        return ours and "libnvidia-ml" in (folder / "maps").read_text(encoding="utf-8")
    except OSError:
        return False  # it has ended, or is not ours to look at


def _say(line: dict[str, Any]) -> None:
    sys.stdout.write("@envforge " + json.dumps(line) + "\n")
    sys.stdout.flush()


def _measured(name: str, gpu: dict[str, Any], family: int) -> dict[str, Any]:
    began = time.time()
    if name == "device":
        return {**KNOWN, "name": gpu["name"], "uuid": gpu["uuid"].removeprefix("GPU-")}
    if name == "throughput":
        _sampled(family)
        _say({"event": "load", "from": began, "to": time.time()})
        return {"dtype": "bf16", "size": 8192, "low_tflops": gpu["low_tflops"], "fp32_tflops": 18.0, "load_s": 3.0}
    speed = gpu["copied"] * 1e9
    return {"bytes": 2**28, "to_device_bytes_per_s": speed, "from_device_bytes_per_s": speed}


def main(family: int, gpus: list[dict[str, Any]], last: str) -> None:
    """Answer as the process that envforge starts would: how many GPUs, or the measures of one."""
    if not last.startswith("{"):
        _say({"count": len(gpus)})
        return
    asked = json.loads(last)
    gpu = gpus[int(asked["device"].partition(":")[2])]
    for name in asked["measures"]:
        _say({"event": "start", "measure": name})
        _say({"event": "value", "measure": name, "value": _measured(name, gpu, family), "seconds": 1.0})
    _say({"event": "end"})


if __name__ == "__main__":
    main(int(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[-1])
