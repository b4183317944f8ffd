"""Admission, expiry and the assignment of rows as expressions, against dictionaries."""

from __future__ import annotations

from collections import Counter
from typing import Any

import ibis
import ibis.expr.types as ir
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep.transforms.columns import DAY, LOG_ROW_COUNT
from data_prep.vocabulary.numbering import assign_freed_rows, new_values
from data_prep.vocabulary.turnover import add_day, admitted_values, count_by_day, expire_values
from ple_rec.config.prep import TableSpec

CONNECTION = ibis.duckdb.connect()
TODAY = 19_000
VALUES = st.sampled_from(["a", "b", "c", "d", "e", "f"])
# Numbers of training rows by value and day.
COUNTS = st.dictionaries(st.tuples(VALUES, st.integers(TODAY - 5, TODAY - 1)), st.integers(1, 3), max_size=12)


def as_counts(counts: dict[tuple[str, int], int], day_type: pa.DataType) -> ir.Table:
    """Return counts of values by day as a table."""
    columns = {
        "raw": pa.array([value for value, _ in counts], pa.string()),
        "day": pa.array([day for _, day in counts], day_type),
        "count": pa.array(list(counts.values()), pa.int64()),
    }
    return ibis.memtable(pa.table(columns))


def materialize(rows: ir.Table) -> ir.Table:
    """Compute a table and return it as a table of its own, as an engine does."""
    return ibis.memtable(CONNECTION.to_pyarrow(rows))


def fetch(rows: ir.Table) -> list[dict[str, Any]]:
    """Compute the rows of a table."""
    fetched: list[dict[str, Any]] = CONNECTION.to_pyarrow(rows).to_pylist()
    return fetched


@settings(deadline=None, max_examples=25)
@given(
    COUNTS,
    st.dictionaries(VALUES, st.integers(1, 3), max_size=4),
    st.lists(st.none() | VALUES, max_size=6, unique=True),
    st.none() | st.fixed_dictionaries({"count": st.integers(1, 4), "days": st.integers(1, 4)}),
    st.none() | st.integers(4, 5),
)
def test_the_rules_of_a_day(
    earlier: dict[tuple[str, int], int],
    today: dict[str, int],
    parent: list[str | None],
    admit: dict[str, int] | None,
    unseen_days: int | None,
) -> None:
    expire = None if unseen_days is None else {"unseen_days": unseen_days}
    spec = TableSpec.model_validate(
        {"admit": admit or ({"count": 1, "days": 1} if expire is None else None), "expire": expire}
    )
    counts = as_counts(earlier, pa.int32())
    later = as_counts({(value, TODAY): count for value, count in today.items()}, pa.int64())
    merged = materialize(add_day(spec, counts, later, TODAY))
    known = ibis.memtable(
        pa.table(
            {
                "raw": pa.array(parent, pa.string()),
                "row": pa.array(range(1, len(parent) + 1), pa.int32()),
                "count": pa.array([0 if value is None else 7 for value in parent], pa.int64()),
                "day": pa.array([None if value is None else TODAY - 9 for value in parent], pa.int32()),
            }
        )
    )
    by_day = earlier | {(value, TODAY): count for value, count in today.items()}
    kept_days = range(TODAY - spec.counted_days + 1, TODAY + 1)
    assert {(r["raw"], r["day"]): r["count"] for r in fetch(merged)} == {
        key: count for key, count in by_day.items() if key[1] in kept_days
    }

    def total(days: int) -> Counter[str]:
        sums = Counter[str]()
        for (value, day), count in by_day.items():
            sums[value] += count if day > TODAY - days else 0
        return sums

    values = [
        value if value is not None and (unseen_days is None or total(unseen_days)[value]) else None for value in parent
    ]
    remaining = materialize(expire_values(spec, known, merged, TODAY))
    entries = sorted(fetch(remaining), key=lambda entry: int(entry["row"]))
    assert [entry["raw"] for entry in entries] == values
    assert all((entry["count"], entry["day"]) == (0, None) for entry in entries if entry["raw"] is None)
    sums, minimum = (total(1), 1) if spec.admit is None else (total(spec.admit.days), spec.admit.count)
    expected = {value: sums[value] for value in sums if sums[value] >= minimum and value not in values}
    new = materialize(new_values(admitted_values(spec, merged, TODAY), remaining))
    assert {row["raw"]: row["count"] for row in fetch(new)} == expected
    free = [row for row, value in enumerate(values, 1) if value is None]
    order = sorted(expected, key=lambda value: (-expected[value], value))
    rows = [*free, *range(len(values) + 1, len(values) + 1 + len(order))]
    freed = remaining.filter(remaining["raw"].isnull())
    assigned = fetch(assign_freed_rows(new, freed, len(free), len(values)))
    assert {row["raw"]: row["row"] for row in assigned} == dict(zip(order, rows, strict=False))


def test_the_earliest_day_that_decides() -> None:
    spec = TableSpec.model_validate({"admit": {"count": 2, "days": 2}, "expire": {"unseen_days": 4}})
    counts = materialize(
        as_counts(
            {
                ("kept", TODAY - 3): 1,  # The first of the four days that decide on expiry.
                ("expired", TODAY - 4): 9,
                ("admitted", TODAY - 1): 2,  # The first of the two days that decide on admission.
                ("too early", TODAY - 2): 9,
            },
            pa.int64(),
        )
    )
    known = pa.table(
        {
            "raw": ["kept", "expired"],
            "row": pa.array([1, 2], pa.int32()),
            "count": [1, 1],
            "day": pa.array([0, 0], pa.int32()),
        }
    )
    remaining = fetch(expire_values(spec, ibis.memtable(known), counts, TODAY).order_by("row"))
    assert [entry["raw"] for entry in remaining] == ["kept", None]
    assert [row["raw"] for row in fetch(admitted_values(spec, counts, TODAY))] == ["admitted"]


def test_a_row_of_a_side_table_counts_for_each_of_its_log_rows() -> None:
    values = ibis.memtable(pa.table({"raw": ["a", "a", "b"], DAY: [5, 5, 6], LOG_ROW_COUNT: [2, 1, 4]}))
    counts = {(row["raw"], row["day"]): row["count"] for row in fetch(count_by_day(values))}
    assert counts == {("a", 5): 3, ("b", 6): 4}
    weighted = {row["raw"]: row["count"] for row in fetch(count_by_day(values, weight=2.5))}
    assert weighted == {"a": 7, "b": 10}
