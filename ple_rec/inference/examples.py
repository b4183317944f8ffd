"""Held-out users and what they were shown, as requests for a ranking: `examples.json`, and lists for the check.

Shape suffixes: N rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.inference.held_out import HeldOut
from ple_rec.inference.raw_rows import RawHeldOutRows
from ple_rec.inference.signature import Signature

_FEWEST, _MOST = 5, 60  # rows of an example, where there are such
_UNGROUPED = 40  # rows of an example where there are no groups, and a row holds all features


def examples_of(raw: RawHeldOutRows, signature: Signature, most: int) -> list[dict[str, Any]]:
    """Return users of a split and what they were shown, as requests for a ranking in raw values, with their labels.

    Args:
        raw: Rows of the split.
        signature: Signature of the model.
        most: Largest number of examples.
    """
    rows = raw.rows
    users = rows.group_N is not None or bool(signature.of("user"))
    lists = _of_users(rows, signature) if users else _of_nobody(rows)
    fit = [own_N for own_N in lists if _FEWEST <= len(own_N) <= _MOST]
    chosen = fit or sorted(lists, key=len, reverse=True)
    examples = []
    for n, own_N in enumerate(chosen[:most], 1):
        shown_N = own_N[:_MOST]
        columns = raw.columns(shown_N)
        user = {each.name: columns[each.name][0] for each in signature.of("user")}
        items = [{each.name: columns[each.name][i] for each in signature.of("item")} for i in range(len(shown_N))]
        name = f"{rows.split} user {n}" if users else f"rows {shown_N[0]:,} to {shown_N[-1]:,}"
        named = next((user[key] for key in ("user_id", "user") if user.get(key) is not None), None)
        labels = [
            {
                task.name: float(rows.labels_NK[row, k]) if rows.in_space_NK[row, k] else None
                for k, task in enumerate(signature.tasks)
            }
            for row in shown_N.tolist()
        ]
        title = name if named is None else f"user {named}"
        examples.append({"name": title, "request": {"user": user, "items": items}, "labels": labels})
    return examples


def _of_users(rows: HeldOut, signature: Signature) -> list[NDArray[np.int64]]:
    """Return the rows of each group; without groups, those of equal users, the first user first."""
    if rows.group_N is not None:
        cuts = np.flatnonzero(rows.group_N[1:] != rows.group_N[:-1]) + 1
        spans = np.split(np.arange(len(rows.group_N)), cuts)
        return [own_N for own_N in spans if len(own_N) and rows.group_N[own_N[0]] >= 0]
    values = rows.comparable()
    lists: dict[tuple[Any, ...], list[int]] = {}
    for row, user in enumerate(zip(*(values[each.name].tolist() for each in signature.of("user")), strict=True)):
        lists.setdefault(user, []).append(row)
    return [np.array(own) for own in lists.values()]


def _of_nobody(rows: HeldOut) -> list[NDArray[np.int64]]:
    return np.split(np.arange(len(rows)), range(_UNGROUPED, len(rows), _UNGROUPED)) if len(rows) else []
