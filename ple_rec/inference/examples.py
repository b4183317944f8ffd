"""Examples of requests for a ranking, made from held-out rows: for the check of an export, and for the server's page.

Shape suffixes: N rows, K tasks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ple_rec.inference.held_out import HeldOutRows, RawHeldOutRows
from ple_rec.inference.signature import Signature

# An example has the rows of one user. Users with `_MIN_ROWS` to `_MAX_ROWS` rows are taken. If there are none, the
# users with the most rows are taken, and each of their examples has at most the first `_MAX_ROWS` rows.
_MIN_ROWS, _MAX_ROWS = 5, 60
# Number of rows of an example if rows cannot be assigned to users, as there are neither groups nor user features.
_UNGROUPED_ROWS = 40


def build_examples(raw: RawHeldOutRows, signature: Signature, max_examples: int) -> list[dict[str, Any]]:
    """Return examples of requests for a ranking: a user of the split with the items that the user saw.

    All values of the user, histories included, are those of the first row of the example. If rows cannot be assigned
    to users, an example is made of consecutive rows.

    Args:
        raw: Rows of the split.
        signature: Inputs and tasks of the exported model.
        max_examples: Maximum number of examples.

    Returns:
        Examples with `name`, `request` (a body of `/v1/rank`) and `labels`: for each item a mapping from each task's
        name to the label, which is None outside of the task's sample space.
    """
    rows = raw.rows
    has_users = rows.group_N is not None or bool(_user_names(signature))
    lists = _rows_by_user(rows, signature) if has_users else _consecutive_rows(rows)
    fitting = [rows_N for rows_N in lists if _MIN_ROWS <= len(rows_N) <= _MAX_ROWS]
    candidates = fitting or sorted(lists, key=len, reverse=True)
    examples = []
    for n, candidate_N in enumerate(candidates[:max_examples], 1):
        rows_N = candidate_N[:_MAX_ROWS]
        columns = raw.columns(rows_N)
        user = {each.name: columns[each.name][0] for each in signature.inputs_of("user")}
        items = [{each.name: columns[each.name][i] for each in signature.inputs_of("item")} for i in range(len(rows_N))]
        name = f"{rows.split} user {n}" if has_users else f"rows {rows_N[0]:,} to {rows_N[-1]:,}"
        user_id = next((user[key] for key in ("user_id", "user") if user.get(key) is not None), None)
        labels = [
            {
                task.name: float(rows.labels_NK[row, k]) if rows.in_space_NK[row, k] else None
                for k, task in enumerate(signature.tasks)
            }
            for row in rows_N.tolist()
        ]
        title = name if user_id is None else f"user {user_id}"
        examples.append({"name": title, "request": {"user": user, "items": items}, "labels": labels})
    return examples


def _rows_by_user(rows: HeldOutRows, signature: Signature) -> list[NDArray[np.int64]]:
    """Return the indices of each user's rows, in the order in which the users appear.

    A user is a group. In a dataset without groups, rows with equal user features belong to the same user.
    """
    if rows.group_N is not None:
        cuts = np.flatnonzero(rows.group_N[1:] != rows.group_N[:-1]) + 1
        spans = np.split(np.arange(len(rows.group_N)), cuts)
        return [rows_N for rows_N in spans if len(rows_N) and rows.group_N[rows_N[0]] >= 0]
    values = rows.comparison_keys()
    lists: dict[tuple[Any, ...], list[int]] = {}
    for row, user in enumerate(zip(*(values[name].tolist() for name in _user_names(signature)), strict=True)):
        lists.setdefault(user, []).append(row)
    return [np.array(indices) for indices in lists.values()]


def _user_names(signature: Signature) -> list[str]:
    """Return the names of the features by whose values rows are assigned to users.

    Histories are not among them, since those of one user's rows differ: a later row may see more events.
    """
    return [each.name for each in signature.inputs_of("user") if each.events is None]


def _consecutive_rows(rows: HeldOutRows) -> list[NDArray[np.int64]]:
    """Return the indices of the rows in consecutive parts of `_UNGROUPED_ROWS` rows; the last part may have fewer."""
    return np.split(np.arange(len(rows)), range(_UNGROUPED_ROWS, len(rows), _UNGROUPED_ROWS)) if len(rows) else []
