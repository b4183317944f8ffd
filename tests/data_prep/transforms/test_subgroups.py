"""A list in `group`: its first entry is the group as before, and all entries together are the subgroup."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ple_rec.config.load import load_schema
from tests.data_prep.feed_logs import digests, read
from tests.data_prep.plain_logs import Logs, day_of, with_column

LIST = 'group=["user_id", "time.day"]'
# Two days of test, and parts and row groups of a few users each.
TWO_DAYS = ('split={by="day",train=[1,2],valid=[3,3],test=[4,5]}', "output={part_rows=20,row_group_rows=4}")
CARRY = 'carry={day="time.day",user="user_id"}'


def test_valid_and_test_are_sorted_by_group_then_by_subgroup(tmp_path: Path) -> None:
    logs = Logs(tmp_path, days=5)
    logs.prepare(LIST, CARRY, *TWO_DAYS)
    schema = load_schema(logs.out)
    assert (schema.group, schema.subgroup, schema.group_by) == ("group", "subgroup", ("user_id", "time.day"))
    rows = read(logs.out, "test").to_pylist()
    keys = [(row["group"], row["subgroup"]) for row in rows]
    assert keys == sorted(keys)
    assert len({row["subgroup"] for row in rows}) == 14
    assert len({(row["subgroup"], row["user"], row["day"]) for row in rows}) == 14
    groups = [
        set(file.read_row_group(i, ["group"])["group"].to_pylist())
        for part in sorted((logs.out / "test").glob("*.parquet"))
        for file in [pq.ParquetFile(part)]
        for i in range(file.num_row_groups)
    ]
    assert sum(map(len, groups)) == len(set().union(*groups))  # No user lies in two row groups, or in two parts.


def test_everything_but_the_order_inside_a_group_is_that_of_the_first_entry(tmp_path: Path) -> None:
    held_out = 'split={by="held_out",days=[1,5],valid=0.3,test=0.3}'
    columns = []
    for name, group in (("one", "group=user_id"), ("list", LIST)):
        logs = Logs(tmp_path / name, days=5)
        logs.prepare(group, 'carry={at="time_ms"}', held_out)
        tables = [read(logs.out, split) for split in ("train", "valid", "test")]
        names = [column for column in tables[0].column_names if column != "subgroup"]
        columns.append([table.select(names).sort_by([("group", "ascending"), ("at", "ascending")]) for table in tables])
        assert all(len(table) for table in tables)
        train = tables[0].select(names)
        columns[-1].append(train)  # Training rows keep the order of the log.
    assert columns[0] == columns[1]


def test_a_list_of_one_entry_is_that_entry(tmp_path: Path) -> None:
    digest = []
    for name, group in (("one", "group=user_id"), ("list", 'group=["user_id"]')):
        logs = Logs(tmp_path / name)
        logs.prepare(group)
        assert load_schema(logs.out).subgroup is None
        digest.append([pq.read_table(part) for part in sorted((logs.out / "test").glob("*.parquet"))])
    assert digest[0] == digest[1]


def test_a_row_that_lacks_an_entry_has_no_subgroup(tmp_path: Path) -> None:
    users = [None, -1, 3, 3, 3, 5] * 4
    sessions = ["a", "a", "a", None, "a:5", "a"] * 4
    day = with_column(day_of(4), "user_id", users, pa.int64()).append_column("session", pa.array(sessions))
    logs = Logs(tmp_path)
    for number in (1, 2, 3):
        logs.write(number, day_of(number).append_column("session", pa.array(["a"] * 24)))
    logs.write(4, day)
    logs.prepare('group=["user_id", "session"]', 'carry={user="user_id",session="session"}')
    rows = read(logs.out, "test").to_pylist()
    subgroups: dict[tuple[object, object], set[object]] = {}
    for row in rows:
        subgroups.setdefault((row["user"], row["session"]), set()).add(row["subgroup"])
    assert all(len(each) == 1 for each in subgroups.values())
    assert {entries for entries, each in subgroups.items() if each == {None}} == {(None, "a"), (-1, "a"), (3, None)}
    known = [each for each in subgroups.values() if each != {None}]
    assert len(set.union(*known)) == len(known) == 3


@pytest.mark.parametrize("threads", [1, 2])
def test_the_bytes_do_not_depend_on_the_threads(threads: int, tmp_path: Path) -> None:
    logs = [Logs(tmp_path / name, days=5) for name in ("one", "other")]
    for each, count in zip(logs, (1, threads), strict=True):
        each.prepare(LIST, *TWO_DAYS, threads=count)
    assert digests(logs[0].out) == digests(logs[1].out)


def test_an_appended_day_keeps_the_groups_of_its_parent(tmp_path: Path) -> None:
    logs = Logs(tmp_path, days=5)
    logs.prepare(LIST)
    parent = logs.out
    logs.out = tmp_path / "day 5"
    logs.prepare(LIST, "append={valid=0.3,test=0.3}", append="day=5", parent=parent)
    schema = load_schema(logs.out)
    assert (schema.subgroup, schema.group_by) == ("subgroup", ("user_id", "time.day"))
    users = [set(read(logs.out, split)["group"].to_pylist()) for split in ("train", "valid", "test")]
    assert sum(map(len, users)) == len(set().union(*users)) == 7
