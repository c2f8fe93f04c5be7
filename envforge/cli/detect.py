"""``envforge detect``: print the machine as text or as a record for ``--machine``."""

from __future__ import annotations

import shlex
from typing import Annotated

import click
from msgspec import Struct

from envforge.cli import print_result, wrapped
from envforge.cli.options import JsonOption, MachineOption, Option, chosen_machine, takes
from envforge.machine.record import machine_to_json, redact
from envforge.machine.values import OTHER_GPU, Condition, Gpu, Machine, driver_text

WIDTH = 80
_LABEL = 16
_VALUE = 22


class DetectOptions(Struct, frozen=True, kw_only=True):
    """The command line of ``envforge detect``."""

    machine: MachineOption
    is_redacted: Annotated[bool, Option("Remove UUIDs, the host name, and user names.", "--redact")]
    as_json: JsonOption


@click.command()
@takes(DetectOptions)
def detect(options: DetectOptions) -> None:
    """Show the GPU, the driver, and what PyTorch can use of them.

    Each value is listed with its source. Exits with 0 even if there is no GPU or the driver doesn't work; the output
    lists such problems under "Conditions".

    With --json, the output is a machine record for --machine: save it on the GPU machine, and plan on your own.
    """
    found = chosen_machine(options.machine)
    if options.is_redacted:
        found = redact(found)
    option = "" if options.machine is None else f" --machine {shlex.quote(options.machine)}"
    text = render(found, f"envforge explain{option}")
    print_result("detect", machine_to_json(found), text, as_json=options.as_json)


def render(machine: Machine, explain: str = "envforge explain") -> str:
    """Return the machine in at most 80 columns, without color; ``explain`` is the command that shows its builds."""
    parts = [
        _system(machine),
        _driver(machine),
        _gpus(machine),
        _overrides(machine),
        _conditions(machine),
        _sum(machine, explain),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _system(machine: Machine) -> list[str]:
    lines = [
        "Machine",
        *_fact(machine, "platform", machine.platform),
        *_fact(machine, "python", str(machine.python), label="Python"),
        *_fact(machine, "glibc", str(machine.glibc) if machine.glibc else _no_glibc(machine)),
    ]
    if machine.container:
        lines += _fact(machine, "container", machine.container)
    if machine.is_wsl:
        lines += _fact(machine, "is_wsl", "yes", label="WSL")
    if machine.hostname:
        lines += _fact(machine, "hostname", machine.hostname, label="host name")
    return lines


def _no_glibc(machine: Machine) -> str:
    codes = [condition.code for condition in machine.conditions]
    return "none" if "no-glibc" in codes or not machine.platform.startswith("linux-") else "unknown"


def _driver(machine: Machine) -> list[str]:
    driver = machine.driver
    if driver is None:
        return ["NVIDIA driver", "  none running"]
    kernel = driver_text(driver.kernel_version) if driver.kernel_version else "unknown"
    user = driver_text(driver.user_version) if driver.user_version else "unknown"
    cuda = str(driver.cuda) if driver.cuda else "unknown"
    return [
        "NVIDIA driver",
        *_fact(machine, "driver.kernel_version", kernel, label="Windows driver" if machine.is_wsl else "kernel module"),
        *([] if machine.is_wsl else _fact(machine, "driver.user_version", user, label="libraries")),
        *_fact(machine, "driver.cuda", cuda, label="newest CUDA"),
    ]


def _fact(machine: Machine, fact: str, value: str, *, label: str | None = None) -> list[str]:
    line = f"  {label or fact:<{_LABEL}}{value}"
    source = machine.source(fact)
    if source is None:
        return [line]
    column = 2 + _LABEL + _VALUE
    if len(line) >= column or max(len(word) for word in source.split()) > WIDTH - column:
        column = 2 + _LABEL
        return [line, *wrapped(source, WIDTH, " " * column, " " * column)]
    return wrapped(source, WIDTH, line.ljust(column), " " * column)


def _gpus(machine: Machine) -> list[str]:
    if not machine.gpus:
        return ["GPUs", "  none found"]
    lines = [f"GPUs (from {machine.source('gpus') or 'the record'})"]
    for gpu in machine.gpus:
        lines += _gpu(gpu)
    if machine.visible is not None:
        shown = ", ".join(str(index) for index in machine.visible) or "none"
        lines += _fact(machine, "visible", shown, label="visible order")
    return lines


def _gpu(gpu: Gpu) -> list[str]:
    capability = f"compute capability {gpu.compute_capability or 'unknown'}"
    memory = [f"{gpu.memory_bytes / 2**30:.1f} GiB"] if gpu.memory_bytes else []
    mig = ["MIG on" if gpu.mig_enabled else "MIG off"] if gpu.mig_enabled is not None else []
    lines = wrapped(", ".join([gpu.name, capability, *memory, *mig]), WIDTH, f"  {gpu.index:<3}", " " * 5)
    identity = "  ".join(text for text in (gpu.uuid, gpu.pci_bus_id) if text)
    lines += [f"     {identity}"] if identity else []
    for device in gpu.mig_devices:
        size = f", {device.memory_bytes / 2**30:.1f} GiB" if device.memory_bytes else ""
        lines.append(f"     - {device.name or 'MIG device'}{size}")
        lines += [f"       {device.uuid}"] if device.uuid else []
    return lines


def _overrides(machine: Machine) -> list[str]:
    lines = [f"  {item.variable}={item.value}" for item in machine.overrides]
    return ["Overrides (values above that you set)", *lines] if lines else []


def _conditions(machine: Machine) -> list[str]:
    lines = [line for each in machine.conditions for line in _condition(each)]
    return ["Conditions", *lines] if lines else []


def _condition(condition: Condition) -> list[str]:
    lines = [f"  {condition.code}"]
    for label, text in (("symptom", condition.symptom), ("cause", condition.cause), ("remedy", condition.remedy)):
        lines += wrapped(text, WIDTH, f"    {label + ':':<9}", " " * 13)
    return lines


def _sum(machine: Machine, explain: str) -> list[str]:
    """Return what a build must support, and the command that lists such builds."""
    glibc = f", glibc {machine.glibc}" if machine.glibc else ""
    if any(condition.code == OTHER_GPU for condition in machine.conditions):
        return [f"A build must support: {machine.platform}{glibc}. To see the CPU builds: {explain} --cuda cpu"]
    if not machine.has_nvidia:
        return [f"A build must support: {machine.platform}{glibc}, no GPU (the CPU build)."]
    cuda = f"CUDA {machine.driver.cuda}" if machine.driver and machine.driver.cuda else "CUDA unknown"
    capabilities = " and ".join(str(capability) for capability in machine.capabilities)
    gpus = f"compute capability {capabilities}" if capabilities else "no visible GPU"
    return [
        *wrapped(f"A build must support: {machine.platform}{glibc}, {cuda}, {gpus}.", WIDTH),
        f"To see which builds do, and why: {explain}",
    ]
