"""Create virtual environments with a fake ``torch``; everything else in them is real."""

from __future__ import annotations

import sys
from pathlib import Path

CUDA = """
import types, warnings
__version__ = "2.13.0+cu130"
def _module(name, **members):
    module = types.SimpleNamespace(**members)
    return module
version = _module("version", cuda="13.0", hip=None)
_C = _module("_C", _cuda_getArchFlags=lambda: "sm_75 sm_80 sm_86 sm_90 sm_100 sm_120")
backends = _module("backends", cudnn=_module("cudnn", version=lambda: 91900))
distributed = _module("distributed", is_available=lambda: False)
def _available():
    warnings.warn("CUDA initialization: The NVIDIA driver on your system is too old (found version 12040).")
    return False
def _init():
    raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).")
cuda = _module("cuda", is_available=_available, device_count=lambda: 0, init=_init)
"""
CPU = CUDA.replace("2.13.0+cu130", "2.13.0+cpu").replace('cuda="13.0"', "cuda=None")
HANGS_IN_CUDA = CUDA.replace("def _available():\n", "def _available():\n    import time; time.sleep(600)\n")
RAISES = 'raise ImportError("libcudnn.so.9: cannot open shared object file: No such file or directory")\n'
NO_SYMBOL = 'raise ImportError("libcusparse.so.12: undefined symbol: __nvJitLinkComplete_12_4")\n'
HANGS = "import time\ntime.sleep(600)\n"


def dies_by(signal: str) -> str:
    """A torch whose import kills the interpreter."""
    return f"import os, signal\nos.kill(os.getpid(), signal.{signal})\n"


def notes_its_commands(prefix: Path) -> Path:
    """Let a virtual environment's Python note the last word of each of its commands, one a line, in that file."""
    python, notes = prefix / "bin" / "python", prefix / "notes"
    real = python.readlink()
    python.unlink()
    script = f"""#!/bin/sh\nfor last; do :; done\nprintf '%s\\n' "$last" >> '{notes}'\nexec '{real}' "$@"\n"""
    python.write_text(script, encoding="utf-8")
    python.chmod(0o755)
    notes.touch()
    return notes


def virtual_environment(folder: Path, torch: str) -> Path:
    """A virtual environment of this Python with nothing in it but that torch."""
    base = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(base)
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\n", encoding="utf-8")
    (site / "torch").mkdir(parents=True)
    (site / "torch" / "__init__.py").write_text(torch, encoding="utf-8")
    return folder
