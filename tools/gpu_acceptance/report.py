"""Write what the acceptance found as JSON, as one Markdown table, and as an HTML page."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from envforge.base.data_files import data_folder
from envforge.base.files import write_atomic

NOT_REACHED = "not reached"
HEAD = ("step", "result", "seconds", "found")
MIB = 2**20


@dataclass(kw_only=True, slots=True)
class Result:
    """One step: the end of what it printed if it failed, the runs that it measured, and its result as JSON."""

    name: str
    status: str = NOT_REACHED
    seconds: float = 0.0
    found: str = ""
    output: str = ""
    runs: list[dict[str, Any]] = field(default_factory=list)
    record: dict[str, Any] | None = None


@dataclass(kw_only=True, slots=True)
class Report:
    """Everything that was found so far; ``device`` describes the GPU and torch."""

    created_at: str
    minutes: float
    device: dict[str, Any] = field(default_factory=dict)
    steps: list[Result] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every step was reached and passed."""
        return all(step.status == "passed" for step in self.steps)

    @property
    def headline(self) -> str:
        """The result in one line."""
        passed = sum(step.status == "passed" for step in self.steps)
        failed = [step.name for step in self.steps if step.status not in ("passed", NOT_REACHED)]
        told = f"{passed} of {len(self.steps)} steps passed"
        return f"{told}; {', '.join(failed)} did not" if failed else told

    @property
    def described(self) -> str:
        """The device and versions in one line."""
        names = ("name", "capability", "driver", "torch", "cuda", "python")
        return ", ".join(f"{name} {self.device[name]}".removeprefix("name ") for name in names if self.device.get(name))

    def write(self, folder: Path) -> None:
        """Write all three files, each atomically."""
        content = {"schema": 1, "passed": self.passed, **asdict(self)}
        write_atomic(folder / "acceptance.json", json.dumps(content, indent=2) + "\n")
        write_atomic(folder / "acceptance.md", self.markdown())
        write_atomic(folder / "acceptance.html", self.page())

    def rows(self) -> Iterator[tuple[str, str, str, str]]:
        """Yield the rows of the table: each step, and each model that it measured."""
        for step in self.steps:
            yield step.name, step.status, f"{step.seconds:.1f}" if step.seconds else "", step.found
            for name, found in compared(step.runs, self._eager()):
                yield f"{step.name}: {name}", "measured", "", found

    def markdown(self) -> str:
        """Return the table with a heading."""
        lines = [f"# GPU acceptance: {self.headline}", "", self.described, "", _line(HEAD), _line(["---"] * len(HEAD))]
        lines += [_line(row) for row in self.rows()]
        return "\n".join(lines) + "\n"

    def page(self) -> str:
        """Return the page, with the output of failed steps."""
        style = (data_folder() / "report" / "style.css").read_text(encoding="utf-8")
        table = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>\n" for row in self.rows())
        heads = "".join(f'<th scope="col">{name}</th>' for name in HEAD)
        outputs = "".join(
            f"<section><h2>{html.escape(step.name)}</h2><pre>{html.escape(step.output)}</pre></section>\n"
            for step in self.steps
            if step.output
        )
        return (
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
            f"<title>GPU acceptance</title>\n<style>{style}</style>\n</head>\n<body>\n"
            f'<header class="{"pass" if self.passed else "fail"}"><p class="eyebrow">GPU acceptance</p>'
            f"<h1>{html.escape(self.headline)}</h1><p>{html.escape(self.described)}</p></header>\n"
            f'<main><div class="matrix"><table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{table}</tbody>\n'
            f"</table></div>\n{outputs}</main>\n</body>\n</html>\n"
        )

    def _eager(self) -> dict[tuple[str, int, str], float]:
        """Return the seconds of the plain runs, which the other variants are compared with."""
        runs = [run for step in self.steps for run in step.runs if run["variant"] == "eager" and "step_s" in run]
        return {(run["model"], run["batch"], run["precision"]): run["step_s"] for run in runs}


def compared(runs: Iterable[dict[str, Any]], eager: dict[tuple[str, int, str], float]) -> Iterator[tuple[str, str]]:
    """Yield the name of each model and batch size, and its low precision compared with the other runs."""
    for (model, batch, variant), group in groupby(runs, lambda run: (run["model"], run["batch"], run["variant"])):
        several = list(group)  # the low precision is measured first
        low = several[0]
        parts = [_figures(run) for run in several]
        for run in several[1:]:
            if "step_s" in low and "step_s" in run:
                parts.append(f"{low['precision']} is {run['step_s'] / low['step_s']:.2f} times as fast as {_kind(run)}")
            if low.get("peak_memory_bytes") and run.get("peak_memory_bytes"):
                parts[-1] += f" with {low['peak_memory_bytes'] / run['peak_memory_bytes']:.2f} times its peak memory"
        before = eager.get((model, batch, low["precision"]))
        if variant != "eager" and "step_s" in low and before:
            parts.append(f"{before / low['step_s']:.2f} times as fast as eager; ready after {low['ready_s']:.1f} s")
        yield f"{model}, batch {batch}", "; ".join(parts)


def _figures(run: dict[str, Any]) -> str:
    if "error" in run:
        return f"{_kind(run)}: {run['error']}"
    peak = f", {run['peak_memory_bytes'] / MIB:.0f} MiB" if run.get("peak_memory_bytes") else ""
    return f"{_kind(run)} {1e3 * run['step_s']:.2f} ms{peak}"


def _kind(run: dict[str, Any]) -> str:
    return "fp32 (ieee)" if run["fp32"] == "ieee" else str(run["precision"])


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(" ".join(cell.replace("|", "\\|").split()) for cell in cells) + " |"
