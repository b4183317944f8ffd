"""The section on the tasks: sizes of their sample spaces, positives, and labels that a space leaves out."""

from __future__ import annotations

from data_prep.stats.correlation import wilson
from data_prep.stats.page.view import View, figure, percent
from ple_rec.config.schema import Task
from ple_rec.html.markup import table, text

RARE = 1000  # positives, or negatives, below which a rate is shown with its interval

_HEAD = (
    '<th class="text" scope="col">task</th><th class="text" scope="col">split</th>'
    '<th scope="col">in the space</th><th scope="col">of rows</th><th scope="col">positive</th>'
    '<th scope="col">mean label</th><th scope="col">outside, positive</th>'
)


def tasks(view: View) -> str:
    """A row per task and split, under what is odd about the spaces."""
    lead = (
        "<p>The sample space of a task is the rows on which its label exists; losses and metrics see these rows alone. "
        f"Rates of fewer than {RARE:,} positives stand with their 95 % interval (Wilson).</p>"
    )
    body = []
    for task in view.schema.tasks:
        splits = view.splits()
        for place, split in enumerate(splits):
            kind = " ".join(filter(None, ("minor" * (place > 0), "joined" * (place + 1 < len(splits)))))
            body.append(f'<tr class="{kind}">{_cells(view, task, split, place)}</tr>')
    return lead + _odd(view) + table([_HEAD], body)


def _cells(view: View, task: Task, split: str, place: int) -> str:
    found, rows = view.stats["tasks"][task.name][split], view.stats["rows"][split]
    space = "all rows" if task.space is None else f"where {text(view.space(task))}"
    name = (text(task.name), f"<small>{task.kind}, {space}</small>", "")[min(place, 2)]
    positives, samples = found.get("positives"), found["samples"]
    mean = figure(found["mean"]) if positives is None else percent(found["mean"])
    if positives is not None and samples and min(positives, samples - positives) < RARE:
        low, high = wilson(positives, samples)
        mean += f" <small>{percent(low)} to {percent(high)}</small>"
    if found.get("std") is not None:
        mean += f" <small>sd {figure(found['std'])}, at most {figure(found['max'])}</small>"
    outside = "" if task.space is None else f"{found['outside']['positives']:,}"
    return (
        f'<th class="text task" scope="row">{name}</th><td class="text">{split}</td><td>{samples:,}</td>'
        f"<td>{percent(samples / rows, digits=1)}</td><td>{'' if positives is None else f'{positives:,}'}</td>"
        f"<td>{mean}</td><td>{outside}</td>"
    )


def _odd(view: View) -> str:
    lines = []
    for task in view.schema.tasks:
        splits = view.stats["tasks"][task.name]
        lost = sum(found["outside"]["positives"] for found in splits.values())
        inside = sum(found.get("positives", 0) for found in splits.values())
        if lost and task.kind == "binary":
            share = percent(lost / (lost + inside))
            lines.append(
                f"<li><strong>{text(task.name)}</strong>: {lost:,} of {lost + inside:,} positives ({share}) lie "
                f"outside its space, <code>{text(view.space(task))}</code>, and are not trained on. Is the space right?"
                "</li>"
            )
        if task.kind == "binary" and not splits["train"].get("positives"):
            lines.append(f"<li><strong>{text(task.name)}</strong>: no positive in train.</li>")
    return f'<div class="notice"><p>Worth a look</p><ul>{"".join(lines)}</ul></div>' if lines else ""
