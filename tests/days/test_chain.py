"""Which day is next: in order, each once, and open days first."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import pytest

from ple_rec.days.chain import FIRST, Chain, PreparedDay, choose_day
from ple_rec.days.record import DayRecord, read_record, write_record
from ple_rec.errors import DataError, UserError

RECORD = DayRecord(
    day="2024-05-07",
    name="first",
    verdict="published",
    reasons=(),
    dataset="d",
    run="r",
    started_from=None,
    rows={"train": 1},
    tables={"user": 2},
    compared_with=None,
    differences=(),
    version="v1",
    form="whole",
    bytes=1,
    seconds={},
)


def chain_of(
    folder: Path, *verdicts: Literal["published", "refused", "accepted"] | None, root: date = date(2024, 5, 7)
) -> Chain:
    """A chain of the root and following days, with a record for each that has a verdict."""
    chain = Chain(folder)
    days = []
    for i, verdict in enumerate(verdicts):
        day = root + timedelta(i)
        name = day.isoformat() if i else FIRST
        days.append(PreparedDay(name, day, f"{i}", tuple(map(str, range(i, -1, -1)))))
        if verdict is not None:
            write_record(chain.record_file(name), replace(RECORD, day=day.isoformat(), name=name, verdict=verdict))
    chain.__dict__["days"] = tuple(days)  # the cached property
    return chain


@pytest.mark.parametrize(
    ("verdicts", "requested", "name"),
    [
        ((), None, "first"),
        ((None,), None, "first"),
        (("accepted",), None, "first"),
        (("published",), None, "2024-05-08"),
        (("published", None), None, "2024-05-08"),
        (("published", "accepted"), None, "2024-05-08"),
        (("published", "refused"), None, "2024-05-09"),
        (("published", "published"), None, "2024-05-09"),
        (("published", "refused"), "2024-05-08", "2024-05-08"),
        (("published", "published"), "2024-05-07", "first"),
        # The caller may go on although a day was never finished.
        (("published", None), "2024-05-09", "2024-05-09"),
    ],
)
def test_the_next_day(tmp_path: Path, verdicts: tuple[None, ...], requested: str | None, name: str) -> None:
    day = None if requested is None else date.fromisoformat(requested)
    assert choose_day(chain_of(tmp_path, *verdicts), day, frozenset()) == name


def test_days_that_the_log_does_not_have_are_passed_over(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "published")
    missing = {date(2024, 5, 8), date(2024, 5, 9)}
    assert choose_day(chain, None, missing) == "2024-05-10"
    assert choose_day(chain, date(2024, 5, 10), missing) == "2024-05-10"
    with pytest.raises(UserError, match=r"--day 2024-05-10: 2024-05-09 is missing between 2024-05-07 and this day"):
        choose_day(chain, date(2024, 5, 10), {date(2024, 5, 8)})


@pytest.mark.parametrize(
    ("verdicts", "day", "message"),
    [
        ((), "2024-05-08", "has no days yet; .* leave --day out once"),
        (("published",), "2024-05-06", "is before 2024-05-07, the last day of .* days are appended in order"),
        (("published",), "2024-05-09", '2024-05-08 is missing .* missing_days = ."2024-05-08".'),
        (("published",), "2024-06-09", "2024-05-08, 2024-05-09, 2024-05-10 and 29 more are missing"),
    ],
)
def test_a_day_out_of_order_is_refused(tmp_path: Path, verdicts: tuple[None, ...], day: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_day(chain_of(tmp_path, *verdicts), date.fromisoformat(day), frozenset())


def test_a_day_whose_dataset_was_removed_is_known_by_its_record(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, "published", "published", "published")
    chain.__dict__["days"] = chain.days[-1:]
    assert choose_day(chain, date(2024, 5, 8), frozenset()) == "2024-05-08"
    assert choose_day(chain, date(2024, 5, 7), frozenset()) == FIRST


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "first.json").write_text('{"day": ')
    with pytest.raises(DataError, match=r"first.json: damaged; .* remove it; the day is then open again"):
        read_record(tmp_path / "first.json")
    assert read_record(tmp_path / "other.json") is None
