"""Raw logs as a model's inputs: what is read of them, in which order, and what is left unread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_prep import inputs
from data_prep.input_columns import inputs_config
from data_prep.inputs import Asked, Inputs, open_inputs
from data_prep.progress import Progress
from data_prep.resolve import resolve
from ple_rec.config.load import load_config
from ple_rec.config.prep import PrepConfig
from ple_rec.errors import DataError
from tests.data_prep.plain_logs import SIDE, TOML, Logs, day_of


@pytest.fixture
def logs(tmp_path: Path) -> Logs:
    return Logs(tmp_path, TOML)


@contextmanager
def opened(logs: Logs, features: tuple[str, ...], ids: tuple[str, ...] = (), **options: Any) -> Iterator[Inputs]:
    config = load_config(PrepConfig, logs.toml)
    data = options.pop("data", str(logs.raw / "log"))
    asked = Asked(data, str(logs.raw), features, ids, memory=256 << 20, threads=1, **options)
    with open_inputs(config, "plain.toml", asked, logs.root / "work", Progress("plain")) as found:
        yield found


def test_rows_come_in_the_order_of_files_and_from_any_position(logs: Logs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "UNIT_ROWS", 17)
    whole = pa.concat_tables([day_of(day) for day in range(1, 5)])
    with opened(logs, ("video_id", "price"), ("time_ms", "group")) as found:
        assert found.rows == len(whole)
        rows = pa.concat_tables(found.batches())
        assert rows.column_names == ["__position", "raw__video_id", "price", "id__time_ms", "id__group"]
        assert rows["__position"].to_pylist() == list(range(len(whole)))
        assert rows["raw__video_id"].equals(whole["video_id"])
        assert rows["price"].to_pylist() == whole["price"].to_pylist()
        assert rows["id__group"].equals(whole["user_id"])
        assert pa.concat_tables(found.batches(40)).equals(rows.slice(40))
        assert found.locate(25).endswith("day 2.parquet, row group 0, row 1")


def test_only_what_the_model_reads_is_needed(logs: Logs) -> None:
    for day in range(1, 5):
        logs.write(day, day_of(day).select(["video_id"]))
    with opened(logs, ("video_id",), ("group", "video_id"), if_there=True) as found:
        assert found.ids == ("video_id",)
        assert sum(map(len, found.batches())) == found.rows
    with (
        pytest.raises(DataError, match=r"column 'price': there is no such column; plain.toml: dense\[0\].value"),
        opened(logs, ("video_id", "price")),
    ):
        pass


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


def test_one_batch_without_rows_comes_of_an_empty_log(logs: Logs, tmp_path: Path) -> None:
    pq.write_table(day_of(1).slice(0, 0), tmp_path / "empty.parquet")
    with opened(logs, ("video_id",), data=str(tmp_path / "empty.parquet")) as found:
        (batch,) = found.batches()
        assert len(batch) == 0
        assert batch.column_names == ["__position", "raw__video_id"]
