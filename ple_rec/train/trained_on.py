"""What data a checkpoint was trained on, as its manifest says, and what is different in another dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ple_rec.config.schema import DatasetSchema
from ple_rec.data.columns import Selection


def described(selection: Selection) -> dict[str, list[str]]:
    """Tasks and inputs of a model in their order, each with what makes it another one, for a checkpoint's manifest."""
    sparse = [
        f"{f.name} (table {f.table}{', bag' if f.bag else ''}{', weights' if f.weights else ''})"
        for f in selection.sparse
    ]
    dense = [f"{feature.name} ({feature.normaliser})" for feature in selection.dense]
    return {"tasks": [f"{task.name} ({task.kind})" for task in selection.tasks], "inputs": sparse + dense}


def data_head(schema: DatasetSchema, selection: Selection) -> dict[str, Any]:
    """All that a manifest says of the data."""
    return {"dataset": schema.fingerprint, "table_rows": dict(selection.table_rows), **described(selection)}


def changed(recorded: Mapping[str, Any], selection: Selection) -> list[str]:
    """What of tasks and inputs is not as a manifest says; nothing where it says nothing of them."""
    return [text for what, now in described(selection).items() for text in _names(what, recorded.get(what), now)]


def what_differs(recorded: Mapping[str, Any], selection: Selection) -> str:
    """Between the dataset that a manifest is of and another one, whose fingerprints differ, in a few words."""
    before, now = recorded.get("table_rows"), selection.table_rows
    found = changed(recorded, selection)
    if isinstance(before, Mapping):
        found += [
            f"table {name} had {_rows(before.get(name))}, has {_rows(now.get(name))}"
            for name in dict.fromkeys([*before, *now])
            if before.get(name) != now.get(name)
        ]
    return "; ".join(found) or "tasks, features and tables are alike, rows and vocabularies are not"


def _rows(rows: int | None) -> str:
    return "none" if rows is None else f"{rows:,} rows"


def _names(what: str, before: object, now: Sequence[str]) -> list[str]:
    if not isinstance(before, list) or before == now:
        return []
    gone, new = [name for name in before if name not in now], [name for name in now if name not in before]
    if not gone and not new:
        return [f"{what} were {', '.join(before)}, are {', '.join(now)}"]
    lists = (("gone", gone), ("new", new))
    return [f"{what}: {'; '.join(f'{word}: ' + ', '.join(names) for word, names in lists if names)}"]
