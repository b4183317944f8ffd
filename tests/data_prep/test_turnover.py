"""Values that are admitted and expire on appended days, against a reference in plain Python; refusals; interruption."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from data_prep.output.summary import Summary
from ple_rec.config.base import SPLITS
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import PrepConfig
from tests.data_prep.feed_logs import digests, read
from tests.data_prep.turnover_logs import DAY_1, LAST_TRAINING_DAY, Chain, ReferenceTable, reference_tables

# Day 9 is passed over, and day 4 is a day of valid of the first dataset.
APPENDED_DAYS = (4, 5, 6, 7, 8, 10, 11, 12, 13, 14)
NAMES = ["first", *(f"day-{day}" for day in APPENDED_DAYS)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """Datasets of the first days and of ten appended ones."""
    chain = Chain(tmp_path_factory.mktemp("turnover"))
    chain.prepare("first")
    for parent, day in zip(NAMES, APPENDED_DAYS, strict=False):
        chain.append(f"day-{day}", day, parent)
    return chain


def expected_tables(chain: Chain) -> dict[str, tuple[dict[str, ReferenceTable], dict[str, dict[str, int]]]]:
    """Return the tables of the reference after each dataset, and the entries of `table_rows`."""
    tables, expected = reference_tables(), {}
    for name, day in zip(NAMES, (LAST_TRAINING_DAY, *APPENDED_DAYS), strict=True):
        epoch_day, numbers = DAY_1 + day - 1, {}
        for key, table in tables.items():
            table.count(chain.training_rows(name))
            if name == "first":
                table.begin(epoch_day)
                continue
            assigned, freed = table.append(epoch_day)
            in_use = sum(value is not None for value, _, _ in table.entries)
            assert table.limit is not None
            numbers[key] = {"in_use": in_use, "free": table.limit - in_use, "assigned": assigned, "freed": freed}
        copies = {key: replace(table, entries=list(table.entries)) for key, table in tables.items()}
        expected[name] = (copies, numbers)
    return expected


def test_vocabularies_of_ten_days_are_those_of_the_reference(chain: Chain) -> None:
    freed, reused, waiting = Counter[str](), Counter[str](), Counter[str]()
    for name, (tables, numbers) in expected_tables(chain).items():
        for key, table in tables.items():
            assert chain.vocabulary(name, key) == table.entries, (name, key)
        stats = Summary.read(chain.root / name, reused=True).stats
        without_counts = {key: each for key, each in numbers.items() if key != "shop"}
        assert stats.get("table_rows", {}) == without_counts
        for key, each in numbers.items():
            freed[key] += each["freed"]
            reused[key] += each["assigned"]
            waiting[key] += stats["overflow"].get(key, {}).get("values", 0)
    # The logs exercise every rule.
    assert freed["user_id"] > 10 and freed["video"] > 10 and freed["tag"] > 5
    assert not freed["city"] and not freed["shop"]
    assert min(reused.values()) > 3
    assert waiting["user_id"] and waiting["city"] and not waiting["video"]


def test_counts_of_the_days_that_are_needed_are_kept(chain: Chain) -> None:
    tables = reference_tables()
    days = {"user_id": 4, "video": 2, "tag": 2, "city": 4}
    for name, day in zip(NAMES, (LAST_TRAINING_DAY, *APPENDED_DAYS), strict=True):
        last = DAY_1 + day - 1
        assert {file.stem for file in (chain.root / name / "rates").iterdir()} == {f"values_of_{key}" for key in days}
        for key, count in days.items():
            tables[key].count(chain.training_rows(name))
            columns = pq.read_table(chain.root / name / "rates" / f"values_of_{key}.parquet")
            assert columns.column_names == ["raw", "day", "count"]
            stored = list(zip(*columns.to_pydict().values(), strict=True))
            by_day = ((epoch, tables[key].by_day.get(epoch, Counter())) for epoch in range(last - count + 1, last + 1))
            assert stored == sorted((raw, epoch, n) for epoch, counts in by_day for raw, n in counts.items())


@pytest.mark.parametrize("name", NAMES[1::4])
def test_rows_of_the_parts_are_those_of_the_vocabulary(name: str, chain: Chain) -> None:
    rows = {raw: row for row, (raw, _, _) in enumerate(chain.vocabulary(name, "video"), 1) if raw is not None}
    by_number = {row["row"]: row for each in chain.days.values() for row in each}
    for split in SPLITS:
        part = read(chain.root / name, split)
        for number, video, history in zip(*(part[c].to_pylist() for c in ("row", "video_id", "history")), strict=True):
            assert video == rows.get(by_number[number]["video_id"], 0)
            assert history == [rows.get(each, 0) for each in by_number[number]["history"][-2:]]


def test_the_summary_says_how_many_rows_changed(chain: Chain) -> None:
    summary = Summary.read(chain.root / "day-6", reused=False, parent=load_schema(chain.root / "day-5"))
    rows = summary.stats["table_rows"]["user_id"]
    words = (
        f"user_id {rows['in_use']} in use, {rows['free']} free, {rows['assigned']} assigned and {rows['freed']} freed"
    )
    (line,) = [line for line in str(summary).splitlines() if line.startswith("  rows for values: ")]
    assert f"{words} on this day" in line
    assert any(line.startswith("  new values, free rows: shop ") for line in str(summary).splitlines())
