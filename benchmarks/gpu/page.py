"""The page `page.md`, which has the results stage by stage, and is written anew after each line of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.stage import SmokeStage

# Longest summary in the table of the stages.
_MAX_SUMMARY = 240


@dataclass
class StageResult:
    """Result of a stage so far.

    Args:
        stage: Stage that gives the result.
        outcome: "running", "ok", "FAILED", or "left out".
        seconds: Seconds that the stage took.
        summary: Summary, or the reason for a failure.
        lines: Lines of the section of the stage.
        log_lines: Last lines of the output of a stage that failed.
        is_refusal: True if the stage refuses this machine or these settings.
    """

    stage: SmokeStage
    outcome: str = "running"
    seconds: float = 0.0
    summary: str = ""
    lines: list[str] = field(default_factory=list)
    log_lines: Sequence[str] = ()
    is_refusal: bool = False


def write_page(path: Path, title: str, results: Sequence[StageResult]) -> None:
    """Write the page with a table of all stages, and a section for each of them."""
    lines = [f"# {title}", "", "| stage | outcome | seconds | result |", "|---|---|---:|---|"]
    for result in results:
        summary = result.summary.replace("|", "\\|")[:_MAX_SUMMARY]
        lines.append(f"| {result.stage.name} | {result.outcome} | {result.seconds:.0f} | {summary} |")
    for result in results:
        if result.lines or result.log_lines:
            lines += ["", f"## {result.stage.name}", "", *result.lines]
        if result.log_lines:
            lines += ["", f"{result.outcome}: {result.summary}", "", "```", *result.log_lines, "```"]
    path.write_text(re.sub(r"\n{3,}", "\n\n", "\n".join(lines)) + "\n", encoding="utf-8")


def table_lines(*header: str) -> list[str]:
    """Return the two lines that begin a table, whose columns are aligned to the right except the first."""
    return ["", row_line(*header), row_line("---", *["---:"] * (len(header) - 1))]


def row_line(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"
