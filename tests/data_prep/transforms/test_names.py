"""Names in expressions: which column each means, and which are refused because they could mean two."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from data_prep.expressions import column_to_word, parse, word_to_column
from data_prep.expressions.syntax import KEYWORDS
from data_prep.inputs.columns import log_column
from data_prep.inputs.read import InputOptions, open_inputs
from data_prep.progress import Progress
from data_prep.sources.columns import column_fix
from data_prep.sources.files import discover
from data_prep.transforms.resolve import resolve
from data_prep.transforms.words import expression_texts
from ple_rec.config.load import load_config
from ple_rec.config.prep import FilesConfig, PrepConfig
from ple_rec.errors import UserError
from tests.data_prep.plain_logs import SIDE, TOML, Logs, day_of

CARRY = """
[carry]
side_age = "users.age"
own_age = '"users.age"'
hour = "time.hour"
own_hour = '"time.hour"'
dotted = "device.os"
quoted = '"device.os"'
"""
OWN = {"users.age": 70, "time.hour": 33, "device.os": 5}  # columns of the log whose names have a dot


def dotted_logs(root: Path, toml: str = TOML + SIDE + CARRY) -> Logs:
    """Logs with the columns of `OWN`, beside a side table of users whose column is `age`."""
    logs = Logs(root, toml)
    for day in range(1, 5):
        table = day_of(day)
        for i, (name, first) in enumerate(OWN.items()):
            table = table.append_column(name, pc.add(table["user_id"], first + 100 * i))
        logs.write(day, table)
    logs.users([{"user_id": user, "age": 20 + user} for user in range(7)])
    return logs


def check_meaning(rows: pa.Table, names: dict[str, str]) -> None:
    """Check that columns of rows hold what their names mean; `group` holds the user."""
    user = rows["group"].to_pylist()
    offsets = {"side_age": 20, "own_age": 70, "own_hour": 133, "dotted": 205, "quoted": 205}
    for name, offset in offsets.items():
        assert rows[names[name]].to_pylist() == [offset + each for each in user], name
    assert set(rows[names["hour"]].to_pylist()) == {0}


def test_a_quoted_name_is_the_logs_column_and_a_bare_one_that_of_the_table_or_the_time(tmp_path: Path) -> None:
    logs = dotted_logs(tmp_path)
    logs.prepare()
    rows = pq.read_table(logs.out / "train")
    check_meaning(rows, {name: name for name in ("side_age", "own_age", "hour", "own_hour", "dotted", "quoted")})


def test_a_prediction_reads_the_same_columns(tmp_path: Path) -> None:
    logs = dotted_logs(tmp_path)
    config = load_config(PrepConfig, logs.toml)
    ids = ("group", "side_age", "own_age", "hour", "own_hour", "dotted", "quoted", *OWN)
    asked = InputOptions(str(logs.raw / "log"), str(logs.raw), ("age",), ids, threads=1)
    with open_inputs(config, "plain.toml", asked, tmp_path / "work", Progress("plain")) as found:
        rows = pa.concat_tables(found.batches())
    rows = rows.rename_columns([name.removeprefix("id__").replace("user_id", "group") for name in rows.column_names])
    check_meaning(rows, {name: name for name in ids})
    for name, own in zip(OWN, ("own_age", "own_hour", "dotted"), strict=True):
        assert rows[name].equals(rows[own])
    assert rows["raw__age"].equals(rows["side_age"])


def test_a_dry_run_and_a_condition_read_the_logs_column_too(tmp_path: Path) -> None:
    from data_prep.dry_run import dry_run
    from data_prep.run import Options

    logs = dotted_logs(tmp_path, TOML + SIDE)
    overrides = ('log.where="users.age" > 72 and device.os < 210', "group='\"users.age\"'")
    said = dry_run(str(logs.toml), logs.out, Options(overrides=overrides, source=str(logs.raw), threads=1))
    assert "those of 96 that log.where keeps" in said.text
    logs.prepare(*overrides)
    assert set(pq.read_table(logs.out / "train")["group"].to_pylist()) == {73, 74}


def test_a_word_of_the_log_is_its_name_in_quotes_where_that_has_a_dot() -> None:
    assert [column_to_word(name) for name in ("age", "user.age", 'a."b')] == ["age", '"user.age"', '"a.""b"']
    assert [word_to_column(column_to_word(name)) for name in ("age", "user.age", 'a."b', '"a"')] == [
        "age",
        "user.age",
        'a."b',
        '"a"',
    ]
    text = '"user.age" + user.age + a.b + user."c d"'
    assert parse(text, "t").columns == ('"user.age"', "user.age", "a.b", "user.c d")
    assert parse(text, "t", ("user",)).columns == ('"user.age"', "user.age", '"a.b"', "user.c d")


def test_quotes_around_the_name_of_a_side_table_are_told_to_be_left_out(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + SIDE)
    logs.users([{"user_id": 1, "age": 3}])
    message = logs.refusal("sparse[0].value='\"users.age\"'")
    assert "column 'users.age': there is no such column; plain.toml: sparse[0].value" in message
    assert message.endswith(
        "leave the double quotes out: users.age is not a column of these files, but expressions know the name"
    )
    nothing_else = TOML + SIDE.partition("[[sparse]]")[0]  # that reads users.age
    logs.toml.write_text(nothing_else)
    assert logs.refusal("dense[0].value='\"users.age\"'").endswith(
        "Fix: leave the double quotes out if users.age means a column of the side table"
    )
    logs.prepare("dense[0].value='users.age'")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("itme.up", "did you mean 'item.up'?"),
        ("item_v", "did you mean 'item.v'?"),
        ("tiem.day", "did you mean 'time.day'?"),
        ("prise", "did you mean 'price'?"),
        ("geo.cuntry", "did you mean 'geo.country'?; in an expression this name stands in double quotes"),
    ],
)
def test_a_name_with_a_typo_is_corrected_as_a_whole(name: str, fix: str) -> None:
    assert column_fix(name, ["price", "geo.country"], ["time.hour", "time.day", "item.v"]) == fix


DERIVED = TOML.replace("[checks]", '[derived]\nprice = "duration_ms / 2"\n\n[checks]')


def test_a_derived_column_that_would_hide_one_of_the_log_is_refused(tmp_path: Path) -> None:
    logs = Logs(tmp_path, DERIVED)
    with pytest.raises(UserError) as caught:
        logs.prepare()
    assert str(caught.value) == (
        "plain.toml: 1 problem\n"
        "  derived.price: log/day 1.parquet has a column 'price'; a derived column must not have the name of a column "
        "of the log. Fix: choose another name, e.g. derived.price_2, and use it wherever the derived column is read"
    )
    logs.toml.write_text(DERIVED.replace('price = "dur', 'price_2 = "dur'))
    logs.prepare("dense[0].value=price_2")


def test_a_dataset_that_was_prepared_with_a_hidden_column_keeps_its_meaning(tmp_path: Path) -> None:
    logs = Logs(tmp_path, DERIVED)
    config = load_config(PrepConfig, logs.toml)
    raw = discover("log", FilesConfig(files=("log",)), str(logs.raw), tmp_path / "csv")
    resolve(config, "plain.toml", is_from_dataset=True).check_columns(raw)
    assert log_column(config, "price", raw) is None
    asked = InputOptions(str(logs.raw / "log"), str(logs.raw), ("price",), (), threads=1)
    with open_inputs(config, "plain.toml", asked, tmp_path / "work", Progress("plain")) as found:
        rows = pa.concat_tables(found.batches())
    assert rows["price"].to_pylist()[:3] == [0.0, 50.0, 100.0]


ORDER = (
    "it is computed before side tables are joined, and before [time] and [derived]. Fix: use only columns "
    "of the log in it"
)
CHECKS = '; or remove such rows by a rule in [checks], with on_bad_row = "drop" and a max_bad_fraction'


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("log.where=users.age > 3", f"log.where: `users.age > 3` reads users.age; {ORDER}{CHECKS}"),
        ("log.where=time.hour > 3", f"log.where: `time.hour > 3` reads time.hour; {ORDER}{CHECKS}"),
        ("log.where=cheap", f"log.where: `cheap` reads cheap; {ORDER}{CHECKS}"),
        ('sides.users.on={user_id="cost"}', f"sides.users.on.user_id: `cost` reads cost; {ORDER}"),
        (
            "time.value=cost",
            "time.value: `cost` reads cost; the time is computed before all derived columns. Fix: use only columns",
        ),
        (
            "derived.cost=cost + 1",
            "derived.cost: `cost + 1` reads cost; a derived column may read columns and the derived columns above it, "
            "not itself. Fix: choose another name, e.g. derived.cost_2, and use it wherever the derived column is read",
        ),
        (
            "derived.cost=if(cheap, 1, 2)",
            "derived.cost: `if(cheap, 1, 2)` reads cheap; a derived column may read columns and the derived columns "
            "above it. Fix: write derived.cheap above derived.cost",
        ),
    ],
)
def test_what_is_computed_later_is_refused_where_it_is_read(override: str, message: str, tmp_path: Path) -> None:
    toml = TOML.replace("[checks]", '[derived]\ncost = "price + 1"\ncheap = "cost < 5"\n\n[checks]')
    logs = Logs(tmp_path, toml + SIDE)
    logs.users([{"user_id": user, "age": user} for user in range(7)])
    with pytest.raises(UserError) as caught:
        logs.prepare(override)
    assert message in str(caught.value)


def test_the_ways_that_those_messages_propose_are_accepted(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML.replace("[checks]", '[derived]\nprice_2 = "price + 1"\n\n[checks]') + SIDE)
    logs.users([{"user_id": user, "age": user} for user in range(7)])
    drop = ("on_bad_row=drop", "max_bad_fraction=0.9", "checks.grown=users.age > 3 and time.hour < 1")
    assert (
        logs.prepare(*drop).stats["dropped"][0]["reason"]
        == "checks.grown: users.age: it must hold: users.age > 3 and time.hour < 1"
    )


def test_times_without_a_time(tmp_path: Path) -> None:
    toml = TOML.replace('[time]\nvalue = "time_ms"\nunit = "ms"\n', "")
    by_hash = 'split={by="hash", value="user_id", valid=0.3, test=0.3}'
    with pytest.raises(
        UserError,
        match=r"sparse\[0\].value: `time.hour` reads time.hour; words such as time.day need the section \[time\]",
    ):
        Logs(tmp_path, toml).prepare(by_hash, "sparse[0].value=time.hour")


def test_the_day_of_a_side_table_may_have_the_name_of_a_derived_column(tmp_path: Path) -> None:
    toml = TOML.replace("[checks]", '[derived]\nday = "time.day"\n\n[checks]') + SIDE.replace('"}', '"}\nday = "day"')
    logs = Logs(tmp_path, toml)
    logs.users([{"user_id": user, "age": user, "day": 20220415} for user in range(7)])
    logs.prepare('sides.users.day="day"')


def test_a_dated_side_table_and_a_time_of_a_side_table(tmp_path: Path) -> None:
    logs = Logs(tmp_path, TOML + SIDE.replace('"}', '"}\nday = "day"'))
    logs.users([{"user_id": 1, "age": 3, "day": 20220415}])
    rule = r"time.value: `users.age` reads users.age; dated side tables are joined by the time, so it cannot depend on"
    with pytest.raises(UserError, match=rule):
        logs.prepare("time.value=users.age")


@pytest.mark.parametrize("word", [*KEYWORDS, "select"])
def test_a_feature_without_a_value_is_the_column_of_its_name_also_where_that_is_a_keyword(
    word: str, tmp_path: Path
) -> None:
    file = tmp_path / "plain.toml"
    file.write_text(TOML)
    values = expression_texts(
        load_config(PrepConfig, file, [f'sparse=[{{name="{word}"}}]', f'dense=[{{name="{word}_2"}}]'])
    )
    assert values["sparse[0].value"] == f'"{word}"'
    assert values["dense[0].value"] == f"{word}_2"
