"""Map each check to the measurements that it needs, so that ``--only`` runs no others.

A test compares the map with the checks.
"""

from __future__ import annotations

_LEARNING = ("learning",)

NEEDS_PROJECT = ("learning", "guard", "control", "scaler", "compare", "repeat", "compiled")
NEEDS: dict[str, tuple[str, ...]] = {
    "trains-on-gpu": ("device",),
    "process-died": ("device",),
    "low-precision": ("device",),
    "project-not-importable": ("project",),
    "matmul-wrong": ("matmul",),
    "convolution-wrong": ("convolution",),
    "attention-wrong": ("attention",),
    "bits-change": ("same_bits",),
    "gpus-disagree": ("same_bits",),
    "autocast-off": _LEARNING,
    "low-precision-unused": _LEARNING,
    "backward-in-autocast": _LEARNING,
    "loss-not-finite": _LEARNING,
    "loss-constant": _LEARNING,
    "gradients-missing": _LEARNING,
    "gradients-zero": _LEARNING,
    "weights-still": _LEARNING,
    "learning-stopped": _LEARNING,
    "loss-does-not-fall": _LEARNING,
    "metric-not-reached": _LEARNING,
    "smoke-thresholds": _LEARNING,
    "control-learns": ("learning", "control"),
    "non-finite-guard": ("learning", "guard"),
    "scaled-gradients-wrong": ("learning", "scaler"),
    "scaler-no-step": ("learning", "scaler"),
    "scaler-no-backoff": ("learning", "scaler"),
    "not-repeatable": ("repeat",),
    "resume-differs": ("repeat",),
    "amp-speed": ("compare",),
    "amp-differs": ("compare",),
    "speed-floor": ("throughput",),
    "throttled-under-load": ("throughput",),
    "slow-copies": ("throughput", "transfer"),
    "compile-fails": ("compiled",),
    "model-speed": ("models",),
}
