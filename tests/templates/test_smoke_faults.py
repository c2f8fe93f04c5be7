"""Test that the smoke test of a project fails for faults in its code, and for faults of torch that no file shows."""

from __future__ import annotations

import sys

import pytest

assert sys.platform != "win32"

from tests.templates.conftest import write_project  # noqa: E402 - for mypy, the module is empty on Windows
from tests.templates.faults import Fault, Job, Outcome, copy, job, run_jobs  # noqa: E402

SMOKE = "tests/test_smoke.py"
FLOAT = 'with torch.autocast("cpu", enabled=False):'
BLOCK = "        return cast(Tensor, self.activation(self.body(images) + self.shortcut(images)))\n"
LOSS = "model(images), targets, self.class_weights"
SCORED = "            confusion.add({})\n"
SCORE = SCORED.format("model(as_float(images)), labels")
TARGETS = "        config, (images, targets) = self.config, batch\n"
NEARLY_TRAINED = (
    "validation=Tensors(images[held_back], labels[held_back])",
    "validation=Tensors(images[kept][:359] + 1e-4, labels[kept][:359])",
)
NEARLY_VALIDATED = (
    "train=Tensors(images[kept], labels[kept])",
    "train=Tensors(torch.cat([images[kept], images[held_back] * 0.99]), torch.cat([labels[kept], labels[held_back]]))",
)

INSIDE = (
    Fault(
        "convolutions of the blocks in fp32",
        "model",
        BLOCK,
        f"        {FLOAT}\n            return self.activation(self.body(images.float()) + self.shortcut(images.float()))\n",
        SMOKE,
    ),
    Fault("nothing in low precision", "engine/amp", "dtype = self.precision.dtype", "dtype = None", SMOKE),
    Fault(
        "autocast in the first step only",
        "engine/amp",
        "with self.autocast():",
        "with self.autocast() if self.started < 1 else nullcontext():",
        SMOKE,
    ),
    Fault(
        "autocast until the last ten steps",
        "engine/amp",
        "with self.autocast():",
        "with self.autocast() if self.started < 50 else nullcontext():",
        SMOKE,
    ),
    Fault("evaluation on training data", "engine/run", "make_loader(data, data.validation,", "make_loader(data, data.train,", SMOKE),
    Fault("evaluation of a part", "engine/loader", "for n in range(count)]", "for n in range(count - 1)]", SMOKE),
    Fault("evaluation in training mode", "engine/run", "        self.evaluated.eval()\n", "", SMOKE),
    Fault("evaluation that is made up", "task", "**scores_of(table)}", "**scores_of(table), 'accuracy': 0.98}", SMOKE),
    Fault("control of a single step", "task", "max_steps=60", "max_steps=1 if shuffled else 60", SMOKE),
    Fault("control that stands still", "task", "lr=4e-3", "lr=1e-9 if shuffled else 4e-3", SMOKE),
    Fault("control with true labels", "task", "control=shuffled, ", "", SMOKE),
    Fault("constant learning rate", "engine/run", "return optim.learning_rate(", "return self.config.lr or optim.learning_rate(", SMOKE),
    Fault("learning rate that only rises", "engine/run", "warmup = round(self.config.warmup * total)", "warmup = total", SMOKE),
    Fault("weights never move", "engine/optim", 'rate * group.get("scale", 1.0)', "0.0", SMOKE),
    Fault("stem never moves", "engine/optim", "if parameter.requires_grad:", 'if parameter.requires_grad and "stem" not in name:', SMOKE),
    Fault("half of the outputs ignored", "task", LOSS, "model(images)[::2], targets[::2], self.class_weights", SMOKE),
    Fault("half of the images ignored", "task", LOSS, "model(images[::2]), targets[::2], self.class_weights", SMOKE),
    Fault("constant loss", "task", "return losses.mean()", "return 0 * losses.mean()", SMOKE),
    Fault("the same batch again", "engine/loader", "[first:end]", "[: end - first]", SMOKE),
    Fault("the same samples again after an epoch", "engine/loader", "        start = self.position\n", "        start = self.position\n        indices = [each % 9 for each in indices] if self.epoch else indices\n", SMOKE),
    Fault("half of each validation batch not scored", "task", SCORE, SCORED.format("model(as_float(images))[::2], labels[::2]"), SMOKE),
    Fault("a class not scored", "task", SCORE, SCORED.format("model(as_float(images))[labels != 3], labels[labels != 3]"), SMOKE),
    Fault("validation images scored until the fifth batch", "task", SCORE, f"{SCORE}            if labels.sum() % 5 == 0:\n                break\n", SMOKE),
    Fault("validation images that are nearly training images", "data", *NEARLY_TRAINED, SMOKE),
    Fault("training images that are nearly validation images", "data", *NEARLY_VALIDATED, SMOKE),
    Fault("control with other labels in each step", "task", TARGETS, f"{TARGETS}        targets = targets[torch.randperm(len(targets))] if config.control else targets\n", SMOKE),
    Fault("control with labels of the batch turned round", "task", TARGETS, f"{TARGETS}        targets = targets.flip(0) if config.control else targets\n", SMOKE),
    Fault("control with other labels in each epoch", "engine/loader", "self.answer_of[index] for", "int(torch.randint(len(self), ())) for", SMOKE),
)  # fmt: skip

OUTSIDE = {
    "convolutions ignore autocast": f"""
old = torch.nn.functional.conv2d
def conv(images, weight, *rest):
    {FLOAT}
        return old(images.float(), weight.float(), *rest)
torch.nn.functional.conv2d = conv
""",
    "autocast stops after a while": """
old, count = torch.autocast.__enter__, [0]
def enter(self):
    count[0] += 1
    self._enabled = self._enabled and count[0] < 40
    return old(self)
torch.autocast.__enter__ = enter
""",
    "eval() does nothing": "torch.nn.Module.eval = lambda self: self",
    "batch norm always uses its batch": """
old = torch.nn.functional.batch_norm
def norm(images, mean, variance, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    return old(images, mean, variance, weight, bias, True, 0.1, eps)
torch.nn.functional.batch_norm = norm
""",
    "AdamW does nothing": "torch.optim.AdamW.step = lambda self, closure=None: None",
    "AdamW takes its own rate": """
old = torch.optim.AdamW.step
def step(self, closure=None):
    for group in self.param_groups:
        group["lr"] = 4e-3
    return old(self)
torch.optim.AdamW.step = step
""",
    "every second backward does nothing": """
old, count = torch.Tensor.backward, [0]
def backward(self, *rest, **more):
    count[0] += 1
    return old(self if count[0] % 2 else 0 * self, *rest, **more)
torch.Tensor.backward = backward
""",
    "half of the loss": """
old = torch.nn.functional.cross_entropy
def loss(scores, labels, *rest, **more):
    size = len(scores) // 2 if scores.requires_grad else len(scores)
    return old(scores[:size], labels[:size], *rest, **more)
torch.nn.functional.cross_entropy = loss
""",
    "AdamW computes with its own rate": """
import importlib
for name in ("adam", "adamw"):
    module = importlib.import_module(f"torch.optim.{name}")
    old = getattr(module, name)
    setattr(module, name, lambda *rest, old=old, **more: old(*rest, **{**more, "lr": 4e-3}))
""",
    "gradients clipped to nothing": """
old = torch.nn.utils.clip_grad_norm_
torch.nn.utils.clip_grad_norm_ = lambda parameters, norm: old(parameters, 1e-12)
""",
    "training data that are validation data": """
import numpy, sklearn.datasets
old = sklearn.datasets.load_digits
def load():
    digits = old()
    digits.images = numpy.concatenate([digits.images[:900]] * 2)[: len(digits.images)]
    digits.target = numpy.concatenate([digits.target[:900]] * 2)[: len(digits.target)]
    return digits
sklearn.datasets.load_digits = load
""",
    "few different samples": """
old = torch.randperm
torch.randperm = lambda size, **more: old(size, **more) // 8 * 8 if size == 1438 else old(size, **more)
""",
    "gradients are never cleared": "torch.optim.Optimizer.zero_grad = lambda self, set_to_none=True: None",
    "gradients are not clipped": """
old = torch.nn.utils.clip_grad_norm_
torch.nn.utils.clip_grad_norm_ = lambda parameters, norm: old(parameters, 1e9)
""",
    "every second step does nothing": """
old, count = torch.optim.AdamW.step, [0]
def step(self, closure=None):
    count[0] += 1
    return old(self) if count[0] % 2 else None
torch.optim.AdamW.step = step
""",
    "the same validation samples again": """
old = torch.utils.data.DataLoader.__init__
def init(self, dataset, *rest, sampler, **more):
    if isinstance(sampler, list):
        sampler = [sampler[0]._replace(indices=sampler[0].indices[: len(each.indices)]) for each in sampler]
    old(self, dataset, *rest, sampler=sampler, **more)
torch.utils.data.DataLoader.__init__ = init
""",
    "labels of other images": """
old = torch.Tensor.argmax
torch.Tensor.argmax = lambda self, *rest, **more: old(self, *rest, **more).roll(1)
""",
    "AdamW steps at a constant rate": """
import torch.optim.adam as adam, torch.optim.adamw as adamw
def wrap(old):
    return lambda *rest, **more: old(*rest, **{**more, "lr": more["lr"] * 0 + 4e-3})
for module, name in ((adam, "adam"), (adamw, "adamw")):
    if hasattr(module, name):
        setattr(module, name, wrap(getattr(module, name)))
""",
    "AdamW forgets its averages": """
old = torch.optim.AdamW.step
def step(self, closure=None):
    self.state.clear()
    return old(self)
torch.optim.AdamW.step = step
""",
    "half of the weights move too little": """
old = torch.optim.AdamW.step
def step(self, closure=None):
    weights = [each for group in self.param_groups for each in group["params"]]
    before = [each.detach().clone() for each in weights]
    old(self)
    with torch.no_grad():
        for each, then in list(zip(weights, before))[::2]:
            each.lerp_(then, 0.2)
torch.optim.AdamW.step = step
""",
    "batch norm of the batch without gradients": """
old = torch.nn.functional.batch_norm
def norm(images, mean, variance, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5):
    if not torch.is_grad_enabled():
        return old(images, None, None, weight, bias, True, 0.0, eps)
    return old(images, mean, variance, weight, bias, training, momentum, eps)
torch.nn.functional.batch_norm = norm
""",
    "half of each batch detached after a while": """
old, count = torch.nn.functional.cross_entropy, [0]
def loss(scores, labels, *rest, **more):
    count[0] += scores.requires_grad
    if scores.requires_grad and count[0] > 15:
        scores = torch.cat([scores[::2].detach(), scores[1::2]])
        labels = torch.cat([labels[::2], labels[1::2]])
    return old(scores, labels, *rest, **more)
torch.nn.functional.cross_entropy = loss
""",
    "half of the loss after a while": """
old, count = torch.nn.functional.cross_entropy, [0]
def loss(scores, labels, *rest, **more):
    count[0] += scores.requires_grad
    losses = old(scores, labels, *rest, **more)
    if scores.requires_grad and count[0] > 15:
        losses = losses * (torch.arange(len(losses)) % 2 * 1.998 + 0.001)
    return losses
torch.nn.functional.cross_entropy = loss
""",
    "convolutions without gradients": """
old = torch.nn.functional.conv2d
def conv(images, weight, *rest):
    return old(images, weight.detach() + 0 * weight if len(weight) == weight.shape[1] == 16 else weight, *rest)
torch.nn.functional.conv2d = conv
""",
    "convolutions with a part of their gradients": """
old = torch.nn.functional.conv2d
def conv(images, weight, *rest):
    is_slow = len(weight) == weight.shape[1] == 16
    return old(images, weight.detach() * 0.9 + 0.1 * weight if is_slow else weight, *rest)
torch.nn.functional.conv2d = conv
""",
    "every third backward is nearly zero": """
old, count = torch.Tensor.backward, [0]
def backward(self, *rest, **more):
    count[0] += 1
    return old(self if count[0] % 3 else 1e-12 * self, *rest, **more)
torch.Tensor.backward = backward
""",
    "no autocast in evaluation": """
old = torch.autocast.__enter__
def enter(self):
    self._enabled = self._enabled and torch.is_grad_enabled()
    return old(self)
torch.autocast.__enter__ = enter
""",
    "evaluation mode until the end": """
old, count = torch.nn.Module.train, [0]
def train(self, mode=True):
    count[0] += mode
    return old(self, mode and count[0] < 90)
torch.nn.Module.train = train
""",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """How the smoke test ended for each fault, and under the name "" for the project as it is."""
    pytest.importorskip("torch")
    pytest.importorskip("sklearn")
    base = tmp_path_factory.mktemp("smoke")
    project = write_project(base / "project")
    jobs = {"": Job(copy(project, base / "sound"), (SMOKE,))}
    jobs |= {fault.name: job(project, base / str(number), fault) for number, fault in enumerate(INSIDE)}
    for name, patch in OUTSIDE.items():
        folder = copy(project, base / name.replace(" ", "-"))
        with (folder / "tests" / "conftest.py").open("a") as file:
            file.write(patch)
        jobs[name] = Job(folder, (SMOKE,))
    return run_jobs(jobs, at_once=2)


@pytest.mark.slow
def test_the_smoke_test_passes_without_a_fault(outcomes: dict[str, Outcome]) -> None:
    assert outcomes[""].code == 0, outcomes[""].output


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(fault.name for fault in INSIDE), *OUTSIDE])
def test_the_smoke_test_fails_for_each_fault(outcomes: dict[str, Outcome], name: str) -> None:
    assert outcomes[name].code == 1, outcomes[name].output
    assert "FAIL" in outcomes[name].output
