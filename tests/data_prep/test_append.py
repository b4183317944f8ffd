"""One more day: ids stay, new ones follow, edges and thresholds are the parent's, and a checkpoint of it loads."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import tomli_w

from data_prep.append import append_config, parse_day
from data_prep.dry_run import dry_run
from data_prep.expressions.times import days_since_1970
from data_prep.output.parent import Parent
from data_prep.output.summary import Summary
from data_prep.pipeline import Pipeline
from data_prep.run import Options, prepare
from ple_rec.cli import main
from ple_rec.config.base import SPLITS
from ple_rec.config.load import load_config, load_schema
from ple_rec.config.prep import DaySplit, HeldOutSplit, PrepConfig
from ple_rec.data.dataset import DatasetDirectory
from ple_rec.data.row_assignments import rows_assigned_after
from ple_rec.errors import DataError, PleRecError, UserError
from tests.data_prep.feed_logs import digests, hashed_as_python, read
from tests.data_prep.plain_logs import SIDE, TOML, Logs, day_of, with_column

CAPACITY = 11
FEED = TOML.replace(
    'label = "is_like"', 'label = "duration_ms > threshold"\nthreshold = {value = "duration_ms", quantile = 0.75}'
).replace("[checks]", "[append]\nvalid = 0.3\ntest = 0.3\n\n[checks]") + (
    f"""
[tables.video_id]
capacity = {CAPACITY}

[tables.video_hashed]
capacity = 12
overflow = "hash"
hash_rows = 4

[[sparse]]
name = "video_hashed"
value = "video_id"

[[sparse]]
name = "user"
value = "user_id"

[[sparse]]
name = "duration"
value = "duration_ms"
quantiles = 4
"""
)


def feed(root: Path) -> Logs:
    """Four days of videos v0 to v4; on each later day three more videos, which the day's number names, and a user."""
    logs = Logs(root, FEED)
    for day in (5, 6, 7):
        table = day_of(day)
        videos = [f"w{day}{i % 3}" if i % 4 else f"v{i % 5}" for i in range(table.num_rows)]
        users = [90 + day if i == 3 else user for i, user in enumerate(table["user_id"].to_pylist())]
        logs.write(day, with_column(with_column(table, "video_id", videos), "user_id", users))
    return logs


class Days:
    """The first days and each appended one, in folders of their names."""

    def __init__(self, logs: Logs) -> None:
        self.logs = logs

    def __call__(self, name: str, day: str | None = None, parent: str | None = None, *overrides: str) -> Summary:
        source, folder = str(self.logs.raw), self.logs.root
        options = Options(
            source=source,
            threads=1,
            append=day,
            parent=None if parent is None else folder / parent,
            overrides=overrides,
        )
        return prepare(str(self.logs.toml), folder / name, options)

    def refusal(self, day: str | None, parent: str, *overrides: str) -> str:
        with pytest.raises(PleRecError) as caught:
            self("refused", day, parent, *overrides)
        assert [path.name for path in self.logs.root.iterdir() if "refused" in path.name] == []
        return str(caught.value)

    def folder(self, name: str) -> Path:
        return self.logs.root / name

    def vocabulary(self, name: str, table: str = "video_id") -> dict[Any, int]:
        rows = pq.read_table(self.folder(name) / "vocab" / f"{table}.parquet").to_pydict()
        assert rows["row"] == list(range(1, len(rows["row"]) + 1))
        return dict(zip(rows["raw"], rows["row"], strict=True))


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> Days:
    days = Days(feed(tmp_path_factory.mktemp("days")))
    days("first")
    days("day-5", "day=5", "first")
    days("day-6", "2022-04-20", "day-5")
    days("day-7", "day=7", "day-6")
    return days


NAMES = ("first", "day-5", "day-6", "day-7")


def test_ids_stay_and_new_ones_follow_in_their_own_order(days: Days) -> None:
    for before, name in pairwise(NAMES):
        old, new = days.vocabulary(before), days.vocabulary(name)
        assert old.items() <= new.items()
        train = Counter(raw_of(days, name)[row] for row in positions(days, name, "train"))
        fresh = sorted((value for value in train if value not in old), key=lambda value: (-train[value], value))
        room = CAPACITY - 1 - len(old)
        assert [value for value in new if value not in old] == fresh[:room]
    assert [len(days.vocabulary(name)) + 1 for name in NAMES] == [6, 9, 11, 11]
    assert [load_schema(days.folder(name)).table_rows()["video_id"] for name in NAMES] == [CAPACITY] * 4


def raw_of(days: Days, name: str) -> list[str]:
    return [str(value) for value in pq.read_table(days.logs.file(int(name[-1])))["video_id"].to_pylist()]


def positions(days: Days, name: str, split: str) -> list[int]:
    """Rows of the day that are in a split, by their price, which none shares."""
    day = int(name[-1])
    prices = pq.read_table(days.logs.file(day))["price"].to_pylist()
    return [prices.index(price) for price in read(days.folder(name), split)["price"].to_pylist()]


@pytest.mark.parametrize("name", NAMES[1:])
def test_the_rows_are_those_of_the_day_and_groups_are_held_out_whole(name: str, days: Days) -> None:
    found = {split: positions(days, name, split) for split in ("train", "valid", "test")}
    assert sorted(row for rows in found.values() for row in rows) == list(range(24))
    assert found["train"] == sorted(found["train"])
    users = pq.read_table(days.logs.file(int(name[-1])))["user_id"].to_pylist()
    groups = {split: {users[row] for row in rows} for split, rows in found.items()}
    assert not groups["train"] & groups["valid"] | groups["train"] & groups["test"] | groups["valid"] & groups["test"]
    ids, vocabulary, raw = read(days.folder(name), "train"), days.vocabulary(name), raw_of(days, name)
    assert ids["video_id"].to_pylist() == [vocabulary.get(raw[row], 0) for row in found["train"]]


def test_values_without_room_are_hashed_where_they_were(days: Days) -> None:
    hashed = 0
    for name in NAMES[1:]:
        vocabulary = days.vocabulary(name, "video_hashed")
        assert len(vocabulary) <= 12 - 4 - 1
        for split in ("train", "valid", "test"):
            raw = [raw_of(days, name)[row] for row in positions(days, name, split)]
            expected = [vocabulary.get(value) or hashed_as_python(value, 12, 4) for value in raw]
            assert read(days.folder(name), split)["video_hashed"].to_pylist() == expected
            hashed += sum(value not in vocabulary for value in raw)
    assert hashed > 20


def test_edges_and_thresholds_are_those_of_the_first_days(days: Days) -> None:
    configs = [Parent.read(days.folder(name)).config for name in NAMES]
    assert configs[0].found.edges == {"duration": (1200.0, 2400.0, 3600.0)}
    assert configs[0].found.thresholds["like"].values == (3500.0,)
    assert all(config.found == configs[0].found for config in configs[1:])
    assert set(read(days.folder("day-7"), "train")["duration"].to_pylist()) == {4}  # longer than all of the first days
    tables = [{table.name: table.allocated_rows for table in load_schema(days.folder(name)).tables} for name in NAMES]
    assert tables[1:] == tables[:1] * 3


def test_three_generations_name_their_ancestors(days: Days) -> None:
    schemas = [load_schema(days.folder(name)) for name in NAMES]
    marks = [schema.fingerprint for schema in schemas]
    assert len(set(marks)) == 4
    assert [schema.parent for schema in schemas] == [None, *marks[:-1]]
    assert schemas[3].lineage() == tuple(reversed(marks))


def test_a_row_has_the_day_of_its_assignment(days: Days) -> None:
    """Rows of the first preparation, which records no days, have none."""
    by_day: dict[str, list[int | None]] = {}
    for name in NAMES:
        table = pq.read_table(days.folder(name) / "vocab" / "video_id.parquet")
        by_day[name] = table["day"].to_pylist() if "day" in table.column_names else []
    first = days_since_1970("2022-04-19")
    assert by_day["first"] == []
    assert by_day["day-5"] == [None] * 5 + [first] * 3
    assert by_day["day-6"] == by_day["day-7"] == [None] * 5 + [first] * 3 + [first + 1] * 2
    schemas = [load_schema(days.folder(name)) for name in NAMES]
    assert [schema.day for schema in schemas] == ["2022-04-16", "2022-04-19", "2022-04-20", "2022-04-21"]
    assert schemas[3].ancestor_days == ("2022-04-20", "2022-04-19", "2022-04-16")


def test_rows_assigned_after_an_ancestor(days: Days) -> None:
    dataset = DatasetDirectory(days.folder("day-7"))
    after = {name: rows_assigned_after(dataset, load_schema(days.folder(name)).fingerprint) for name in NAMES}
    assert {name: rows["video_id"].tolist() for name, rows in after.items() if rows} == {
        "first": [6, 7, 8, 9, 10],
        "day-5": [9, 10],
    }
    assert after["day-7"] == {}
    assert "user" not in after["first"]  # The table has no capacity, so no value got a row.
    with pytest.raises(ValueError, match="nor of an ancestor"):
        rows_assigned_after(dataset, "other")


def test_days_go_on_from_a_dataset_of_an_earlier_version(days: Days, tmp_path: Path) -> None:
    """Earlier versions wrote no days; every row that has one counts as assigned later than their datasets."""
    for name in ("first", "day-5"):
        _without_days(days.folder(name), tmp_path / name)
    days(str(tmp_path / "day-6"), "day=6", str(tmp_path / "day-5"))
    table = pq.read_table(tmp_path / "day-6" / "vocab" / "video_id.parquet")
    day_6 = days_since_1970("2022-04-20")
    assert table["day"].to_pylist() == [None] * 8 + [day_6] * 2
    assert table["raw"] == pq.read_table(days.folder("day-6") / "vocab" / "video_id.parquet")["raw"]
    assert load_schema(tmp_path / "day-6").ancestor_days == ("2022-04-19",)
    for name in ("first", "day-5"):
        rows = rows_assigned_after(DatasetDirectory(tmp_path / "day-6"), load_schema(days.folder(name)).fingerprint)
        assert rows["video_id"].tolist() == [9, 10]


def _without_days(source: Path, target: Path) -> None:
    """Copy a dataset as an earlier version would have written it: neither the schema nor a vocabulary has days."""
    shutil.copytree(source, target)
    schema = load_schema(source).model_copy(update={"day": None, "ancestor_days": ()})
    (target / "schema.toml").write_text(tomli_w.dumps(schema.model_dump(mode="json", exclude_none=True)))
    for file in (target / "vocab").iterdir():
        pq.write_table(pq.read_table(file).select(["raw", "row", "count"]), file)
    (target / "_SUCCESS").write_text("")


WARNINGS = [
    "table user: 1 values of train have no row of their own, since the table has 8 rows; they share row 0; a table can "
    "grow by --append only if it was prepared with a capacity",
    "table video_hashed: 2 values of train have no row of their own, since the table has 12 rows; they are hashed into "
    "its last 4 rows",
    "table video_id: 2 values of train have no row of their own, since the table has 11 rows; they share row 0",
]


def test_what_finds_no_room_is_told(days: Days, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "data_prep"):
        summary = days(str(tmp_path / "again"), "day=7", "day-6")
    assert sorted(caplog.messages) == WARNINGS
    assert digests(tmp_path / "again") == digests(days.folder("day-7"))
    assert summary.stats["overflow"] == {
        "user": {"values": 1, "limit": 7, "handling": "row 0"},
        "video_hashed": {"values": 2, "limit": 7, "handling": "hashed"},
        "video_id": {"values": 2, "limit": 10, "handling": "row 0"},
    }
    line = "  values beyond capacity: 2 of video_hashed (hashed), 2 of video_id (row 0), 1 of user (row 0)"
    assert line in str(summary).splitlines()


def test_a_dry_run_counts_the_rows_of_the_parent_as_the_run_does(days: Days) -> None:
    def told(day: str, parent: str) -> list[str]:
        options = Options(source=str(days.logs.raw), threads=1, append=day, parent=days.folder(parent))
        lines = str(dry_run(str(days.logs.toml), None, options)).splitlines()
        assert not any(line.startswith("  capacity") for line in lines)
        return sorted(line.removeprefix("  new values   table ") for line in lines if line.startswith("  new values "))

    assert told("day=5", "first") == [
        "video_hashed: 3 new, 2 of 12 rows free; the rarest are hashed",
        "video_id: 3 new, 5 of 11 rows free",
    ]
    line = "  new values, free rows: video_hashed 3, 0 of 12; video_id 3, 2 of 11"
    assert line in str(days("day-5", "day=5", "first")).splitlines()
    day_7 = told("day=7", "day-6")
    assert [day_7[0], day_7[-1]] == [
        "user: 1 new, 0 of 8 rows free; the rarest share row 0",
        "video_id: 2 new, 0 of 11 rows free; the rarest share row 0",
    ]
    assert "new value" not in str(days("first"))


def test_a_day_in_parquet_is_appended_to_days_in_csv(tmp_path: Path) -> None:
    bag = '\n[[sparse]]\nname = "history"\nvalue = "split(history, \'|\')"\nbag = true\n'
    logs = Logs(tmp_path, TOML + "\n[append]\nvalid = 0.3\ntest = 0.3\n" + bag)
    lists = [["v0", "v1"], [], ["v2"]] * 8
    for day in range(1, 5):
        logs.file(day).unlink()
        csv = day_of(day).append_column("history", pa.array(["|".join(each) for each in lists]))
        pacsv.write_csv(csv, logs.raw / "log" / f"{day}.csv")
    days = Days(logs)
    days("first")
    for file in (logs.raw / "log").iterdir():
        file.unlink()
    logs.write(5, day_of(5).append_column("history", pa.array(lists)))
    days("day-5", "day=5", "first")
    assert days.vocabulary("day-5", "history") == days.vocabulary("first", "history") == {"v0": 1, "v1": 2, "v2": 3}
    assert read(days.folder("day-5"), "train")["history"].to_pylist().count([1, 2]) > 1


def test_a_run_that_goes_on_tells_it_again(
    days: Days, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stopped(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Pipeline, "_write_parts", stopped)
        with pytest.raises(KeyboardInterrupt):
            days(str(tmp_path / "again"), "day=7", "day-6")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / ".again.partial" / "vocab").iterdir()}
    assert len(kept) == 3
    caplog.clear()
    with caplog.at_level(logging.WARNING, "data_prep"):
        days(str(tmp_path / "again"), "day=7", "day-6")
    assert sorted(caplog.messages) == WARNINGS
    assert digests(tmp_path / "again") == digests(days.folder("day-7"))
    assert {(tmp_path / "again" / "vocab" / path.name).stat().st_mtime_ns for path in kept} == set(kept.values())


def test_a_table_without_capacity_gives_no_row_to_a_new_value(days: Days) -> None:
    assert days.vocabulary("day-7", "user") == days.vocabulary("first", "user")
    users = pq.read_table(days.logs.file(7))["user_id"].to_pylist()
    split = next(split for split in ("train", "valid", "test") if 3 in positions(days, "day-7", split))
    rows = dict(
        zip(positions(days, "day-7", split), read(days.folder("day-7"), split)["user"].to_pylist(), strict=True)
    )
    assert users[3] == 97
    assert rows[3] == 0


def test_the_same_day_again_is_there_already(days: Days) -> None:
    before = digests(days.folder("day-6"))
    assert days("day-6", "day=6", "day-5").reused
    assert digests(days.folder("day-6")) == before


def test_a_parent_that_has_lost_a_vocabulary_is_refused(days: Days, tmp_path: Path) -> None:
    """Also one without digests, whose ids would be numbered anew."""
    shutil.copytree(days.folder("first"), tmp_path / "parent")
    (tmp_path / "parent" / "_SUCCESS").write_text("")
    file = tmp_path / "parent" / "vocab" / "video_id.parquet"
    file.unlink()
    said = days.refusal("day=5", str(tmp_path / "parent"))
    assert said.startswith(
        f"{file}: no such file; an appended day keeps the row of each value, which this file holds. Fix: "
    )


def growing(root: Path) -> Days:
    """Return logs of 60 users on days 1 to 4, and of 60 more on each later day, where every user has a row a day."""
    held = 'group = "user_id"\n\n[append]\nvalid = 0.3\ntest = 0.3'
    user = '\n[tables.user]\ncapacity = 999\n[[sparse]]\nname = "user"\nvalue = "user_id"\n'
    logs = Logs(root, TOML.replace('group = "user_id"', held) + user)
    for day in range(1, 8):
        rows = 60 * max(1, day - 3)
        logs.write(day, with_column(day_of(day, rows), "user_id", list(range(rows))))
    return Days(logs)


def test_a_user_who_is_held_out_is_trained_on_another_day(tmp_path: Path) -> None:
    days = growing(tmp_path)
    days("first")
    unknown, held_out = [], []
    for day, parent in ((5, "first"), (6, "day-5"), (7, "day-6")):
        unknown.append(days(f"day-{day}", f"day={day}", parent).stats["columns"]["user"]["test"]["oov_rate"])
        groups = {split: set(read(days.folder(f"day-{day}"), split)["group"].to_pylist()) for split in SPLITS}
        assert sum(map(len, groups.values())) == len(set[int].union(*groups.values())) == 60 * (day - 3)
        held_out.append(groups["test"])
    assert max(unknown) < unknown[0] + 0.1  # half of the users of day 5 are new; of day 7, three quarters came since
    assert len(held_out[0] & held_out[1]) < len(held_out[0]) / 2
    split = Parent.read(days.folder("day-7")).config.split
    assert isinstance(split, HeldOutSplit)
    assert split.seed == "2022-04-21"


def test_days_on_a_dataset_that_holds_out_the_same_users_every_day_do_so_too(tmp_path: Path) -> None:
    days = growing(tmp_path)
    days("first", None, None, 'split={by="held_out",days=[1,4],valid=0.3,test=0.3}')
    held_out = []
    for name, parent in (("day-5", "first"), ("day-6", "day-5")):
        days(name, name.replace("-", "="), parent)
        held_out.append({user for user in read(days.folder(name), "test")["group"].to_pylist() if user < 120})
    assert held_out[0] == held_out[1]


def test_new_values_in_bags_of_a_side_table_get_rows(tmp_path: Path) -> None:
    side = SIDE.replace('name = "age"\nvalue = "users.age"', 'name = "tags"\nvalue = "users.tags"\nbag = true')
    logs = Logs(tmp_path, f"{TOML}{side}\n[tables.tags]\ncapacity = 50\n[append]\nvalid = 0.3\ntest = 0.3\n")
    logs.write(5, with_column(day_of(5), "user_id", list(range(24))))
    logs.users([{"user_id": user, "tags": ["all", f"t{user}"]} for user in range(24)])
    days = Days(logs)
    days("first")
    days("day-5", "day=5", "first")
    first, then = days.vocabulary("first", "tags"), days.vocabulary("day-5", "tags")
    assert first == {"all": 1} | {f"t{user}": user + 2 for user in range(7)}
    trained = sorted(f"t{user}" for user in read(days.folder("day-5"), "train")["group"].to_pylist() if user >= 7)
    assert then == first | {tag: row for row, tag in enumerate(trained, 9)}


@pytest.mark.parametrize(
    ("day", "parent", "missing"),
    [
        ("day=5", "first", None),  # which has days 1 and 2 in train, 3 in valid and 4 in test
        ("day=6", "first", "2022-04-19 is left out, for {parent} ends on 2022-04-18"),
        ("2022-04-22", "day-5", "2022-04-20 and 2022-04-21 are left out, for {parent} ends on 2022-04-19"),
        ("day=300", "day-5", "2022-04-20, 2022-04-21, 2022-04-22, 2022-04-23 and 290 more are left out, for {parent}"),
    ],
)
def test_days_that_are_left_out_are_told(
    day: str, parent: str, missing: str | None, days: Days, caplog: pytest.LogCaptureFixture
) -> None:
    place = Parent.read(days.folder(parent))
    given = load_config(PrepConfig, days.logs.toml)
    with caplog.at_level(logging.WARNING, "data_prep"):
        append_config(place, given, parse_day(day))
    if missing is None:
        assert caplog.messages == []
    else:
        assert caplog.messages[0].startswith(f"--append day={day.removeprefix('day=')}: ")
        assert missing.format(parent=place.path) in caplog.messages[0]


def test_a_number_of_a_day_where_days_are_dates_names_the_next_date(days: Days) -> None:
    place = Parent.read(days.folder("first"))
    first = place.config.split
    assert isinstance(first, DaySplit)
    split = first.model_copy(update={"day_1": None, "train": ("2022-04-15", "2022-04-16"), "valid": None})
    split = split.model_copy(update={"test": ("2022-04-18", "2022-04-18")})
    found = place.config.found.model_copy(update={"day_1": None})
    dated = replace(place, config=place.config.model_copy(update={"split": split, "found": found}))
    with pytest.raises(UserError, match=r"name the date; the day after its last one is day=2022-04-19"):
        append_config(dated, dated.config, 5)


def test_days_that_are_refused(days: Days) -> None:
    in_order = "days are trained once, and in order. Fix: name a day after"
    place = days.folder("first")
    assert days.refusal("day=2", "first") == (
        f"--append day=2: in {place} 2022-04-16 is in train already; {in_order} 2022-04-16"
    )
    place = days.folder("day-6")
    assert days.refusal("day=6", "day-6") == (
        f"--append day=6: in {place} 2022-04-20 is in train already; {in_order} 2022-04-20"
    )
    assert days.refusal("day=1", "day-6") == (
        f"--append day=1: in {place} 2022-04-15 is before 2022-04-20, the last day of train; {in_order} 2022-04-20"
    )
    assert "no row lies in train; train, valid and test each need rows" in days.refusal("day=9", "day-6")
    assert "hold more out of the day by append.valid" in days.refusal("day=7", "day-6", "append.valid=0.0001")
    assert days.refusal("day=x", "first").startswith("--append day=x: no day; it reads day=9 or day=2022-05-08")
    with pytest.raises(UserError, match=r"--append day=5: no --parent; a day is appended to an existing dataset"):
        days("refused", "day=5")


def sparse(**changes: object) -> str:
    """The features, one field of one of them changed: `duration__quantiles = 5`."""
    features: list[dict[str, object]] = [
        {"name": "video_id"},
        {"name": "video_hashed", "value": "video_id"},
        {"name": "user", "value": "user_id"},
        {"name": "duration", "value": "duration_ms", "quantiles": 4},
    ]
    for key, value in changes.items():
        name, _, field = key.partition("__")
        next(feature for feature in features if feature["name"] == name)[field] = value
    return "sparse=[" + ", ".join(inline(feature) for feature in features) + "]"


def inline(fields: Mapping[str, object]) -> str:
    given = {key: json.dumps(value) for key, value in fields.items() if value is not None}
    return "{" + ", ".join(f"{key} = {text}" for key, text in given.items()) + "}"


def threshold(**changes: object) -> str:
    fields = {"value": "duration_ms", "quantile": 0.75} | changes
    return f'tasks=[{{name="like", kind="binary", label="duration_ms > threshold", threshold={inline(fields)}}}]'


@pytest.mark.parametrize(
    ("override", "difference"),
    [
        (sparse(duration__quantiles=5), "sparse[3].quantiles = 4, now 5"),
        (sparse(user__value="user_id % 2"), 'sparse[2].value = "user_id", now "user_id % 2"'),
        (sparse(user__table="video_id"), 'sparse[2].table = "user", now "video_id"'),
        (
            sparse(user__bag=True, user__max_length=3, user__keep="first", user__weights="w"),
            "sparse[2].bag = false, now true; sparse[2].max_length = nothing, now 3; "
            'sparse[2].keep = "last", now "first"; sparse[2].weights = nothing, now "w"',
        ),
        (sparse(user__name="users"), 'sparse = ["video_id", "video_hashed", "user", "duration"], now ["vid'),
        (threshold(quantile=0.5), "tasks[0].threshold.quantile = 0.75, now 0.5"),
        (threshold(bins=2), "tasks[0].threshold.bins = 20, now 2"),
        (threshold(by="price"), 'tasks[0].threshold.by = nothing, now "price"'),
        (threshold(value="price"), 'tasks[0].threshold.value = "duration_ms", now "price"'),
        (threshold(edges=[], values=[7.0]), "tasks[0].threshold.values = [3500.0], now [7.0]"),
        ("tables.video_id.capacity=12", "tables.video_id.capacity = 11, now 12"),
        ("tables.video_id.min_count=2", "tables.video_id.min_count = 1, now 2"),
        ("tables.video_hashed.hash_rows=5", "tables.video_hashed.hash_rows = 4, now 5"),
        ("tables.user.min_count=3", "tables.user.min_count = 1, now 3"),
        ("dense=[{name='price', normaliser='log'}]", 'dense[0].normaliser = "standard", now "log"'),
        ("dense=[]", 'dense = ["price"], now []; an appended day'),
        ("sides.users={files=['users'], on={user_id='user_id'}}", 'sides = [], now ["users"]; an appended day'),
        ("checks.duration='duration_ms >= 1'", 'checks.duration = "duration_ms >= 0", now "duration_ms >= 1"'),
        ("checks.more='true'", 'checks.more = nothing, now "true"'),
        ("log.where='duration_ms > 0'", 'log.where = nothing, now "duration_ms > 0"'),
        ("group='user_id + 1'", 'group = "user_id", now "user_id + 1"'),
        ("weight='2.0'", 'weight = nothing, now "2.0"'),
        (
            "sampling={keep='true', rate=0.5, hash=['user_id']}",
            'sampling.keep = nothing, now "true"; sampling.rate = nothing, now 0.5; '
            'sampling.hash = nothing, now ["user_id"]',
        ),
        ("carry.minute='time_ms'", 'carry.minute = nothing, now "time_ms"'),
        ("time.utc_offset='+08:00'", 'time.utc_offset = "+00:00", now "+08:00"'),
        ("split.day_1='2022-04-14'", 'split.day_1 = "2022-04-15", now "2022-04-14"'),
    ],
)
def test_another_configuration_is_refused(override: str, difference: str, days: Days) -> None:
    said = days.refusal("day=5", "first", override)
    assert said.startswith(f"{days.folder('first')}: was prepared with {difference}")
    assert said.endswith(
        "; an appended day keeps every column's meaning. Fix: use the configuration of the first days, or prepare all "
        "days again"
    )


def test_the_same_said_in_other_words(days: Days) -> None:
    words = sparse(user__table="user", video_id__value="video_id")
    before = digests(days.folder("day-5"))
    assert days("day-5", "day=5", "first", words, "tables.user.min_count=1").reused
    assert digests(days.folder("day-5")) == before


def test_what_means_nothing_may_differ(days: Days, tmp_path: Path) -> None:
    logs = days.logs
    spoiled = with_column(pq.read_table(logs.file(5)), "price", {0: float("nan")})
    (tmp_path / "raw" / "log").mkdir(parents=True)
    pq.write_table(spoiled, tmp_path / "raw" / "log" / "day 5.parquet")
    overrides = ("on_bad_row=drop", "max_bad_fraction=0.1", "name=child", "output.row_group_rows=3")
    options = Options(
        source=str(tmp_path / "raw"), threads=1, append="day=5", parent=days.folder("first"), overrides=overrides
    )
    summary = prepare(str(logs.toml), tmp_path / "out", options)
    assert sum(summary.stats["rows"].values()) == 23
    assert summary.schema.name == "child"
    assert Parent.read(tmp_path / "out").config.output.row_group_rows == 3


def test_parents_that_are_refused(days: Days, tmp_path: Path) -> None:
    bare = days.folder("bare")
    shutil.copytree(days.folder("first"), bare)
    (bare / "prep.toml").unlink()
    assert days.refusal("day=5", "bare") == (
        f"{bare}: no prep.toml; days are appended to a dataset that `ple-rec prep` made from a configuration. Fix: "
        "prepare the first days with `ple-rec prep FILE.toml`"
    )
    (bare / "_SUCCESS").unlink()
    assert f"{bare}: no _SUCCESS" in days.refusal("day=5", "bare")
    shutil.rmtree(bare)
    by_hash = 'by = "hash"\nvalue = "user_id"\nvalid = 0.3\ntest = 0.3'
    hashed = Logs(tmp_path / "hashed", re.sub(r'by = "day".*test = \[4, 4\]', by_hash, TOML, flags=re.DOTALL))
    hashed.prepare()
    with pytest.raises(UserError, match=r'split.by = "hash"; days are appended to a split by day. Fix: prepare the'):
        hashed.prepare(append="day=5", parent=hashed.out)


def test_a_day_does_not_take_the_place_of_its_parent(days: Days, tmp_path: Path) -> None:
    """Whose first days only it holds; by a link neither."""
    before = digests(days.folder("first"))
    (tmp_path / "link").symlink_to(days.folder("first"))
    for out in (days.folder("first"), tmp_path / "link"):
        options = Options(str(days.logs.raw), append="day=5", parent=days.folder("first"), overwrite=True, threads=1)
        with pytest.raises(UserError) as caught:
            prepare(str(days.logs.toml), out, options)
        assert str(caught.value) == (
            f"--out {out}: is --parent; a day is prepared beside the dataset whose ids it keeps. "
            "Fix: name another --out"
        )
    assert digests(days.folder("first")) == before


def test_a_type_that_is_another_one_today(days: Days, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    table = with_column(day_of(5), "video_id", pa.array(range(24)))
    pq.write_table(table, tmp_path / "log" / "day 5.parquet")
    options = Options(source=str(tmp_path), threads=1, append="day=5", parent=days.folder("first"))
    with pytest.raises(DataError) as caught:
        prepare(str(days.logs.toml), tmp_path / "out", options)
    assert str(caught.value) == (
        f"tables.video_id: video_id now of type int64, but string in {days.folder('first')}; an appended day keeps "
        "every column's type. Fix: write the day's files with the types of the first days"
    )


RUN = """
name = "daily"
tasks = [{name = "like"}]
[data]
path = "PATH"
virtual_shards = 2
[model]
variant = "ple"
levels = [{task_experts = 1, shared_experts = 1, expert_hidden = [4]}]
tower = {hidden = [4]}
[embeddings]
dim = 4
[train]
batch_size = 8
steps = 2
report_every = 1
[runtime]
device = "cpu"
threads = 1
"""


def test_training_goes_on_from_the_days_before(days: Days, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Also on a day without any price: the weights bring the statistics of the normaliser with them."""
    (tmp_path / "log").mkdir()
    table = with_column(with_column(day_of(8), "price", [None] * 24, pa.float64()), "user_id", list(range(24)))
    pq.write_table(table, tmp_path / "log" / "day 8.parquet")
    options = Options(source=str(tmp_path), threads=1, append="day=8", parent=days.folder("day-7"))
    prepare(str(days.logs.toml), tmp_path / "day-8", options)
    folders = {"first": days.folder("first"), "day-5": days.folder("day-5"), "day-8": tmp_path / "day-8"}
    verbs = {}
    for name, start in (("first", None), ("day-5", "first"), ("day-8", "first")):
        config = tmp_path / f"{name}.toml"
        config.write_text(RUN.replace("PATH", str(folders[name])))
        verbs[name] = ["train", "--config", str(config), "--run-dir", str(tmp_path / "runs" / name)]
        more = ["--init-from", str(tmp_path / "runs" / start)] if start else []
        assert main([*verbs[name], *more]) == 0, capsys.readouterr().err
    said = json.loads((tmp_path / "runs" / "day-8" / "init_from.json").read_text())
    assert said["dataset"] == load_schema(days.folder("first")).fingerprint
    assert main(["evaluate", str(tmp_path / "runs" / "first"), "--set", f"data.path={folders['day-8']}"]) == 0
    assert main([*verbs["day-8"][:-1], str(tmp_path / "runs" / "random")]) == 3
    assert "dense feature 'price' has no value in the training split" in capsys.readouterr().err
