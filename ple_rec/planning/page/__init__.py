"""`plan.html`: where the tables of a plan lie and what a step costs, on one self-contained page.

A section is a function from `Plan` to HTML, listed in `SECTIONS`; equal plans give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from ple_rec.config.plan import Plan
from ple_rec.html.page import Part, document, write_document
from ple_rec.planning.page.bars import HATCH
from ple_rec.planning.page.hardware import assumptions
from ple_rec.planning.page.head import header, key_figures
from ple_rec.planning.page.memory import memory
from ple_rec.planning.page.placement import placement
from ple_rec.planning.page.step import step
from ple_rec.planning.page.tables import tables

SECTIONS: tuple[tuple[str, str, Callable[[Plan], str]], ...] = (
    ("memory", "Memory per rank", memory),
    ("placement", "Tables on ranks", placement),
    ("step", "Time of a step", step),
    ("tables", "Tables", tables),
    ("hardware", "Assumptions", assumptions),
)


def plan_page(plan: Plan, title: str) -> str:
    """The page of a plan, as HTML.

    Args:
        plan: With or without an estimate.
        title: Name of what is planned; any text.
    """
    style = resources.files("ple_rec.planning.page").joinpath("plan.css").read_text(encoding="utf-8")
    return document(
        f"{title} - sharding plan",
        header(plan, title),
        key_figures(plan) + HATCH,
        [Part(anchor, heading, content(plan)) for anchor, heading, content in SECTIONS],
        "Made by ple-rec plan. Times are estimates, not measurements.",
        style=style,
    )


def write_page(path: Path, plan: Plan, title: str) -> None:
    """Write the page of a plan; it appears under its name only when complete.

    Args:
        path: Of the HTML file.
        plan: With or without an estimate.
        title: Name of what is planned; any text.

    Raises:
        UserError: it cannot be written.
    """
    rule = "the page of a plan is a file beside plan.json"
    write_document(plan_page(plan, title), path, rule, "free disk space, make the path writable, or give another --out")
