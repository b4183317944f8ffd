"""`plan.html`: where the tables of a plan lie and what a step costs, on one page.

A section is a function from `Plan` to a view, listed in `SECTIONS`, and the block of its name in
`templates/plan.html.j2`; equal plans give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable

from ple_rec.config.cluster import Hardware
from ple_rec.config.plan import Plan
from ple_rec.errors import Option
from ple_rec.reports.page import Part, render, write_document
from ple_rec.reports.plan.head import facts, key_figures
from ple_rec.reports.plan.memory import memory
from ple_rec.reports.plan.placement import placement
from ple_rec.reports.plan.step import step
from ple_rec.reports.plan.tables import tables
from ple_rec.storage import Location


def plan_page(plan: Plan, title: str) -> str:
    """Return the page of a plan as HTML.

    Args:
        plan: Plan with or without an estimate.
        title: Name of what is planned; any text.
    """
    parts = [Part(anchor, heading, view(plan)) for anchor, heading, view in SECTIONS]
    return render("plan", parts, name=title, facts=facts(plan), figures=key_figures(plan))


def write_page(path: Location, plan: Plan, title: str) -> None:
    """Write the page of a plan; it appears under its name only when complete.

    Args:
        path: HTML file.
        plan: Plan with or without an estimate.
        title: Name of what is planned; any text.

    Raises:
        UserError: The file cannot be written.
    """
    rule = "the page of a plan is a file beside plan.json"
    write_document(
        plan_page(plan, title), path, rule, f"free disk space, make the path writable, or give another {Option.OUT}"
    )


def _assumptions(plan: Plan) -> dict[str, object]:
    """Return every figure of the cluster's hardware, under the name that `[topology]` has for it."""
    hardware = plan.cluster.hardware
    shown = [
        (name, f"{value:,.12g}" if isinstance(value, float) else value, field.description)
        for name, field in Hardware.model_fields.items()
        if (value := getattr(hardware, name)) != 0
    ]
    return {"cluster": plan.cluster.describe(), "figures": shown}


SECTIONS: tuple[tuple[str, str, Callable[[Plan], object]], ...] = (
    ("memory", "Memory per rank", memory),
    ("placement", "Tables on ranks", placement),
    ("step", "Time of a step", step),
    ("tables", "Tables", tables),
    ("hardware", "Assumptions", _assumptions),
)
