"""Values that are admitted and expire on appended days, against a reference in plain Python; refusals; interruption."""

from __future__ import annotations

import re
import shutil
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NoReturn

import pyarrow.parquet as pq
import pytest

from data_prep import dry_run as dry_run_module
from data_prep.dry_run import dry_run
from data_prep.output.summary import Summary
from data_prep.pipeline import Pipeline
from data_prep.run import EngineName, Options
from ple_rec.config.base import SPLITS
from ple_rec.config.load import load_schema
from ple_rec.data.verify import dataset_problems
from ple_rec.errors import DataError, PleRecError, UserError
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
    freed, assigned, waiting = Counter[str](), Counter[str](), Counter[str]()
    for name, (tables, numbers) in expected_tables(chain).items():
        for key, table in tables.items():
            assert chain.vocabulary(name, key) == table.entries, (name, key)
        stats = Summary.read(chain.root / name, reused=True).stats
        without_counts = {key: each for key, each in numbers.items() if key != "shop"}
        assert stats.get("table_rows", {}) == without_counts
        for key, each in numbers.items():
            freed[key] += each["freed"]
            assigned[key] += each["assigned"]
            waiting[key] += stats["overflow"].get(key, {}).get("values", 0)
    # The logs exercise every rule.
    assert min(freed["user_id"], freed["video"], freed["tag"]) > 5
    assert freed["city"] == freed["shop"] == 0
    assert min(assigned.values()) > 1
    assert min(waiting["user_id"], waiting["tag"], waiting["city"]) > 0


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


def test_a_dry_run_counts_the_rows_that_the_run_changes(chain: Chain) -> None:
    options = Options(str(chain.write([6])), threads=1, append="day=6", parent=chain.root / "day-5")
    lines = str(dry_run(str(chain.root / "turnover.toml"), None, options)).splitlines()
    stats = Summary.read(chain.root / "day-6", reused=True).stats
    for key, rows in stats["table_rows"].items():
        waiting = stats["overflow"].get(key, {}).get("values", 0)
        words = f"{rows['assigned'] + waiting} new and {rows['freed']} expired, {rows['free'] + rows['assigned']} of"
        (line,) = [line for line in lines if line.startswith(f"  rows         table {key}: ")]
        assert words in line
        assert (" the rarest " in line) == (waiting > 0)


def test_a_dry_run_of_a_sample_counts_its_rows_for_the_log(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that a sample of half of the rows has once is taken to have two rows of the log, which admit it."""
    monkeypatch.setattr(dry_run_module, "SAMPLE_ROWS", 4)
    raw = chain.write([17])
    options = Options(str(raw), threads=1, append="day=17", parent=chain.root / "day-12")
    lines = str(dry_run(str(chain.root / "turnover.toml"), None, options)).splitlines()
    (line,) = [line for line in lines if line.startswith("  rows         table user_id: ")]
    (new,) = re.findall(r": about (\d+) new and", line)
    (sampled,) = [line for line in lines if line.startswith("  user_id  ")]
    users = [row["user_id"] for row in [*chain.days[17][:4], *chain.days[17][10:14], *chain.days[17][20:]]]
    assert int(sampled.split()[-2].replace(",", "")) > sum(count > 1 for count in Counter(users).values())
    assert int(new) >= int(sampled.split()[-2])


def test_datasets_with_freed_rows_verify(chain: Chain) -> None:
    assert any(value is None for table in reference_tables() for value, _, _ in chain.vocabulary("day-14", table))
    assert list(dataset_problems(chain.root / "day-14")) == []


def test_a_run_that_goes_on_makes_the_same_dataset(chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    for method in ("_write_parts", "_count_json"):  # After the vocabularies are written, and before.
        with monkeypatch.context() as patched:
            patched.setattr(Pipeline, method, stop)
            with pytest.raises(KeyboardInterrupt):
                chain.append("again", 7, "day-6")
    chain.append("again", 7, "day-6")
    assert digests(chain.root / "again") == digests(chain.root / "day-7")


@pytest.mark.spark
@pytest.mark.slow
def test_both_engines_make_the_same_bytes(tmp_path: Path) -> None:
    logs = Chain(tmp_path)

    def prepared(engine: EngineName) -> list[dict[str, str]]:
        names = [f"{engine}-{day}" for day in (3, 4, 5, 6)]
        logs.prepare(names[0], engine=engine)
        for parent, name in pairwise(names):
            logs.append(name, int(name[-1]), parent, engine=engine)
        return [digests(tmp_path / name) for name in names]

    duck, spark = prepared("duckdb"), prepared("spark")
    assert duck == spark
    assert "rates/values_of_user_id.parquet" in duck[-1]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("tables.user_id.expire.unseen_days=2",),
            "tables.user_id: expire.unseen_days = 2 is less than admit.days = 3, so a value could expire and be "
            "admitted on the same day; raise unseen_days, or lower admit.days",
        ),
        (
            ("tables.city.min_count=4",),
            "tables.city: min_count = 4 leaves out values on the first days that admit.count = 3 admits on the next; "
            "lower min_count, or raise admit.count",
        ),
        (
            ('split={by="hash",value="row",valid=0.2,test=0.2}',),
            "tables.user_id: admit and expire decide on days that --append adds, which needs a split by day; set "
            'split.by = "day", or drop them',
        ),
        (
            ('sparse=[{name="user_id",quantiles=3}]', "tables={user_id={expire={unseen_days=3}}}"),
            "tables.user_id: a bucketised feature has no vocabulary; drop it",
        ),
        (("tables.city.admit.count=0",), "tables.city.admit.count: "),
    ],
)
def test_configurations_that_are_refused(chain: Chain, overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        chain.prepare("refused", *overrides)
    assert message in str(caught.value)


def test_a_day_with_other_conditions_than_its_parent_is_refused(chain: Chain) -> None:
    for override, difference in (
        ("tables.user_id.admit.count=3", "tables.user_id.admit.count = 2, now 3"),
        ("tables.shop.expire={unseen_days=9}", "tables.shop.expire.unseen_days = nothing, now 9"),
    ):
        with pytest.raises(UserError) as caught:
            chain.append("refused", 6, "day-5", override)
        assert f"was prepared with {difference}; an appended day keeps every column's meaning. Fix: " in str(
            caught.value
        )


def test_a_parent_without_its_counts_is_refused(chain: Chain) -> None:
    shutil.copytree(chain.root / "day-5", chain.root / "broken")
    file = chain.root / "broken" / "rates" / "values_of_city.parquet"
    content = file.read_bytes()
    file.write_bytes(content[:-20] + b"damage" + content[-14:])
    with pytest.raises(DataError, match=r"values_of_city\.parquet: SHA-256 .*, so the file has changed since"):
        chain.append("refused", 6, "broken")
    success = chain.root / "broken" / "_SUCCESS"
    digests_of_files = success.read_text()
    success.write_text("")  # Then files are read without a check of their digests.
    file.write_bytes(content[:-20])
    with pytest.raises(DataError, match=r"values_of_city\.parquet: unreadable \(.*\); values of an appended day are"):
        chain.append("refused", 6, "broken")
    success.write_text(digests_of_files)
    file.unlink()
    with pytest.raises(PleRecError, match=r"values_of_city\.parquet"):
        chain.append("refused", 6, "broken")
    success.write_text("")
    with pytest.raises(DataError) as caught:
        chain.append("refused", 6, "broken")
    assert str(caught.value) == (
        f"{file}: no such file; values of an appended day are admitted and expire by the counts in this file. Fix: "
        "copy it again, or prepare the first days again"
    )


def test_an_expiry_that_would_empty_a_table_is_refused(chain: Chain) -> None:
    rows = chain.days[19]
    chain.days[19] = [row | {"user_id": None} for row in rows]
    with pytest.raises(DataError) as caught:
        chain.append("refused", 19, "day-12")
    in_use = sum(value is not None for value, _, _ in chain.vocabulary("day-12", "user_id"))
    assert str(caught.value) == (
        f"tables.user_id.expire: none of the {in_use} values occurs in a training row of 2022-01-23 to 2022-01-26, "
        "and no value is new; an expiry leaves a table some of its values. Fix: check user_id in the logs of these "
        "days, or raise unseen_days"
    )
    chain.days[19] = rows
    summary, _ = chain.append("day-19", 19, "day-12")  # If other values are new, all values may expire.
    assert summary.stats["table_rows"]["user_id"]["freed"] == in_use
