"""What the plan takes for granted of a host and its ranks."""

from __future__ import annotations

from ple_rec.config.cluster import Hardware
from ple_rec.config.plan import Plan
from ple_rec.html.markup import table, text


def assumptions(plan: Plan) -> str:
    """Every figure of the cluster's hardware, under the name that `[topology]` has for it."""
    cluster = plan.cluster
    head = [
        '<th class="text" scope="col">[topology]</th><th scope="col">value</th><th class="text" scope="col">what</th>'
    ]
    body = [
        f'<tr><th class="text" scope="row"><code>{name}</code></th>'
        f'<td>{text(_shown(getattr(cluster.hardware, name)))}</td><td class="text">{text(field.description)}</td></tr>'
        for name, field in Hardware.model_fields.items()
        if getattr(cluster.hardware, name) != 0
    ]
    return f"<p>{text(cluster.describe())}. docs/planning.md explains every figure.</p>" + table(head, body)


def _shown(value: object) -> str:
    return f"{value:,.12g}" if isinstance(value, float) else str(value)
