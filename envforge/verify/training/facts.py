"""Define the facts of training: the measurements of each device."""

from __future__ import annotations

from msgspec import Struct, field

from envforge.base.process import ProcessEnd
from envforge.verify.environment.facts import LockedTorch, VisibleGpu
from envforge.verify.values import Cost, Signal

Number = float | None


class Measurement(Struct, frozen=True, kw_only=True):
    """One measurement of a device: its text, and its typical duration relative to the others.

    ``is_apart``: it gets its own process and time limit, because compilers hang and large models are slow.
    """

    text: str
    typical_s: float
    cost: Cost = "default"
    of_project: bool = False
    needs_gpu: bool = False
    is_apart: bool = False


# in the order in which a process takes them; durations are those of the smoke test of image-classification
MEASUREMENTS = {
    "device": Measurement(text="properties of the device", typical_s=3, cost="fast"),
    "matmul": Measurement(text="matrix products compared with float64", typical_s=1, cost="fast"),
    "convolution": Measurement(text="convolutions compared with float64", typical_s=1, cost="fast"),
    "attention": Measurement(text="attention compared with float64", typical_s=1, cost="fast"),
    "project": Measurement(text="import of the project", typical_s=1, of_project=True),
    "learning": Measurement(text="training on true labels", typical_s=10, of_project=True),
    "guard": Measurement(text="an update with a NaN inserted", typical_s=1, of_project=True),
    "control": Measurement(text="training on shuffled labels", typical_s=10, of_project=True),
    "scaler": Measurement(text="GradScaler with an overflow", typical_s=2, of_project=True),
    "compare": Measurement(text="AMP and fp32", typical_s=8, of_project=True),
    "throughput": Measurement(text="full load, with clocks and throttle reasons", typical_s=6, needs_gpu=True),
    "transfer": Measurement(text="copies to the GPU and back", typical_s=1, needs_gpu=True),
    "same_bits": Measurement(text="repeated runs of one kernel", typical_s=2, cost="deep"),
    # last, because it makes torch deterministic
    "repeat": Measurement(text="a repeated and a resumed run", typical_s=6, of_project=True),
    "models": Measurement(
        text="models of the size of ResNet-50 and ViT-B", typical_s=40, cost="deep", needs_gpu=True, is_apart=True
    ),
    "compiled": Measurement(text="torch.compile", typical_s=40, cost="deep", of_project=True, is_apart=True),
}


class KernelFacts(Struct, frozen=True, kw_only=True):
    """The relative errors of the result and gradients, compared with float64; None is not finite."""

    dtype: str
    result_dtype: str
    shapes: tuple[str, ...]
    errors: tuple[Number, ...]


class LearningFacts(Struct, frozen=True, kw_only=True):
    """One training of the smoke configuration. A loss of None was not finite; ``error`` is why it stopped early.

    ``reach``, ``ceiling``, ``loss_ratio``, and ``skips`` are the thresholds of the project's own smoke test.
    """

    precision: str
    updates: int
    losses: tuple[Number, ...]
    evaluation: dict[str, Number]
    skipped: int
    seconds: float
    weights: int
    weights_moved: int
    weights_wild: int
    error: str | None = None
    metric: str | None = None
    higher_is_better: bool = True
    reach: Number = None
    ceiling: Number = None
    loss_ratio: Number = None
    skips: Number = None
    heavy: int | None = None
    low: int | None = None
    dtypes: dict[str, int] = field(default_factory=dict)
    autocast_forward: bool | None = None
    autocast_dtype: str | None = None
    autocast_backward: bool | None = None
    parameters: int | None = None
    without_gradient: tuple[str, ...] = ()
    zero_gradient: tuple[str, ...] = ()
    wild_gradient: tuple[str, ...] = ()
    gradient_norm: Number = None

    @property
    def score(self) -> Number:
        """The metric of the smoke test on validation data."""
        return self.evaluation.get(self.metric) if self.metric is not None else None


class GuardFacts(Struct, frozen=True, kw_only=True):
    """One update with an inserted NaN: the tensors of the model that changed, and those no longer finite."""

    planted: bool
    changed: tuple[str, ...]
    wild: tuple[str, ...]
    error: str | None = None


class ScalerRun(Struct, frozen=True, kw_only=True):
    """Updates in fp16: the scale before the first and after each; ``moved`` of ``weights`` tensors changed."""

    wanted_scale: float
    scales: tuple[float, ...]
    losses: tuple[Number, ...]
    moved: int
    weights: int
    wild: int
    error: str | None = None


class ScalerFacts(Struct, frozen=True, kw_only=True):
    """The GradScaler; ``gradient_error`` is the relative error of the first fp16 gradients compared with fp32."""

    clean: ScalerRun
    overflow: ScalerRun
    gradient_error: Number = None
    gradient_ratio: Number = None
    gradient_problem: str | None = None


class RepeatFacts(Struct, frozen=True, kw_only=True):
    """Two runs and a resumed one: SHA-256 of weights and optimizer, and generators that were not restored."""

    updates: int
    losses: tuple[Number, ...]
    second_losses: tuple[Number, ...]
    resumed_losses: tuple[Number, ...]
    state: str
    second_state: str
    resumed_state: str
    optimizer: str
    resumed_optimizer: str
    lost_generators: tuple[str, ...] = ()


class _InPrecision(Struct, frozen=True, kw_only=True):
    """A run in one precision; ``fp32`` is ``ieee``, ``tf32``, or None for AMP."""

    precision: str
    fp32: str | None = None

    @property
    def label(self) -> str:
        """The precision, such as ``AMP bf16`` or ``fp32 (tf32)``."""
        return f"fp32 ({self.fp32})" if self.fp32 else f"AMP {self.precision}"


class SpeedRun(_InPrecision, frozen=True, kw_only=True):
    """The project's step in one precision; ``fp32`` is ``ieee``, ``tf32``, or None. ``step_s`` is the median."""

    step_s: float
    steps: int
    batch: int
    peak_memory_bytes: int | None
    losses: tuple[Number, ...]


class CompareFacts(Struct, frozen=True, kw_only=True):
    """The step in each precision: AMP first, then fp32 and TF32."""

    runs: tuple[SpeedRun, ...]


class ThroughputFacts(Struct, frozen=True, kw_only=True):
    """Products of square matrices: 10^12 operations a second in low precision and in fp32 (ieee)."""

    dtype: str
    size: int
    low_tflops: float
    fp32_tflops: float


class TransferFacts(Struct, frozen=True, kw_only=True):
    """Copies of pinned memory."""

    to_device_bytes_per_s: float
    from_device_bytes_per_s: float


class CompiledFacts(Struct, frozen=True, kw_only=True):
    """One step, eager and with ``torch.compile``; ``seconds`` includes the compilation."""

    seconds: float
    eager_loss: Number
    compiled_loss: Number
    eager_gradient_norm: Number
    compiled_gradient_norm: Number


class ModelRun(_InPrecision, frozen=True, kw_only=True):
    """A model of the size of those in published figures, in one precision; ``error`` if it did not fit into memory."""

    model: str
    batch: int
    step_s: float | None = None
    peak_memory_bytes: int | None = None
    error: str | None = None


class ModelsFacts(Struct, frozen=True, kw_only=True):
    """Each model, batch size, and precision."""

    runs: tuple[ModelRun, ...]


class SameBitsFacts(Struct, frozen=True, kw_only=True):
    """One product and one convolution, repeated; ``different`` is the number of distinct results after the first."""

    times: int
    different: int
    digests: tuple[str, ...]


class LoadFacts(Struct, frozen=True, kw_only=True):
    """What NVML reported under load.

    ``reasons`` counts the samples with each reason for lower clocks; None if NVML does not report reasons.
    """

    samples: int
    reasons: dict[str, int] | None = None
    sm_clock_mhz: int | None = None
    max_sm_clock_mhz: int | None = None
    power_w: float | None = None
    power_limit_w: float | None = None
    temperature_c: int | None = None
    pcie_generation: int | None = None
    pcie_width: int | None = None
    pcie_max_generation: int | None = None
    pcie_max_width: int | None = None


class SpeedFloor(Struct, frozen=True, kw_only=True):
    """A row of the table of GPU speeds: the speed that a model is known to reach, and the lowest healthy one."""

    model: str
    reference_tflops: float
    floor_tflops: float
    source: str
    checked: str


class Properties(Struct, frozen=True, kw_only=True):
    """What the measurement ``device`` returns."""

    name: str = ""
    torch: str | None = None
    cuda: str | None = None
    capability: str | None = None
    memory_bytes: int | None = None
    native_bf16: bool | None = None
    low: str | None = None


class DeviceFacts(Properties, frozen=True, kw_only=True):
    """One device, measured in its own process. ``running`` is the measurement that the process did not finish."""

    device: str
    is_gpu: bool
    process: ProcessEnd
    asked: tuple[str, ...]
    running: str | None = None
    raised: dict[str, str] = field(default_factory=dict)
    project: Signal[str] = field(default_factory=Signal)
    matmul: Signal[KernelFacts] = field(default_factory=Signal)
    convolution: Signal[KernelFacts] = field(default_factory=Signal)
    attention: Signal[KernelFacts] = field(default_factory=Signal)
    learning: Signal[LearningFacts] = field(default_factory=Signal)
    guard: Signal[GuardFacts] = field(default_factory=Signal)
    control: Signal[LearningFacts] = field(default_factory=Signal)
    scaler: Signal[ScalerFacts] = field(default_factory=Signal)
    compare: Signal[CompareFacts] = field(default_factory=Signal)
    throughput: Signal[ThroughputFacts] = field(default_factory=Signal)
    floor: Signal[SpeedFloor] = field(default_factory=Signal)
    transfer: Signal[TransferFacts] = field(default_factory=Signal)
    load: Signal[LoadFacts] = field(default_factory=Signal)
    repeat: Signal[RepeatFacts] = field(default_factory=Signal)
    same_bits: Signal[SameBitsFacts] = field(default_factory=Signal)
    compiled: Signal[CompiledFacts] = field(default_factory=Signal)
    models: Signal[ModelsFacts] = field(default_factory=Signal)


class CollectiveFacts(Struct, frozen=True, kw_only=True):
    """An all-reduce of 1 + 2 + … over ``ranks`` processes. A sum is None if elements of the tensor differ."""

    backend: str
    ranks: int
    sums: tuple[Number, ...]
    bus_bytes_per_s: float


class TrainingFacts(Struct, frozen=True, kw_only=True):
    """The training. ``python`` is the project's interpreter.

    ``unreadable`` is the reason if nothing was measured, and ``no_gpu`` if torch can't use an existing GPU.
    """

    python: str | None
    package: str | None = None
    unreadable: str | None = None
    no_gpu: str | None = None
    driver: str | None = None
    machine_gpus: tuple[VisibleGpu, ...] = ()
    locked: Signal[LockedTorch] = field(default_factory=Signal)
    devices: tuple[DeviceFacts, ...] = ()
    collective: Signal[CollectiveFacts] = field(default_factory=Signal)
    collective_process: ProcessEnd | None = None
