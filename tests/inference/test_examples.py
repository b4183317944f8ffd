"""Examples are lists of one user each, with that user's labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ple_rec.inference.examples import build_examples
from ple_rec.inference.ranker import Ranker
from tests.inference.feed import FIRST_USER
from tests.inference.test_raw_rows import raw_rows

MIXED = [1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 3]


def lists_of(
    feed: Path, feed_model: Path, ranker: Ranker, users: list[int], *, grouped: bool, of: str = "user"
) -> list[dict[str, Any]]:
    """Examples of rows of these users, the labels being the rows' numbers."""
    row_NK = np.arange(len(users), dtype=np.float32)[:, None].repeat(2, axis=1)
    rows = [{"user_id": FIRST_USER + user, "hour": 3} for user in users]
    raw = raw_rows(feed, feed_model, ranker, rows, row_NK, np.array(users) if grouped else None)
    signature = ranker.signature
    inputs = tuple(each if each.of == of else each.model_copy(update={"of": "item"}) for each in signature.inputs)
    return build_examples(raw, signature.model_copy(update={"inputs": inputs}), 24)


@pytest.mark.parametrize(("users", "grouped"), [(sorted(MIXED), True), (sorted(MIXED), False), (MIXED, False)])
def test_a_list_has_one_user(feed: Path, feed_model: Path, ranker: Ranker, users: list[int], grouped: bool) -> None:
    found = lists_of(feed, feed_model, ranker, users, grouped=grouped)
    whose = [each["request"]["user"]["user_id"] - FIRST_USER for each in found]
    labels = [[label["like"] for label in each["labels"]] for each in found]
    assert whose == [1, 2]  # of user 3 there is too little
    assert labels == [[i for i, own in enumerate(users) if own == user] for user in whose]
    assert [each["name"] for each in found] == [f"user {FIRST_USER + user}" for user in whose]


def test_without_users_a_list_is_the_rows_that_follow_each_other(feed: Path, feed_model: Path, ranker: Ranker) -> None:
    (found,) = lists_of(feed, feed_model, ranker, MIXED, grouped=False, of="nobody")
    assert found["name"] == "rows 0 to 10"
    assert found["request"]["user"] == {}
    assert [label["like"] for label in found["labels"]] == list(range(11))
