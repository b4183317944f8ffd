"""Histories of logs to be predicted: those that a preparation of the same rows gives."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.inputs.read import InputOptions, open_inputs
from data_prep.progress import Progress
from data_prep.run import Options, prepare
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError
from tests.data_prep.oracle_logs import Event, Row, day_of, oracle, random_rows, stored, toml, write

HELD_OUT = 'group = "row"\nappend = {valid = 0.3, test = 0.3}\n'
ROWS = [row | {"is_kept": 1, "is_bad": 0} for row in random_rows(11, range(1, 8), rows=20)]
FEATURES = ("video_id", "liked", "seen")
ITEMS = {"liked": ("video_id", "author", "price"), "seen": ("user_id",)}


def rows_of(days: Iterable[int]) -> list[Row]:
    """Return the rows of some days."""
    return [row for row in ROWS if day_of(row) in set(days)]


def prepared(
    root: Path,
    rows: list[Row],
    *overrides: str,
    unit: str = "ms",
    append: str | None = None,
    parent: Path | None = None,
) -> Path:
    """Prepare a dataset, or append a day."""
    write(root, rows, unit, text=HELD_OUT + toml(unit))
    options = Options(str(root / "raw"), threads=1, append=append, parent=parent, overrides=overrides)
    prepare(str(root / "histories.toml"), root / "out", options)
    return root / "out"


def predicted(
    root: Path,
    rows: list[Row],
    dataset: Path,
    unit: str = "ms",
    *,
    first: int = 0,
    features: tuple[str, ...] = FEATURES,
    drop: tuple[str, ...] = (),
    text_users: bool = False,
) -> dict[str, dict[int, list[Event]]]:
    """Return the histories of the rows of a log to be predicted, by name and row."""
    write(root, rows, unit, files=2, text=HELD_OUT + toml(unit), text_users=text_users)
    for file in (root / "raw" / "log").iterdir():
        table = pq.read_table(file)
        pq.write_table(table.drop_columns(["is_bad", *drop]), file)
    config = load_config(PrepConfig, dataset / "prep.toml")
    options = InputOptions(str(root / "raw" / "log"), str(root / "raw"), features, ("row",), dataset=dataset, threads=1)
    with open_inputs(config, "prep.toml", options, root / "work", Progress()) as inputs:
        table = pa.concat_tables(inputs.batches(first))
        assert table["__position"].to_pylist() == list(range(first, len(rows)))
        actual = {}
        for name in (name for name in ITEMS if name in features):
            events = inputs.events(name).to_pydict()
            columns = ("id__row", "log_time", f"{name}_begin", f"{name}_end")
            actual[name] = {
                row: [
                    (now - events["log_time"][i], *(events[item][i] for item in ITEMS[name])) for i in range(begin, end)
                ]
                for row, now, begin, end in zip(*(table[column].to_pylist() for column in columns), strict=True)
            }
        return actual


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Dataset of the first days, which has events until day 4."""
    return prepared(tmp_path_factory.mktemp("first"), rows_of(range(1, 5)))


def test_a_log_of_the_next_day_has_the_histories_of_an_appended_day(
    tmp_path: Path, first: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.inputs.read.MAX_BATCH_ROWS", 7)
    rows = rows_of([5])
    actual = predicted(tmp_path, rows, first)
    expected = oracle(ROWS, "ms", 5)
    assert actual == {name: {row["row"]: expected[name][row["row"]] for row in rows} for name in expected}
    assert actual == stored(prepared(tmp_path / "day", rows, append="day=5", parent=first))
    assert predicted(tmp_path / "later", rows, first, first=13) == {
        name: {row["row"]: expected[name][row["row"]] for row in rows[13:]} for name in expected
    }
    # The events of the day itself are part of the histories.
    before = oracle(rows_of(range(1, 5)) + [row | {"is_kept": 0} for row in rows], "ms", 5)
    assert any(before["liked"][row["row"]] != actual["liked"][row["row"]] for row in rows)


@pytest.mark.parametrize("unit", ["s", "date"])
def test_a_log_of_several_days_in_other_units(tmp_path: Path, unit: str) -> None:
    dataset = prepared(tmp_path / "first", rows_of(range(1, 5)), unit=unit)
    rows = rows_of([4, 5, 6])
    expected = oracle(ROWS, unit, 6)
    of_rows = {name: {row["row"]: expected[name][row["row"]] for row in rows} for name in expected}
    assert predicted(tmp_path, rows, dataset, unit) == of_rows


def test_rows_of_the_dataset_have_its_histories_and_are_no_events_again(tmp_path: Path, first: Path) -> None:
    of_dataset, rows = stored(first), rows_of([1, 2, 3, 4])
    actual = predicted(tmp_path, rows, first)
    assert {name: {row: actual[name][row] for row in each} for name, each in of_dataset.items()} == of_dataset


def test_a_log_after_an_appended_day(tmp_path: Path, first: Path) -> None:
    appended = prepared(tmp_path / "day", rows_of([5]), append="day=5", parent=first)
    rows, expected = rows_of([5, 6]), oracle(ROWS, "ms", 6)
    of_rows = {name: {row["row"]: expected[name][row["row"]] for row in rows} for name in expected}
    assert predicted(tmp_path / "next", rows, appended) == of_rows
    with pytest.raises(DataError) as caught:
        predicted(tmp_path / "early", rows_of([5, 4]), appended)
    assert str(caught.value) == (
        f"{tmp_path}/early/raw/log/0.parquet, row group 0, row 0: is of 2022-01-11; histories of a row need the events "
        f"before it, and {appended}, to which days were appended, has those for rows from 2022-01-12 on. Fix: predict "
        "earlier rows with the parent dataset: --set data.path=PARENT"
    )


def test_a_gap_between_dataset_and_log_is_told(tmp_path: Path, first: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "data_prep"):
        predicted(tmp_path / "next", rows_of([5]), first)
        assert not caplog.messages
        predicted(tmp_path / "gap", rows_of([6]), first)
    (message,) = caplog.messages
    assert message.startswith(f"histories of rows of 2022-01-13: {first} has the events until 2022-01-11, and the log ")


def test_a_log_needs_the_columns_of_the_histories_that_the_model_reads(tmp_path: Path, first: Path) -> None:
    rows = rows_of([5])
    assert predicted(tmp_path / "seen", rows, first, features=("video_id", "seen"), drop=("is_like", "price"))
    with pytest.raises(DataError) as caught:
        predicted(tmp_path / "liked", rows, first, features=("video_id", "liked"), drop=("is_like", "price"))
    assert "lacks columns 'is_like', 'price'" in str(caught.value).replace("'price', 'is_like'", "'is_like', 'price'")
    assert "'is_like' for history liked" in str(caught.value)
    assert "'price' for feature price" in str(caught.value)
    assert str(caught.value).endswith("write what is lacking into every file, null where a row has no value")


def test_a_condition_may_read_rates(tmp_path: Path) -> None:
    rate = 'rates=[{name="shown", key=["video_id"], window="1d"}]'
    rates = (rate, "histories[0].where=is_like = 1 and by_video_id.shown_count > 5")
    first = prepared(tmp_path / "first", rows_of(range(1, 5)), *rates)
    appended = prepared(tmp_path / "day", rows_of([5]), *rates, append="day=5", parent=first)
    actual = predicted(tmp_path, rows_of([5]), first)
    assert actual == stored(appended)
    expected = oracle(ROWS, "ms", 5)
    assert actual["seen"] == {row: expected["seen"][row] for row in actual["seen"]}
    assert actual["liked"] != {row: expected["liked"][row] for row in actual["liked"]}
    assert any(actual["liked"].values())
    later = predicted(tmp_path / "later", rows_of([5]), first, first=13)
    assert later == {name: {row: each[row] for row in later[name]} for name, each in actual.items()}


def test_a_key_of_another_type_than_in_the_dataset_is_refused(tmp_path: Path, first: Path) -> None:
    with pytest.raises(DataError) as caught:
        predicted(tmp_path, rows_of([5]), first, features=("liked",), text_users=True)
    assert str(caught.value) == (
        "prep.toml: histories[0].key: user_id now of type string, but int64 in the events of history 'liked'; "
        "later events have the types of the earlier ones. Fix: write the files with the types of the first days"
    )
