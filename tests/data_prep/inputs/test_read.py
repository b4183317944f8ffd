"""Raw logs as a model's inputs: what is read of them, in which order, and what is left unread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ibis.expr.types as ir
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep.engines.duck import DuckEngine
from data_prep.inputs.columns import inputs_config
from data_prep.inputs.read import InputOptions, Inputs, open_inputs
from data_prep.progress import Progress
from data_prep.sources.files import POSITION, RawTable
from data_prep.transforms.resolve import resolve
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError
from tests.data_prep.plain_logs import DAY_ROWS, SIDE, TOML, Logs, day_of


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path, TOML)


@contextmanager
def opened(logs: Logs, features: tuple[str, ...], ids: tuple[str, ...] = (), **options: Any) -> Iterator[Inputs]:
    config = load_config(PrepConfig, logs.toml)
    data = options.pop("data", str(logs.raw / "log"))
    asked = InputOptions(data, str(logs.raw), features, ids, memory=256 << 20, threads=1, **options)
    with open_inputs(config, "plain.toml", asked, logs.root / "work", Progress("plain")) as found:
        yield found


def test_rows_come_in_the_order_of_files_and_from_any_position(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.inputs.read.MAX_BATCH_ROWS", 17)
    whole = pa.concat_tables([day_of(day) for day in range(1, 5)])
    with opened(logs, ("video_id", "price"), ("time_ms", "group")) as found:
        assert found.rows == len(whole)
        rows = pa.concat_tables(found.batches())
        assert rows.column_names == ["__position", "raw__video_id", "price", "id__time_ms", "id__user_id"]
        assert rows["__position"].to_pylist() == list(range(len(whole)))
        assert rows["raw__video_id"].equals(whole["video_id"])
        assert rows["price"].to_pylist() == whole["price"].to_pylist()
        assert rows["id__user_id"].equals(whole["user_id"])
        assert pa.concat_tables(found.batches(40)).equals(rows.slice(40))
        assert found.locate(25).endswith("day 2.parquet, row group 0, row 1")


def test_only_what_the_model_reads_is_needed(logs: Logs) -> None:
    for day in range(1, 5):
        logs.write(day, day_of(day).select(["video_id"]))
    with opened(logs, ("video_id",), ("group", "video_id"), optional_ids=("group", "video_id")) as found:
        assert found.ids == ("video_id",)
        assert sum(map(len, found.batches())) == found.rows
    with (
        pytest.raises(DataError) as caught,
        opened(logs, ("video_id", "price")),
    ):
        pass
    assert str(caught.value) == (
        f"{logs.file(1)}: lacks column 'price'; a prediction reads what training read (plain.toml): 'price' for "
        "feature price. Fix: write what is lacking into every file, null where a row has no value"
    )


def test_the_group_is_the_raw_value_of_its_first_entry_where_the_log_has_it(tmp_path: Path) -> None:
    text = 'group = ["concat(\'u\', user_id)", "time.day"]'
    logs = Logs(tmp_path, TOML.replace('group = "user_id"', text))
    with opened(logs, ("video_id",), ("group", "price"), optional_ids=("group",)) as found:
        assert found.ids == ("group", "price")
        users = pa.concat_tables(found.batches())["id__group"].to_pylist()
    assert users == [f"u{i % 7}" for i in range(96)]
    for day in range(1, 5):
        logs.write(day, day_of(day).drop_columns(["user_id"]))
    with opened(logs, ("video_id",), ("group", "price"), optional_ids=("group",)) as found:
        assert found.ids == ("price",)


def test_a_column_that_is_lacking_is_said_with_all_that_reads_it(tmp_path: Path) -> None:
    derived = '[derived]\ncheap = "price < 1"\n\n[checks]'
    hour = '[[sparse]]\nname = "hour"\nvalue = "time.hour"\n'
    hour += '[[sparse]]\nname = "bargain"\nvalue = "cast(cheap as bigint)"\n'
    toml = TOML.replace("[checks]", derived).replace('files = ["log"]', 'files = ["log"]\nwhere = "duration_ms > 0"')
    logs = Logs(tmp_path, toml + SIDE + hour)
    logs.users([{"user_id": 1, "age": 30}])
    whole = day_of(3)

    def said(table: pa.Table, *features: str, ids: tuple[str, ...] = (), **options: Any) -> str:
        logs.write(3, table)
        with pytest.raises(DataError) as caught, opened(logs, features, ids, **options):
            pass
        assert str(caught.value).startswith(f"{logs.file(3)}: lacks column")
        return str(caught.value).partition("(plain.toml): ")[2]

    written = "Fix: write what is lacking into every file, null where a row has no value"
    assert said(whole.drop_columns(["user_id", "price"]), "age", "price", "bargain") == (
        f"'user_id' for feature age; 'price' for feature bargain, feature price. {written}"
    )
    assert said(whole.drop_columns(["time_ms"]), "video_id", "hour") == f"'time_ms' for feature hour. {written}"
    assert said(whole.rename_columns({"price": "prices"}), "price") == (
        "'price' for feature price. Fix: if 'prices' is meant, rename it; " + written.replace("Fix: ", "else ")
    )
    assert said(whole.drop_columns(["duration_ms"]), "price") == (
        "'duration_ms' for log.where. Fix: write the column into every file, or pass --all-rows"
    )
    assert said(whole.drop_columns(["price"]), "video_id", ids=("price",)) == (
        "'price' for --ids price. Fix: leave it out of --ids"
    )
    logs.write(3, whole)
    logs.users([{"user": 1, "age": 30}])
    users = "users.parquet: lacks column 'user_id'; .*: 'user_id' for feature age"
    with pytest.raises(DataError, match=users), opened(logs, ("age",)):
        pass


def test_a_group_that_is_a_column_has_its_name_once(tmp_path: Path) -> None:
    user = '[[sparse]]\nname = "user_id"\nvalue = "user_id"\n'
    other = user.replace('value = "user_id"', 'value = "user_id % 2"')
    for i, (group, feature, ids, names) in enumerate(
        [
            ("user_id", "", ("group",), ["user_id"]),
            ("user_id", "", ("group", "user_id", "video_id"), ["user_id", "video_id"]),
            ('\\"user_id\\"', user, ("video_id", "user_id", "group"), ["video_id", "user_id"]),
            ("user_id % 3", user, ("group", "user_id"), ["group", "user_id"]),
            ("user_id", other, ("group", "user_id"), ["group", "user_id"]),
        ]
    ):
        logs = Logs(tmp_path / str(i), TOML.replace('group = "user_id"', f'group = "{group}"') + feature)
        with opened(logs, ("price",), ids) as found:
            assert list(found.ids) == names
            rows = pa.concat_tables(found.batches())
        whole = pa.concat_tables([day_of(day) for day in range(1, 5)])["user_id"].to_pylist()
        group_column = "id__group" if "group" in names else "id__user_id"
        assert rows[group_column].to_pylist() == [user % 3 if "%" in group else user for user in whole]


@pytest.mark.parametrize("kind", [pa.timestamp("ms", "+08:00"), pa.timestamp("ns", "Asia/Tokyo"), pa.timestamp("us")])
def test_times_come_as_they_stand_in_the_log(logs: Logs, kind: pa.DataType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.inputs.read.MAX_BATCH_ROWS", 17)
    for day in range(1, 5):
        times = day_of(day)["time_ms"].cast(pa.timestamp("ms", kind.tz)).cast(kind)
        if day == 3 and kind.tz is not None:
            times = times.cast(pa.timestamp(kind.unit, "Europe/Paris"))  # the same instants
        logs.write(day, day_of(day).append_column("at", times))
    toml = logs.toml.read_text().replace("[[sparse]]", '[carry]\nshown_at = "at"\n\n[[sparse]]', 1)
    logs.toml.write_text(toml.replace('files = ["log"]', 'files = ["log"]\nwhere = "duration_ms % 200 = 0"'))
    with opened(logs, ("video_id",), ("at", "shown_at", "price")) as found:
        rows = pa.concat_tables(found.batches())
    stand = (
        pa.concat_tables([day_of(day) for day in range(1, 5)])["time_ms"].cast(pa.timestamp("ms", kind.tz)).cast(kind)
    )
    kept = rows["__position"]
    assert kept.to_pylist() == list(range(0, 96, 2))
    for name in ("id__at", "id__shown_at"):
        assert rows.schema.field(name).type == kind
        assert rows[name].combine_chunks().equals(stand.take(kept).combine_chunks())


def test_times_of_a_text_file_come_as_their_text(logs: Logs, tmp_path: Path) -> None:
    texts = [f"2022-04-15T0{i}:00:00+08:00" if i % 3 else None for i in range(8)]
    lines = [f"v{i},{text or ''},{i}" for i, text in enumerate(texts)]
    (tmp_path / "new.csv").write_text("\n".join(["video_id,at,price", *lines]) + "\n")
    time = '[time]\nvalue = "at"\nunit = "timestamp"'
    logs.toml.write_text(TOML.replace('[time]\nvalue = "time_ms"\nunit = "ms"', time))
    with opened(logs, ("video_id",), ("at", "price"), data=str(tmp_path / "new.csv")) as found:
        rows = pa.concat_tables(found.batches())
    assert rows["id__at"].to_pylist() == texts
    assert rows["id__price"].to_pylist() == list(range(8))


def test_what_no_feature_reads_is_left_out(tmp_path: Path) -> None:
    derived = '[derived]\na = "price + 1"\nb = "a * 2"\n\n[checks]'
    (tmp_path / "plain.toml").write_text(TOML.replace("[checks]", derived) + SIDE)
    config = load_config(PrepConfig, tmp_path / "plain.toml")
    plain = resolve(inputs_config(config, ["video_id"], {}), "plain.toml")
    assert plain.log_columns == ("video_id",)
    assert (plain.config.time, plain.config.sides, plain.config.derived) == (None, {}, {})
    sided = resolve(inputs_config(config, ["age"], {"twice": "b", "hour": "time.hour"}), "plain.toml")
    assert sorted(sided.log_columns) == ["price", "time_ms", "user_id"]
    assert list(sided.config.derived) == ["a", "b"]
    assert sided.config.time == config.time
    assert list(sided.config.sides) == ["users"]
    assert (sided.config.tasks, sided.config.checks, sided.config.group) == ((), {}, None)


def test_a_file_that_is_replaced_meanwhile_is_noticed(logs: Logs) -> None:
    with opened(logs, ("video_id",)) as found:
        list(found.batches())
        found.check_unchanged()
        logs.write(2, day_of(2).slice(1))
        with pytest.raises(DataError, match=r"day 2.parquet: it has changed while it was read"):
            found.check_unchanged()


def test_a_file_that_breaks_off_meanwhile_has_changed(logs: Logs) -> None:
    with opened(logs, ("video_id",)) as found:
        logs.file(2).write_bytes(logs.file(2).read_bytes()[:-200])
        with pytest.raises(
            DataError, match=r"day 2.parquet: it has changed while it was read; .* --overwrite when noth"
        ):
            list(found.batches())


def test_rows_of_a_log_with_columns_of_the_names_of_duckdbs(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("data_prep.inputs.read.MAX_BATCH_ROWS", 17)
    for day in range(1, 5):
        every_other = pa.array(range(0, 2 * DAY_ROWS, 2))
        logs.write(
            day, day_of(day).append_column("file_row_number", every_other).append_column("file_index", every_other)
        )
    with opened(logs, ("price",), ("file_row_number",)) as found:
        rows = pa.concat_tables(found.batches())
    assert rows["__position"].to_pylist() == list(range(4 * DAY_ROWS))
    assert rows["price"].to_pylist() == [i / 4 for i in range(4 * DAY_ROWS)]
    assert rows["id__file_row_number"].to_pylist() == list(range(0, 2 * DAY_ROWS, 2)) * 4


def test_rows_that_an_engine_loses_are_missed(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = DuckEngine.scan

    def lose(self: DuckEngine, table: RawTable, *arguments: Any) -> ir.Table:
        rows = scan(self, table, *arguments)
        return rows.filter(rows[POSITION] != 30)

    monkeypatch.setattr(DuckEngine, "scan", lose)
    message = r"day 1.parquet, row group 0, row 0 and the rows after it: 95 rows were read; the footers count 96"
    with opened(logs, ("price",)) as found, pytest.raises(DataError, match=message):
        list(found.batches())


def test_one_batch_without_rows_comes_of_an_empty_log(logs: Logs, tmp_path: Path) -> None:
    pq.write_table(day_of(1).slice(0, 0), tmp_path / "empty.parquet")
    with opened(logs, ("video_id",), data=str(tmp_path / "empty.parquet")) as found:
        (batch,) = found.batches()
        assert len(batch) == 0
        assert batch.column_names == ["__position", "raw__video_id"]
